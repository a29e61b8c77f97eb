"""Stores the rows of files in collections, in the background.

A file is kept beside the store (`spool.py`), shown as it will be stored, and then read row by row;
each step is stored before it is noted, and storing one again changes nothing. So a job goes on
where it was after any kill. A row that cannot be stored is kept with the reason and ends nothing.
"""

import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from documents import Documents, Draft, Stored
from documents.jobs import OF_ONE_MOST, FileState, Job, is_temporary
from documents.runner import RETRY_S, Admit, Count, Runner, count_none, texts_per_step
from documents.seen import Seen
from documents.spool import Spool
from engine import EmbedRequest
from errors import (
    Busy,
    Conflict,
    Full,
    Invalid,
    NotFinite,
    NotFound,
    QueueFull,
    ServiceError,
    TooLarge,
)
from store.base import successor
from store.budget import UNBOUNDED, Budget
from tools.layout import Layout
from tools.preview import Preview, preview
from tools.reading import Reader, key_of
from tools.records import Record, Stop
from tools.rows import Row, Unfit

WAITS_S = 24 * 3600.0  # a file that was given and not started is removed after that
STEP_CHARS = 4 << 20  # of the texts and the rejects of a step
STEP_RECORDS = 4096  # read in a step, of which most are blank or rejected
COMING_MOST = 8  # files that come in at once: each takes a thread as long as its client sends
OF_ROWS = (Invalid, TooLarge, NotFinite)  # refusals that are a row's fault
SMOOTH = 0.2  # weight of the last step's rate

Reject = tuple[int, str, Any]  # line, reason, row


@dataclass
class _Step:
    """What is read and not yet stored."""

    rows: list[Row]
    rejects: list[Reject]
    done: int  # records of the file, up to the last of this step
    chars: int = 0
    blank: int = 0
    repeated: int = 0


