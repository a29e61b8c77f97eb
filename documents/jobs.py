"""Jobs of re-embedding as they are kept: notes of the store, so that every copy of it has them."""

import contextlib
import json
import re
from contextlib import AbstractContextManager
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
# So many that have ended are remembered; the oldest are forgotten first.
KEPT = 100
# Running at once, in all processes, of all callers and of one: each has a thread, and holds the
# texts of a step.
RUNNING_MOST, OF_ONE_MOST = 8, 4


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
    error: str | None = None  # why it failed, or what a running one waits for
    created: float = 0.0
    updated: float = 0.0
    target: str | None = None  # the uuid of the collection that holds the new vectors
    asked: str | None = None  # by which name or alias the collection was meant
    by: str | None = None  # who began it: under what their texts are counted
    pace: int = 0  # the most texts a minute, 0 without a limit
    counted: int = 0  # texts that are counted, embedded or not


class Jobs:
    """Every job of a store. Any call raises what the store raises when it is away."""

    def __init__(self, store: VectorStore) -> None:
        self._store = store

    def save(self, job: Job) -> None:
        """Write a job down, durably; forget the oldest that ended if there are too many."""
        self._store.notes.put(job.id, json.dumps(asdict(job)))
        if job.state != "running":
            self._prune()

    def load(self, id_: str) -> Job:
        """Return one job. Raises NotFound."""
        text = self._store.notes.get(id_) if JOB_ID.fullmatch(id_) else None
        if text is None:
            raise no_job(id_)
        return Job(**json.loads(text))

    def all(self) -> list[Job]:
        """Return every job, the newest first."""
        found = [Job(**json.loads(text)) for text in self._store.notes.all()]
        return sorted(found, key=lambda job: -job.created)

    def running(self) -> list[Job]:
        """Return the jobs that have not ended."""
        return [job for job in self.all() if job.state == "running"]

    def forget(self, job: Job) -> None:
        """Remove a job; one that is running ends at its next step."""
        self._store.notes.remove(job.id)
        if job.state == "running":
            with contextlib.suppress(NotFound):
                self._store.drop(successor(job.source))

    def claimed(self, key: str) -> AbstractContextManager[bool]:
        """Hold a job, or another word, against every other process."""
        return self._store.notes.claimed(key)

    def _prune(self) -> None:
        ended = [job for job in self.all() if job.state != "running"]
        for job in ended[KEPT:]:
            self._store.notes.remove(job.id)


def no_job(id_: str) -> NotFound:
    """Return the refusal of an id that is no job's."""
    return NotFound(f"no job {id_[:64]!r}: GET /jobs lists those that are remembered")


def check_room(job: Job, running: list[Job]) -> None:
    """Refuse a job more than may run at once. Raises QueueFull."""
    mine = [each for each in running if job.by is not None and each.by == job.by]
    if mine and job.pace:
        why = "you have one job with a limit of texts a minute"
    elif len(mine) >= OF_ONE_MOST:
        why = f"{len(mine)} of your jobs are running, which is the most that one caller may have"
    elif len(running) >= RUNNING_MOST:
        why = f"{len(running)} jobs are running, which is the most"
    else:
        return
    raise QueueFull(
        f"{why}: wait until one has ended, or stop one with DELETE /jobs/{{id}}", retry_after_s=60
    )


def passes(exc: ServiceError) -> bool:
    """Tell whether what was raised passes by itself: a store or a provider away, a full disk."""
    if isinstance(exc, ProviderError):
        return not exc.permanent
    lasting = isinstance(exc, Corrupt | ModelUnavailable)
    return isinstance(exc, TooMany | Unavailable | Full) and not lasting
