"""Gives a collection another model's vectors, in the background and without a gap.

The new vectors are built in a collection beside the old one, checked, and switched in by one
exchange of names while searches go on; writes wait. A job is written down before anything is made
for it and until all that was made is gone, so it survives a kill at any step: whichever worker
finds one that nobody runs goes on where it stopped. A store that is away is waited for.
"""

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace

from documents.jobs import Job, Jobs, check_room, passes
from engine import EmbedRequest, Engine
from errors import (
    Busy,
    Conflict,
    Invalid,
    NotFound,
    ServiceError,
)
from store import Item, Record, VectorStore
from store.base import SUCCESSOR, successor

log = logging.getLogger("reembed")

# Texts per step: what a kill can cost, and what one step holds in memory.
STEP = 256
# So long may the first look at the jobs hold up a start.
FIRST_LOOK_S = 0.5
RETRY_S = 1.0
# Of a minute's texts: a larger step would hardly find room beside what else its caller embeds.
SHARE = 10
WAIT_S = 5.0  # for the caller's texts, until it is looked whether the job is still wanted
STARTING = "starting"  # claimed by who writes a new job down, or takes away what no job made


class Reembedder:
    """Runs re-embedding jobs, one thread a job, one job a collection."""

    def __init__(
        self, engine: Engine, store: VectorStore,
        count: Callable[[str, int, int], float] = lambda by, texts, most: 0.0,
    ) -> None:  # fmt: skip
        """`count` counts texts for a caller; it returns 0, or when to try again, in seconds."""
        self._engine, self._count = engine, count
        self._store = store
        self._jobs = Jobs(store)
        self._stop = threading.Event()

    def start(
        self, name: str, model: str, by: str | None = None, pace: int = 0,
        admit: Callable[[int], None] = lambda texts: None,
    ) -> Job:  # fmt: skip
        """Begin to re-embed a collection. Raises Conflict if that is under way already.

        `pace` is how many texts a minute whoever begins it (`by`) may have embedded: the job's are
        counted as theirs, however long that takes. `admit` may refuse its first minute.
        """
        info = self._store.info(name)
        found = self._engine.registry.get(model)
        if info.fingerprint == found.loaded.facts.fingerprint:
            raise Invalid(f"collection {name!r} holds vectors of {model!r} already", param="model")
        id_, now = uuid.uuid4().hex, time.time()
        first = min(info.count, pace) if pace else info.count
        job = Job(id_, info.name, info.uuid, found.spec.id, total=info.count, created=now,
                  updated=now, asked=name, by=by, pace=pace, counted=first)  # fmt: skip
        with self._jobs.claimed(STARTING) as mine:
            if not mine:
                raise Busy("another job is being started; send it again", retry_after_s=1)
            running = self._jobs.running()
            if any(each.source == info.uuid for each in running):
                raise Conflict(f"collection {name!r} is being re-embedded already; see GET /jobs")
            check_room(job, running)
            admit(first)
            self._jobs.save(job)
        self._run_aside(job.id)
        return job

    def jobs(self) -> list[Job]:
        """Return every job that is remembered, the newest first."""
        return self._jobs.all()

    def get(self, id_: str) -> Job:
        """Return one job; one that nobody runs is taken up again."""
        job = self._jobs.load(id_)
        if job.state == "running":
            self._run_aside(id_)
        return job

    def load(self, id_: str) -> Job:
        """Return one job as it is written down."""
        return self._jobs.load(id_)

    def forget(self, job: Job) -> None:
        """Stop a job that is running, and remember it no longer."""
        self._jobs.forget(job)

    def resume(self) -> None:
        """Take up what was running when a process ended. Called at start."""
        first = threading.Thread(target=self._resume, name="reembed-resume", daemon=True)
        first.start()
        first.join(FIRST_LOOK_S)  # a store that hangs is waited for aside

    def stop(self) -> None:
        """Let running jobs end after their step; they go on at the next start."""
        self._stop.set()

    def _resume(self) -> None:
        while not self._stop.is_set():
            try:
                self._sweep()
                for job in self._jobs.running():
                    self._run_aside(job.id)
                return
            except ServiceError as exc:
                if not passes(exc):
                    log.warning("jobs were not taken up: %s", exc.message)
                    return
                self._stop.wait(exc.retry_after_s or RETRY_S)

    def _sweep(self) -> None:
        """Take away what was being built and no job builds any more: it would refuse writes."""
        if not any(name.startswith(SUCCESSOR) for name in self._store.names()):
            return
        with self._jobs.claimed(STARTING) as mine:  # so that no job begins between the two looks
            if not mine:  # another process starts and looks, too
                return
            built = {name for name in self._store.names() if name.startswith(SUCCESSOR)}
            for name in built - {successor(job.source) for job in self._jobs.running()}:
                log.warning("%s belongs to no job and is dropped", name)
                self._drop(name)

    # -- running ---------------------------------------------------------------------------------

    def _run_aside(self, id_: str) -> None:
        name = f"reembed-{id_[:8]}"
        if not any(thread.name == name for thread in threading.enumerate()):
            threading.Thread(target=self._run, args=(id_,), name=name, daemon=True).start()

    def _run(self, id_: str) -> None:
        """Work on a job until it has ended, the service stops, or another process has it."""
        while not self._stop.is_set():
            try:
                with self._jobs.claimed(id_) as mine:
                    job = self._jobs.load(id_)
                    if mine and job.state == "running":
                        self._attempt(job)
                    return
            except NotFound:
                log.info("job %s was stopped", id_)
                return
            except ServiceError as exc:
                if not passes(exc):
                    log.error("job %s cannot go on: %s", id_, exc.message)
                    return
                log.warning("job %s waits: %s", id_, exc.message)
                self._stop.wait(exc.retry_after_s or RETRY_S)

    def _attempt(self, job: Job) -> None:
        """Work on a job to its end; raises only what passes by itself."""
        try:
            self._work(job)
        except ServiceError as exc:
            if passes(exc):
                with contextlib.suppress(ServiceError):  # most likely what was raised again
                    self._jobs.save(replace(self._jobs.load(job.id), error=exc.message))
                raise
            self._fail(job, exc.message)
        except Exception as exc:
            log.exception("job %s failed", job.id)
            self._fail(job, f"an unexpected {type(exc).__name__}; the log has it")

    def _work(self, job: Job) -> None:
        """Make, build, check, switch, tidy. Each step may have been done by an earlier run."""
        target = successor(job.source)
        now = self._store.identity(job.collection).uuid
        if now == job.source:
            self._wait_for_model(job.model)
            job = self._make(job, target)
            self._store.wait_for_writers(job.collection)  # from here on they are refused
            job, whole = self._build(job, target)
            if not whole:
                return
            self._check(job.collection, target)
            self._store.swap(job.collection, target, job.source)
        elif now != job.target:
            raise NotFound(
                "the collection was dropped or replaced meanwhile; nothing was re-embedded"
            )
        self._drop(target)  # the old vectors, which have that name now
        log.info("collection %s holds vectors of %s now", job.collection, job.model)
        self._jobs.save(replace(job, state="done", error=None, updated=time.time()))

    def _make(self, job: Job, target: str) -> Job:
        """Return the job with a collection for its vectors; one that it did not note is no use."""
        model = self._engine.registry.get(job.model)
        facts = model.loaded.facts
        with contextlib.suppress(NotFound):
            there = self._store.identity(target)
            if (there.uuid, there.fingerprint) == (job.target, facts.fingerprint):
                return job
        self._jobs.load(job.id)  # it is still wanted
        self._drop(target)
        info = self._store.info(job.collection)
        made, _ = self._store.create(
            target, facts.dimension, info.metric, model.spec.model_name, facts.fingerprint,
            indexed=info.indexed,
        )  # fmt: skip
        job = replace(job, target=made.uuid, done=0, cursor=None, total=info.count,
                      counted=max(0, job.counted - job.done))  # fmt: skip
        self._jobs.save(job)
        return job

    def _build(self, job: Job, target: str) -> tuple[Job, bool]:
        """Embed what is not embedded yet; return the job, and whether that was all."""
        while not self._stop.is_set():
            step = min(STEP, max(1, job.pace // SHARE)) if job.pace else STEP
            page = self._store.scroll(job.collection, job.cursor, step, None, ("text", "metadata"))
            done = job.done + len(page.records)
            if page.records:
                if not self._counts(job, min(done - job.counted, len(page.records))):
                    break
                self._step(job, page.records, target)
            last = page.records[-1].id if page.records else job.cursor
            total = done if page.next_cursor is None else job.total
            job = replace(job, done=done, cursor=last, total=total, error=None,
                          counted=max(job.counted, done), updated=time.time())  # fmt: skip
            self._jobs.save(job)
            if page.next_cursor is None:
                return job, True
        return job, False

    def _counts(self, job: Job, texts: int) -> bool:
        """Count more texts as the caller's, once their limit allows; tell whether it came to that.

        Raises NotFound if the job is not wanted any more.
        """
        while texts > 0 and job.pace:
            wait_s = self._count(job.by or job.id, texts, job.pace)
            if not wait_s:
                break
            if self._stop.wait(min(wait_s, WAIT_S)):
                return False
            self._jobs.load(job.id)
        return True

    def _step(self, job: Job, records: list[Record], target: str) -> None:
        textless = [record.id for record in records if record.text is None]
        if textless:
            raise Invalid(
                f"{textless[0][:64]!r} and maybe others have no text to embed: "
                "only texts stored with their vectors can be re-embedded"
            )
        texts = [record.text or "" for record in records]
        request = EmbedRequest(texts, job.model, role="document")
        vectors = self._engine.embed(request).vectors
        rows = zip(records, vectors, strict=True)
        items = [Item(r.id, v, r.text, r.metadata or {}) for r, v in rows]
        self._store.upsert(target, items, uuid=job.target)

    def _check(self, name: str, target: str) -> None:
        """Compare all but the vectors, page by page. Raises Conflict when something differs."""
        cursor: str | None = None
        while True:
            old = self._store.scroll(name, cursor, 1000, None, ("text", "metadata"))
            new = self._store.scroll(target, cursor, 1000, None, ("text", "metadata"))
            if old.records != new.records:
                raise Conflict("the new records do not match the old ones; nothing was switched")
            if old.next_cursor is None:
                return
            cursor = old.next_cursor

    def _wait_for_model(self, model: str) -> None:
        """Wait while the model loads, as it does after a restart."""
        while self._engine.registry.get(model).state == "loading" and not self._stop.wait(0.1):
            pass
        _ = self._engine.registry.get(model).loaded

    def _fail(self, job: Job, reason: str) -> None:
        """End a job that cannot be done, if it is still wanted; first let writes go on."""
        latest = self._jobs.load(job.id)
        self._drop(successor(job.source))
        self._jobs.save(replace(latest, state="failed", error=reason, updated=time.time()))
        log.warning("job %s failed: %s", job.id, reason)

    def _drop(self, name: str) -> None:
        with contextlib.suppress(NotFound):
            self._store.drop(name)
