"""Gives a collection another model's vectors, in the background and without a gap.

The new vectors are built in a collection beside the old one, checked, and switched in by one
exchange of names while searches go on; writes wait. A job is a small file, so that it survives a
kill: whichever worker finds one that nobody runs goes on where it stopped.
"""

import contextlib
import fcntl
import json
import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from engine import EmbedRequest, Engine
from errors import Conflict, Invalid, NotFound, ServiceError, TooMany, Unavailable
from library import reembedding_name
from store import CollectionInfo, Item, Record, VectorStore

log = logging.getLogger("reembed")

# Texts per step: what a kill can cost, and what one step holds in memory.
STEP = 256
JOB_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Job:
    """A re-embedding: what it is about and how far it is."""

    id: str
    collection: str
    source: str  # the uuid of the collection whose vectors are replaced
    model: str
    state: Literal["running", "done", "failed"] = "running"
    done: int = 0
    total: int = 0
    cursor: str | None = None
    error: str | None = None
    created: float = 0.0
    updated: float = 0.0


class Reembedder:
    """Runs re-embedding jobs, one thread a job, one job a collection."""

    def __init__(self, engine: Engine, store: VectorStore, folder: Path) -> None:
        self._engine = engine
        self._store = store
        self._folder = folder
        self._stop = threading.Event()

    def start(self, name: str, model: str) -> Job:
        """Begin to re-embed a collection. Raises Conflict if that is under way already."""
        info = self._store.info(name)
        loaded = self._engine.registry.get(model).loaded
        if info.fingerprint == loaded.facts.fingerprint:
            raise Invalid(f"collection {name!r} holds vectors of {model!r} already", param="model")
        spec = self._engine.registry.get(model).spec
        _, new = self._store.create(
            reembedding_name(info), loaded.facts.dimension, info.metric,
            spec.model_name, loaded.facts.fingerprint, if_exists="ok",
        )  # fmt: skip
        if not new:
            raise Conflict(f"collection {name!r} is being re-embedded already; see GET /jobs")
        now = time.time()
        job = Job(uuid.uuid4().hex, info.name, info.uuid, spec.id, total=info.count, created=now)
        self._save(job)
        self._run_aside(job.id)
        return job

    def jobs(self) -> list[Job]:
        """Return every job, the newest first."""
        found = [self._load(path) for path in self._folder.glob("*.json")]
        return sorted(found, key=lambda job: -job.created)

    def get(self, id_: str) -> Job:
        """Return one job; one that nobody runs is taken up again."""
        path = self._folder / f"{id_}.json"
        if not JOB_ID.fullmatch(id_) or not path.is_file():
            raise NotFound(f"no job {id_[:64]!r}")
        job = self._load(path)
        if job.state == "running":
            self._run_aside(id_)
        return job

    def resume(self) -> None:
        """Take up what was running when a process ended. Called at start."""
        for job in self.jobs() if self._folder.is_dir() else []:
            if job.state == "running":
                self._run_aside(job.id)

    def stop(self) -> None:
        """Let running jobs end after their step; they go on at the next start."""
        self._stop.set()

    # -- running ---------------------------------------------------------------------------------

    def _run_aside(self, id_: str) -> None:
        name = f"reembed-{id_[:8]}"
        if not any(thread.name == name for thread in threading.enumerate()):
            threading.Thread(target=self._run, args=(id_,), name=name, daemon=True).start()

    def _run(self, id_: str) -> None:
        with self._claimed(id_) as mine:
            if not mine:
                return
            job = self._load(self._folder / f"{id_}.json")
            try:
                if job.state == "running":
                    self._save(self._work(job))
            except ServiceError as exc:
                self._fail(job, exc.message)
            except Exception as exc:
                log.exception("job %s failed", id_)
                self._fail(job, f"an unexpected {type(exc).__name__}; the log has it")

    def _work(self, job: Job) -> Job:
        """Build, check, switch, tidy. Each step may have been done by an earlier run."""
        target = f"reembed.{job.source}"
        info = self._store.info(job.collection)
        if info.uuid == job.source:
            self._wait_for_model(job.model)
            job = self._build(job, info, target)
            if job.done < job.total or self._stop.is_set():
                return job
            self._check(info, target)
            self._store.swap(info.name, target)
        with contextlib.suppress(NotFound):
            self._store.drop(target)  # the old vectors, which have that name now
        log.info("collection %s holds vectors of %s now", job.collection, job.model)
        return replace(job, state="done", updated=time.time())

    def _build(self, job: Job, info: CollectionInfo, target: str) -> Job:
        while not self._stop.is_set():
            page = self._store.scroll(info.name, job.cursor, STEP, None, ("text", "metadata"))
            if page.records:
                self._step(job.model, page.records, target)
            done = job.done + len(page.records)
            last = page.records[-1].id if page.records else job.cursor
            job = replace(job, done=done, cursor=last, updated=time.time())
            if page.next_cursor is None:
                job = replace(job, total=done)
                self._save(job)
                return job
            self._save(job)
        return job

    def _step(self, model: str, records: list[Record], target: str) -> None:
        textless = [record.id for record in records if record.text is None]
        if textless:
            raise Invalid(
                f"{textless[0][:64]!r} and maybe others have no text to embed: "
                "only texts stored with their vectors can be re-embedded"
            )
        texts = [record.text or "" for record in records]
        request = EmbedRequest(texts, model)
        prompts = self._engine.registry.get(model).loaded.facts.prompts
        if "document" in prompts:
            request = replace(request, prompt_name="document")
        while True:
            try:
                vectors = self._engine.embed(request).vectors
                break
            except TooMany as exc:  # callers come first
                self._stop.wait(exc.retry_after_s or 1)
        rows = zip(records, vectors, strict=True)
        self._store.upsert(target, [Item(r.id, v, r.text, r.metadata or {}) for r, v in rows])

    def _check(self, info: CollectionInfo, target: str) -> None:
        """Compare the ids of both, page by page. Raises Unavailable when they differ."""
        cursor: str | None = None
        while True:
            old = self._store.scroll(info.name, cursor, 1000, None, ())
            new = self._store.scroll(target, cursor, 1000, None, ())
            if [r.id for r in old.records] != [r.id for r in new.records]:
                raise Unavailable("the new vectors do not match the old ids; nothing was switched")
            if old.next_cursor is None:
                return
            cursor = old.next_cursor

    def _wait_for_model(self, model: str) -> None:
        """Wait while the model loads, as it does after a restart."""
        while self._engine.registry.get(model).state == "loading" and not self._stop.wait(0.1):
            pass
        _ = self._engine.registry.get(model).loaded

    def _fail(self, job: Job, reason: str) -> None:
        """End a job that cannot be done, and let writes go on."""
        latest = self._load(self._folder / f"{job.id}.json")
        self._save(replace(latest, state="failed", error=reason, updated=time.time()))
        with contextlib.suppress(ServiceError):
            self._store.drop(f"reembed.{job.source}")
        log.warning("job %s failed: %s", job.id, reason)

    # -- the files -------------------------------------------------------------------------------

    def _save(self, job: Job) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{job.id}.json"
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("w") as file:
            json.dump(asdict(job), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def _load(self, path: Path) -> Job:
        return Job(**json.loads(path.read_text()))

    @contextlib.contextmanager
    def _claimed(self, id_: str) -> Iterator[bool]:
        """Hold the job against other processes; the kernel lets go when this one ends."""
        with (self._folder / f"{id_}.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
