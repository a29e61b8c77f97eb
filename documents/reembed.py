"""Replaces a collection's vectors by another model's, in the background and without a gap.

The new vectors are built in a collection next to the old one, checked, and switched in by one
exchange of names. Searches go on meanwhile; writes wait.
"""

import contextlib
import logging
import time
import uuid
from dataclasses import replace

from documents.jobs import Job
from documents.runner import STARTING, Admit, Count, Runner, count_none, texts_per_step
from embedders.base import DENSE
from engine import EmbedRequest, Engine
from errors import Conflict, Invalid, NotFound
from serving.selection import select
from store import Item, Record, VectorStore
from store.base import SUCCESSOR, successor

log = logging.getLogger("reembed")


class Reembedder(Runner):
    """Runs re-embedding jobs, one for each collection."""

    kind = "reembed"

    def __init__(self, engine: Engine, store: VectorStore, count: Count = count_none) -> None:
        super().__init__(store, count)
        self._engine = engine

    def start(
        self, name: str, model: str, by: str | None = None, pace: int = 0,
        admit: Admit = lambda texts: None,
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

        def check(running: list[Job]) -> None:
            if any(each.kind == self.kind and each.source == info.uuid for each in running):
                raise Conflict(f"collection {name!r} is being re-embedded already: see GET /jobs")

        self._begin(job, admit, check)
        return job

    def _sweep(self) -> None:
        """Drop successors that no job builds any more: they would block writes."""
        if not any(name.startswith(SUCCESSOR) for name in self._store.names()):
            return
        # So that no job begins between the two looks.
        with self._store.notes.claimed(STARTING) as mine:
            if not mine:  # another process does this
                return
            built = {name for name in self._store.names() if name.startswith(SUCCESSOR)}
            for name in built - {
                successor(job.source) for job in self.jobs.running() if job.kind == self.kind
            }:
                log.warning("%s belongs to no job: it is dropped", name)
                self._drop(name)

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
        self.jobs.update(replace(job, state="done", error=None, updated=time.time()))

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
        try:
            self.jobs.update(job)
        except NotFound:  # it was stopped since the look above
            self._drop(target)
            raise
        return job

    def _build(self, job: Job, target: str) -> tuple[Job, bool]:
        """Embed the rest of the texts; return the job, and whether all are done."""
        while not self._stop.is_set():
            page = self._store.scroll(
                job.collection, job.cursor, texts_per_step(job), None, ("text", "metadata")
            )
            done = job.done + len(page.records)
            if page.records:
                if not self._counts(job, min(done - job.counted, len(page.records))):
                    break
                self._step(job, page.records, target)
            last = page.records[-1].id if page.records else job.cursor
            total = done if page.next_cursor is None else job.total
            job = replace(job, done=done, cursor=last, total=total, error=None,
                          counted=max(job.counted, done), updated=time.time())  # fmt: skip
            self.jobs.update(job)
            if page.next_cursor is None:
                return job, True
        return job, False

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

    def _undo(self, job: Job) -> None:
        self._drop(successor(job.source))

    def _drop(self, name: str) -> None:
        with contextlib.suppress(NotFound):
            self._store.drop(name)