class Loader(Runner):
    """Takes files, shows what will be stored of them, and runs the jobs that store it."""

    kind = "file"

    def __init__(self, documents: Documents, folder: Path, count: Count = count_none) -> None:
        """`folder` is where files are kept."""
        super().__init__(documents.store, count)
        self._documents = documents
        self.spool = Spool(folder)
        self._coming = threading.BoundedSemaphore(COMING_MOST)

    # ---- before a job runs

    def take(
        self, name: str, called: str, read: Callable[[int], bytes], declared: int = 0,
        by: str | None = None,
    ) -> Job:  # fmt: skip
        """Keep a file for a collection; it waits to be started. Raises NotFound, QueueFull, Full.

        `read(most)` returns its next bytes, `declared` is how many they are, if that is known.
        """
        info = self._store.info(name)
        self._sweep()
        waiting = [each for each in self.jobs.all() if each.state == "waiting" and each.by == by]
        if len(waiting) >= OF_ONE_MOST:
            raise QueueFull(
                f"{len(waiting)} files that you have given wait to be started: start one with POST "
                "/jobs/{id}/start, or remove one with DELETE /jobs/{id}",
                retry_after_s=60,
            )
        id_, now = uuid.uuid4().hex, time.time()
        if not self._coming.acquire(blocking=False):
            raise QueueFull(f"{COMING_MOST} files come in already", retry_after_s=5)
        with self._released(), self.spool.taken(id_, read, declared) as size:
            if not size:
                raise Invalid(f"{called[:255]} is empty", param="file")
            state = FileState(called[:255], size, self.spool.place)
            job = Job(id_, info.name, info.uuid, info.model, "waiting", created=now, updated=now,
                      asked=name, by=by, kind=self.kind, file=state)  # fmt: skip
            self.jobs.save(job)
        return job

    @contextmanager
    def _released(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._coming.release()

    def preview(self, job: Job, layout: Layout, budget: Budget = UNBOUNDED) -> Preview:
        """Return what would be stored of a file. Raises Invalid for one that cannot be read.

        Raises NotFound or Conflict if it was removed meanwhile, and as `Budget.check`.
        """
        state = _file_of(job)
        path = self._here(job)
        try:
            return preview(path, state.name, layout, budget.check)
        except FileNotFoundError:
            self.jobs.load(job.id)
            raise Conflict(f"the file of job {job.id} is gone") from None
        except (Stop, LookupError) as exc:
            raise _unreadable(exc, path, state.name) from None

    def start(
        self, job: Job, layout: Layout, pace: int = 0, admit: Admit = lambda texts: None,
        sure: bool = False, budget: Budget = UNBOUNDED,
    ) -> Job:  # fmt: skip
        """Start to store a file that waits. Raises Conflict, Invalid, QueueFull.

        Its texts are counted as its caller's, who may embed `pace` of them a minute. `admit` may
        refuse the first minute's. With `sure` neither the text's column nor an unlikely encoding is
        taken by chance.
        """
        shown = self.preview(job, layout, budget)
        if not shown.layout.text and shown.layout.kind != "txt":
            raise Invalid("name the column of the texts in text", param="text")
        if sure and not shown.sure:
            there = ", ".join(column.name for column in shown.columns)[:300]
            lone = "; set header to false if the first row is a text" if shown.warnings else ""
            raise Invalid(f"no column is called text: name it in text (it has: {there}){lone}",
                          param="text")  # fmt: skip
        if sure and not shown.readable:
            raise Invalid(
                "the file is not UTF-8, and its encoding cannot be guessed: save it as UTF-8, or "
                "name its encoding in encoding", param="encoding",
            )  # fmt: skip
        state = replace(_file_of(job), layout=asdict(shown.layout), exact=shown.complete)
        texts = shown.total - (shown.refused + shown.blank if shown.complete else 0)
        job = replace(job, state="running", total=shown.total, pace=pace, file=state, error=None,
                      counted=min(texts, pace) if pace else texts, updated=time.time())  # fmt: skip

        def check(running: list[Job]) -> None:
            if self.jobs.load(job.id).state != "waiting":
                raise Conflict(f"job {job.id} was started already: see GET /jobs/{job.id}")

        self._begin(job, admit, check)
        return job

    def forget(self, job: Job) -> None:
        """Remove a job and its file; what it has stored stays."""
        self.jobs.forget(job)
        self.spool.remove(job.id)

    def waits_for(self, job: Job) -> str | None:
        """Return what a job waits for, as far as this machine knows; None if for nothing."""
        if job.error is None and job.state == "running" and self._can_run(job):
            return self.spool.said(job.id) or None
        return job.error

    def _say(self, job: Job, message: str) -> None:
        try:
            super()._say(job, message)
        except Full:  # the store cannot write it down either
            self.spool.say(job.id, message)

    def _here(self, job: Job) -> Path:
        """Return the file of a job. Raises Conflict if it is gone, or on another machine."""
        path = self.spool.file(job.id)
        if not path.exists():
            where = "is gone" if self._can_run(job) else "is on another machine of this service"
            raise Conflict(f"the file of job {job.id} {where}")
        return path

    def _can_run(self, job: Job) -> bool:
        return job.file is not None and job.file.place == self.spool.place

    def _undo(self, job: Job) -> None:
        self.spool.drop_file(job.id)

    def _sweep(self) -> None:
        now = time.time()
        for job in self.jobs.all():
            if job.state == "waiting" and job.created < now - WAITS_S and self._can_run(job):
                self.forget(job)
        self.spool.sweep(lambda: {job.id for job in self.jobs.all()})

    # ---- running

    def _work(self, job: Job) -> None:
        state = _file_of(job)
        path = self._here(job)
        job = self._followed(job)
        self.spool.say(job.id, "")
        self.spool.begin_rejects(job.id, state.rejects_bytes)
        reader = Reader(path, _layout_of(state))
        began = time.monotonic()
        try:
            with closing(self._steps(job, reader)) as steps:
                for step in steps:
                    if self._stop.is_set() or not self._counts(job, _uncounted(job, step)):
                        return
                    job = self._stored(job, step, reader.share, began)
                    began = time.monotonic()
        except Stop as exc:
            raise _unreadable(exc, path, state.name) from None
        self.jobs.update(
            replace(job, state="done", total=job.done, error=None, updated=time.time())
        )
        self.spool.drop_file(job.id)

    def _steps(self, job: Job, reader: Reader) -> Generator[_Step, None, None]:
        """Yield what is left of a file, in steps. What came before is read for its keys."""
        seen, most = Seen(), texts_per_step(job)
        step = _Step([], [], job.done)
        for index, record in enumerate(reader.records()):
            key, own = (b"", False) if _keyless(record) else key_of(reader, record)
            before = seen.add(key) if key else 0
            if index < job.done:
                continue
            step.done = index + 1
            if record.content is None:
                step.blank += 1
                continue
            step.repeated += own and before > 0
            try:
                row = reader.row(index, record)
            except Unfit as exc:
                step.rejects.append((record.line, str(exc), record.content))
                step.chars += _chars(record.content)
            else:
                made = f"{key.hex()}-{before}" if before else key.hex()
                step.rows.append(row if own else replace(row, id=made))
                step.chars += len(row.text)
            full = len(step.rows) >= most or step.chars >= STEP_CHARS
            if full or step.done - job.done >= STEP_RECORDS:
                yield step
                job = replace(job, done=step.done)
                step = _Step([], [], step.done)
        yield step

    def _stored(self, job: Job, step: _Step, share: float, began: float) -> Job:
        """Store a step, and note it. Raises NotFound if the job was removed."""
        state = _file_of(job)
        rows = list({row.id: row for row in step.rows}.values())  # of equal ids the last
        job, stored, truncated, rejects = self._insisted(job, rows)
        rejects = sorted([*step.rejects, *rejects], key=lambda reject: reject[0])
        size = self.spool.reject(job.id, rejects) if rejects else state.rejects_bytes
        rate = (step.done - job.done) / max(time.monotonic() - began, 1e-6)
        state = replace(
            state, stored=state.stored + stored, rejected=state.rejected + len(rejects),
            blank=state.blank + step.blank, repeated=state.repeated + step.repeated,
            truncated=state.truncated + truncated, sent=state.sent + len(step.rows),
            rejects_bytes=size,
            rate=state.rate + SMOOTH * (rate - state.rate) if state.rate else rate,
        )  # fmt: skip
        total = job.total if state.exact else max(step.done, round(step.done / max(share, 1e-9)))
        job = replace(job, done=step.done, total=max(total, step.done), error=None, file=state,
                      counted=max(job.counted, state.sent), updated=time.time())  # fmt: skip
        self.jobs.update(job)
        if self.spool.said(job.id):
            self.spool.say(job.id, "")
        return job

    def _insisted(self, job: Job, rows: list[Row]) -> tuple[Job, int, int, list[Reject]]:
        """Store rows, waiting here for what is temporary: the file would be read again."""
        while True:
            try:
                return self._added(job, rows)
            except ServiceError as exc:
                if not is_temporary(exc):
                    raise
                self._say(job, exc.message)
                if self._stop.wait(exc.retry_after_s or RETRY_S):
                    raise

    def _added(self, job: Job, rows: list[Row]) -> tuple[Job, int, int, list[Reject]]:
        """Store rows. Returns how many were stored, how many texts were cut, and what is refused.

        The job follows its collection through a re-embedding.
        """
        rejects: list[Reject] = []
        stored = truncated = 0
        left = [rows] if rows else []
        while left:
            part = left.pop()
            try:
                done = self._add(job, part)
            except ServiceError as exc:
                if isinstance(exc, Conflict):
                    followed = self._followed(job)  # raises if there is nothing to follow
                    if followed == job:
                        raise
                    job, again = followed, [part]
                elif exc.index is not None and exc.index < len(part):
                    rejects.append(_rejected(part[exc.index], exc))
                    again = [part[: exc.index] + part[exc.index + 1 :]]
                elif not isinstance(exc, OF_ROWS):
                    raise
                elif len(part) == 1:
                    rejects.append(_rejected(part[0], exc))
                    again = []
                else:
                    half = len(part) // 2
                    again = [part[half:], part[:half]]
                left += filter(None, again)
            else:
                stored += len(part)
                truncated += done.embedded.truncated if done.embedded else 0
        return job, stored, truncated, rejects

    def _add(self, job: Job, rows: list[Row]) -> Stored:
        drafts = [Draft(row.id, None, row.text, row.metadata) for row in rows]
        request = EmbedRequest([], role="document", lane="bulk")
        return self._documents.add(job.collection, drafts, "upsert", request, uuid=job.source)

    def _followed(self, job: Job) -> Job:
        """Return the job with its collection as it is now. Raises Conflict if that is another.

        Raises Busy while it is being re-embedded.
        """
        with suppress(NotFound):
            self._store.identity(successor(job.source))
            raise Busy("the collection is being re-embedded", retry_after_s=2)
        with suppress(NotFound):
            now = self._store.identity(job.collection)
            if now.uuid == job.source:
                return job
            for each in self.jobs.all():
                if each.kind == "reembed" and (each.source, each.target) == (job.source, now.uuid):
                    return replace(job, source=now.uuid)
        raise Conflict("the collection was dropped or replaced meanwhile")


def _keyless(record: Record) -> bool:
    return record.content is None or bool(record.problem)


def _chars(row: Any) -> int:
    """Return about how many characters the texts of a row have, which may be nested."""
    chars, left = 0, [row]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            left += part.values()
        elif isinstance(part, list):
            left += part
        chars += len(part) if isinstance(part, str | bytes) else 8
    return chars


def _uncounted(job: Job, step: _Step) -> int:
    """Return how many texts of a step are still to be counted as the caller's."""
    return min(_file_of(job).sent + len(step.rows) - job.counted, len(step.rows))


def _rejected(row: Row, exc: ServiceError) -> Reject:
    return row.line, exc.message, {"id": row.id, "text": row.text, **row.metadata}


def _file_of(job: Job) -> FileState:
    if job.file is None:
        raise Conflict(f"job {job.id} has no file")
    return job.file


def _layout_of(state: FileState) -> Layout:
    fields = dict(state.layout or {})
    for name in ("text", "metadata"):
        fields[name] = None if fields.get(name) is None else tuple(fields[name])
    return Layout(**fields)


def _unreadable(exc: Exception, path: Path, name: str) -> Invalid:
    """Return why a file cannot be read, by the name that its caller knows."""
    return Invalid(f"{name}: {str(exc).removeprefix(f'{path}: ')}", param="file")
