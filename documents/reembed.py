"""Replaces a collection's vectors by another model's, in the background and without a gap.

The new vectors are built in a collection next to the old one, checked, and switched in by one
exchange of names. Searches go on meanwhile; writes wait. A job is written down before anything is
made for it and until everything temporary is removed, so it survives a kill at any step: any worker
that finds a job without a runner continues it. While the store is down it waits.
"""

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace

from documents.jobs import Job, Jobs, check_room, is_temporary
from embedders.base import DENSE
from engine import EmbedRequest, Engine
from errors import Busy, Conflict, Invalid, NotFound, ServiceError
from serving.selection import select
from store import Item, Record, VectorStore
from store.base import SUCCESSOR, successor

log = logging.getLogger("reembed")

# Texts per step: what a kill can cost, and what a step holds in memory.
STEP = 256
# With a limit a step is this part of a minute's texts: more would not fit beside the caller's other
# requests.
SHARE = 10
START_WAIT_S = 0.5  # a start waits so long for the first look at the jobs
RETRY_S = 1.0
CHECK_S = 5.0  # a job that waits for its limit checks so often whether it still exists
STARTING = "starting"  # claimed to write a new job, or to remove leftovers


class Reembedder:
    """Runs re-embedding jobs: a thread for each, one for each collection."""

    def __init__(
        self, engine: Engine, store: VectorStore,
        count: Callable[[str, int, int], float] = lambda by, texts, most: 0.0,
    ) -> None:  # fmt: skip
        """`count(caller, texts, most)` counts texts; it returns 0, or the seconds to wait."""
        self._engine, self._count = engine, count
        self._store = store
        self.jobs = Jobs(store)
        self._stop = threading.Event()

    def start(
        self, name: str, model: str, by: str | None = None, pace: int = 0,
        admit: Callable[[int], None] = lambda texts: None,
    ) -> Job:  # fmt: skip
        """Start to re-embed a collection. Raises Conflict if that is running, QueueFull, Invalid.

        The texts are counted as those of the caller `by`, who may embed `pace` of them a minute.
        `admit` may refuse the first minute's.
        """
        info = self._store.info(name)
        found, loaded = select(self._engine.registry, model, DENSE)
        if info.fingerprint == loaded.facts.fingerprint:
            raise Invalid(f"collection {name!r} holds vectors of {model!r} already", param="model")
        id_, now = uuid.uuid4().hex, time.time()
        first = min(info.count, pace) if pace else info.count
        job = Job(id_, info.name, info.uuid, found.spec.id, total=info.count, created=now,
                  updated=now, asked=name, by=by, pace=pace, counted=first)  # fmt: skip
        with self._store.notes.claimed(STARTING) as mine:
            if not mine:
                raise Busy("another job is being started; send it again", retry_after_s=1)
            running = self.jobs.running()
            if any(each.source == info.uuid for each in running):
                raise Conflict(f"collection {name!r} is being re-embedded already: see GET /jobs")
            check_room(job, running)
            admit(first)
            self.jobs.save(job)
        self._run_aside(job.id)
        return job

    def get(self, id_: str) -> Job:
        """Return a job, and continue it if it has no runner. Raises NotFound."""
        job = self.jobs.load(id_)
        if job.state == "running":
            self._run_aside(id_)
        return job

    def resume(self) -> None:
        """Continue the jobs that ran when a process ended. Waits a moment, not for a slow store."""
        first = threading.Thread(target=self._resume, name="reembed-resume", daemon=True)
        first.start()
        first.join(START_WAIT_S)

    def stop(self) -> None:
        """Stop all jobs after their step; they continue at the next start."""
        self._stop.set()

    def _resume(self) -> None:
        while not self._stop.is_set():
            try:
                self._sweep()
                for job in self.jobs.running():
                    self._run_aside(job.id)
                return
            except ServiceError as exc:
                if not is_temporary(exc):
                    log.warning("jobs are not continued: %s", exc.message)
                    return
                self._stop.wait(exc.retry_after_s or RETRY_S)

    def _sweep(self) -> None:
        """Drop successors that no job builds any more: they would block writes."""
        if not any(name.startswith(SUCCESSOR) for name in self._store.names()):
            return
        # So that no job begins between the two looks.
        with self._store.notes.claimed(STARTING) as mine:
            if not mine:  # another process does this
                return
            built = {name for name in self._store.names() if name.startswith(SUCCESSOR)}
            for name in built - {successor(job.source) for job in self.jobs.running()}:
                log.warning("%s belongs to no job: it is dropped", name)
                self._drop(name)

    # ---- running

    def _run_aside(self, id_: str) -> None:
        name = f"reembed-{id_[:8]}"
        if not any(thread.name == name for thread in threading.enumerate()):
            threading.Thread(target=self._run, args=(id_,), name=name, daemon=True).start()

    def _run(self, id_: str) -> None:
        """Work on a job until it ends, the service stops, or another process has it."""
        while not self._stop.is_set():
            try:
                with self._store.notes.claimed(id_) as mine:
                    job = self.jobs.load(id_)
                    if mine and job.state == "running":
                        self._attempt(job)
                    return
            except NotFound:
                log.info("job %s was stopped", id_)
                return
            except ServiceError as exc:
                if not is_temporary(exc):
                    log.error("job %s cannot continue: %s", id_, exc.message)
                    return
                log.warning("job %s waits: %s", id_, exc.message)
                self._stop.wait(exc.retry_after_s or RETRY_S)

    def _attempt(self, job: Job) -> None:
        """Work on a job to its end. Raises only temporary errors."""
        try:
            self._work(job)
        except ServiceError as exc:
            if is_temporary(exc):
                with contextlib.suppress(ServiceError):  # most likely the same one
                    self.jobs.save(replace(self.jobs.load(job.id), error=exc.message))
                raise
            self._fail(job, exc.message)
        except Exception as exc:
            log.exception("job %s failed", job.id)
            self._fail(job, f"an unexpected {type(exc).__name__}: see the service's log")

    def _work(self, job: Job) -> None:
        """Create, build, check, switch, clean up. An earlier run may have done some of it."""
        target = successor(job.source)
        now = self._store.identity(job.collection).uuid
        if now == job.source:
            registry = self._engine.registry
            while registry.get(job.model).state == "loading" and not self._stop.wait(0.1):
                pass  # as after a restart; `_make` raises if it cannot be loaded
            job = self._make(job, target)
            self._store.wait_for_writers(job.collection)  # from here on they are refused
            job, whole = self._build(job, target)
            if not whole:
                return
            self._check(job.collection, target)
            self._store.swap(job.collection, target, job.source)
        elif now != job.target:
            raise NotFound(
                "the collection was dropped or replaced meanwhile: nothing was re-embedded"
            )
        self._drop(target)  # the old vectors, which have that name now
        log.info("collection %s holds vectors of %s now", job.collection, job.model)
        self.jobs.save(replace(job, state="done", error=None, updated=time.time()))

    def _make(self, job: Job, target: str) -> Job:
        """Return the job with a collection for its vectors; one it has not noted is dropped."""
        model, loaded = select(self._engine.registry, job.model, DENSE)
        facts = loaded.facts
        del loaded  # the steps take it themselves
        with contextlib.suppress(NotFound):
            there = self._store.identity(target)
            if (there.uuid, there.fingerprint) == (job.target, facts.fingerprint):
                return job
        self.jobs.load(job.id)  # raises if it was removed
        self._drop(target)
        info = self._store.info(job.collection)
        made, _ = self._store.create(
            target, facts.dimension, info.metric, model.spec.model_name, facts.fingerprint,
            indexed=info.indexed,
        )  # fmt: skip
        job = replace(job, target=made.uuid, done=0, cursor=None, total=info.count,
                      counted=max(0, job.counted - job.done))  # fmt: skip
        self.jobs.save(job)
        return job

    def _build(self, job: Job, target: str) -> tuple[Job, bool]:
        """Embed the rest of the texts; return the job, and whether all are done."""
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
            self.jobs.save(job)
            if page.next_cursor is None:
                return job, True
        return job, False

    def _counts(self, job: Job, texts: int) -> bool:
        """Count texts as the caller's once the limit allows; return False if the service stops.

        Raises NotFound if the job was removed.
        """
        while texts > 0 and job.pace:
            wait_s = self._count(job.by or job.id, texts, job.pace)
            if not wait_s:
                break
            if self._stop.wait(min(wait_s, CHECK_S)):
                return False
            self.jobs.load(job.id)
        return True

    def _step(self, job: Job, records: list[Record], target: str) -> None:
        textless = [record.id for record in records if record.text is None]
        if textless:
            raise Invalid(
                f"{textless[0][:64]!r} and maybe others have no text: "
                "only records stored with their texts can be re-embedded"
            )
        texts = [record.text or "" for record in records]
        request = EmbedRequest(texts, job.model, role="document", lane="bulk")
        vectors = self._engine.embed(request).vectors
        rows = zip(records, vectors, strict=True)
        items = [Item(r.id, v, r.text, r.metadata or {}) for r, v in rows]
        self._store.upsert(target, items, uuid=job.target)

    def _check(self, name: str, target: str) -> None:
        """Compare all but the vectors. Raises Conflict if something differs."""
        cursor: str | None = None
        while True:
            old = self._store.scroll(name, cursor, 1000, None, ("text", "metadata"))
            new = self._store.scroll(target, cursor, 1000, None, ("text", "metadata"))
            if old.records != new.records:
                raise Conflict("the new records do not match the old ones: nothing was switched")
            if old.next_cursor is None:
                return
            cursor = old.next_cursor

    def _fail(self, job: Job, reason: str) -> None:
        """End a job that cannot be done; its successor goes first, so that writes go on."""
        latest = self.jobs.load(job.id)
        self._drop(successor(job.source))
        self.jobs.save(replace(latest, state="failed", error=reason, updated=time.time()))
        log.warning("job %s failed: %s", job.id, reason)

    def _drop(self, name: str) -> None:
        with contextlib.suppress(NotFound):
            self._store.drop(name)
