"""Re-embedding jobs, kept as texts in the store so that every process of it sees them."""

import contextlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Literal

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

JOB_ID = re.compile(r"[0-9a-f]{32}")
KEPT = 100  # jobs that have ended; the oldest are removed first
# Jobs that run at once in all processes, of all callers and of one: each has a thread and holds the
# texts of one step.
RUNNING_MOST, OF_ONE_MOST = 8, 4


@dataclass(frozen=True)
class Job:
    """A re-embedding job and its progress."""

    id: str
    collection: str
    source: str  # the uuid of the collection whose vectors are replaced
    model: str
    state: Literal["running", "done", "failed"] = "running"
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


class Jobs:
    """The jobs of a store. Every call raises what the store raises while it is down."""

    def __init__(self, store: VectorStore) -> None:
        self._store = store

    def save(self, job: Job) -> None:
        """Write a job durably; remove the oldest that have ended beyond `KEPT`."""
        self._store.notes.put(job.id, json.dumps(asdict(job)))
        if job.state != "running":
            for old in [job for job in self.all() if job.state != "running"][KEPT:]:
                self._store.notes.remove(old.id)

    def load(self, id_: str) -> Job:
        """Return one job. Raises NotFound."""
        text = self._store.notes.get(id_) if JOB_ID.fullmatch(id_) else None
        if text is None:
            raise no_job(id_)
        return Job(**json.loads(text))

    def all(self) -> list[Job]:
        """Return all jobs, the newest first."""
        found = [Job(**json.loads(text)) for text in self._store.notes.all()]
        return sorted(found, key=lambda job: -job.created)

    def running(self) -> list[Job]:
        """Return the jobs that have not ended."""
        return [job for job in self.all() if job.state == "running"]

    def forget(self, job: Job) -> None:
        """Remove a job; a running one ends at its next step."""
        self._store.notes.remove(job.id)
        if job.state == "running":
            with contextlib.suppress(NotFound):
                self._store.drop(successor(job.source))


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
