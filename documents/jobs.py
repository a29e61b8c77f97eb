"""Background jobs, kept as texts in the store so that every process of it sees them."""

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from errors import (
    Corrupt,
    Full,
    ModelUnavailable,
    NotFound,
    ProviderError,
    QueueFull,
    ServiceError,
    TooMany,
    Unavailable,
)
from store import VectorStore
from store.base import successor

JobKind = Literal["reembed", "file"]
# A file that was given waits until its rows are to be stored.
JobState = Literal["waiting", "running", "done", "failed"]

JOB_ID = re.compile(r"[0-9a-f]{32}")
KEPT = 100  # jobs that have ended; the oldest are removed first
# Jobs that run at once in all processes, of all callers and of one: each has a thread and holds the
# texts of one step.
RUNNING_MOST, OF_ONE_MOST = 8, 4


@dataclass(frozen=True)
class FileState:
    """What a job of a file knows of it, and how far it is."""

    name: str  # as the caller calls it
    bytes: int
    place: str  # the machine, or rather the folder, that has it
    layout: Mapping[str, Any] | None = None  # how it is read; None before the job was started
    exact: bool = False  # whether `total` of the job is counted, and no estimate
    stored: int = 0  # rows
    rejected: int = 0  # rows that cannot be stored
    blank: int = 0  # lines
    repeated: int = 0  # rows whose id came before in the file: the later one stays
    truncated: int = 0  # texts that were longer than the model takes, and cut
    sent: int = 0  # texts that were embedded, or refused by the model
    rejects_bytes: int = 0  # of the file of rejects; what follows was written by a killed process
    rate: float = 0.0  # rows a second, lately


@dataclass(frozen=True)
class Job:
    """A job and its progress. Of a file, `done` and `total` are the records read."""

    id: str
    collection: str
    source: str  # the uuid of the collection whose vectors are replaced, or that is filled
    model: str | None
    state: JobState = "running"
    done: int = 0
    total: int = 0
    cursor: str | None = None
    error: str | None = None  # why it failed, or what it waits for
    created: float = 0.0
    updated: float = 0.0
    target: str | None = None  # the uuid of the collection that holds the new vectors
    asked: str | None = None  # the name or alias in the request
    by: str | None = None  # the caller, under whose key its texts are counted
    pace: int = 0  # texts a minute at most; 0 is no limit
    counted: int = 0  # texts counted so far, embedded or not
    kind: JobKind = "reembed"
    file: FileState | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state in ("done", "failed")


class Jobs:
    """The jobs of a store. Every call raises what the store raises while it is down."""

    def __init__(self, store: VectorStore) -> None:
        self._store = store

    def save(self, job: Job) -> None:
        """Write a job durably; remove the oldest that have ended beyond `KEPT`."""
        self._store.notes.put(job.id, json.dumps(asdict(job)))
        self._trim(job)

    def update(self, job: Job) -> None:
        """Write a job durably over what is known of it. Raises NotFound if it was removed."""
        if not self._store.notes.replace(job.id, json.dumps(asdict(job))):
            raise no_job(job.id)
        self._trim(job)

    def _trim(self, job: Job) -> None:
        if job.ended:
            for old in [job for job in self.all() if job.ended][KEPT:]:
                self._store.notes.remove(old.id)

    def load(self, id_: str) -> Job:
        """Return one job. Raises NotFound."""
        text = self._store.notes.get(id_) if JOB_ID.fullmatch(id_) else None
        if text is None:
            raise no_job(id_)
        return _job(text)

    def all(self) -> list[Job]:
        """Return all jobs, the newest first."""
        return sorted(map(_job, self._store.notes.all()), key=lambda job: -job.created)

    def running(self) -> list[Job]:
        """Return the jobs that are under way."""
        return [job for job in self.all() if job.state == "running"]

    def forget(self, job: Job) -> None:
        """Remove a job; a running one ends at its next step."""
        self._store.notes.remove(job.id)
        if job.kind == "reembed" and job.state == "running":
            with contextlib.suppress(NotFound):
                self._store.drop(successor(job.source))


def _job(text: str) -> Job:
    fields = json.loads(text)
    if fields.get("file") is not None:
        fields["file"] = FileState(**fields["file"])
    return Job(**fields)


def no_job(id_: str) -> NotFound:
    """Return the error for an unknown job id."""
    return NotFound(f"no job {id_[:64]!r}: GET /jobs lists the known ones")


def check_room(job: Job, running: list[Job]) -> None:
    """Raise QueueFull if no further job may run now."""
    mine = [each for each in running if job.by is not None and each.by == job.by]
    if mine and job.pace:
        why = "you have one job with a limit of texts a minute"
    elif len(mine) >= OF_ONE_MOST:
        why = f"{len(mine)} of your jobs are running, the most that one caller may have"
    elif len(running) >= RUNNING_MOST:
        why = f"{len(running)} jobs are running, the most there may be"
    else:
        return
    raise QueueFull(
        f"{why}: wait until one has ended, or stop one with DELETE /jobs/{{id}}", retry_after_s=60
    )


def is_temporary(exc: ServiceError) -> bool:
    """Return whether an error is temporary: a store or provider that is down, a full disk."""
    if isinstance(exc, ProviderError):
        return not exc.permanent
    lasting = isinstance(exc, Corrupt | ModelUnavailable)
    return isinstance(exc, TooMany | Unavailable | Full) and not lasting
