"""Runs jobs of one kind in the background: a thread for each, in one process of a store at a time.

A job is written down before anything is made for it and until everything temporary is removed, so
it survives a kill at any step: any worker that finds a job without a runner continues it. While the
store is down it waits.
"""

import contextlib
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from documents.jobs import Job, JobKind, Jobs, check_room, is_temporary
from errors import Busy, NotFound, ServiceError
from store import VectorStore

log = logging.getLogger("jobs")

# Texts per step: what a kill can cost, and what a step holds in memory.
STEP = 256
# With a limit a step is this part of a minute's texts: more would not fit beside the caller's other
# requests.
SHARE = 10
START_WAIT_S = 0.5  # a start waits so long for the first look at the jobs
RETRY_S = 1.0
CHECK_S = 5.0  # a job that waits for its limit checks so often whether it still exists
STARTING = "starting"  # claimed to write a new job, or to remove leftovers

# `count(caller, texts, most)` counts texts; it returns 0, or the seconds to wait.
Count = Callable[[str, int, int], float]
Admit = Callable[[int], None]  # may refuse the texts that a job begins with


def count_none(by: str, texts: int, most: int) -> float:
    """Count nothing, where there are no limits."""
    return 0.0


class Runner(ABC):
    """Jobs of one kind. A subclass says what is done, and what a job that failed leaves behind."""

    kind: ClassVar[JobKind]

    def __init__(self, store: VectorStore, count: Count = count_none) -> None:
        self._store, self._count = store, count
        self.jobs = Jobs(store)
        self._stop = threading.Event()

    @abstractmethod
    def _work(self, job: Job) -> None:
        """Do a job, or what is left of it, up to its end or until the service stops."""

    @abstractmethod
    def _undo(self, job: Job) -> None:
        """Remove what a job has made besides its result."""

    @abstractmethod
    def _sweep(self) -> None:
        """Remove what jobs have left that are no more."""

    def _can_run(self, job: Job) -> bool:
        """Return whether this machine has what the job needs."""
        return True

    def get(self, id_: str) -> Job:
        """Return a job, and continue it if it has no runner. Raises NotFound."""
        job = self.jobs.load(id_)
        if job.kind == self.kind and job.state == "running":
            self._run_aside(id_)
        return job

    def resume(self) -> None:
        """Continue the jobs that ran when a process ended. Waits a moment, not for a slow store."""
        first = threading.Thread(target=self._resume, name=f"{self.kind}-resume", daemon=True)
        first.start()
        first.join(START_WAIT_S)

    def stop(self) -> None:
        """Stop all jobs after their step; they continue at the next start."""
        self._stop.set()

    def _begin(self, job: Job, admit: Admit, check: Callable[[list[Job]], None]) -> None:
        """Write a job down and run it. Raises Busy, QueueFull, and what `check` and `admit` do.

        `check` is given the jobs that run.
        """
        with self._store.notes.claimed(STARTING) as mine:
            if not mine:
                raise Busy("another job is being started; send it again", retry_after_s=1)
            running = self.jobs.running()
            check(running)
            check_room(job, running)
            admit(job.counted)
            self.jobs.save(job)
        self._run_aside(job.id)

    def _resume(self) -> None:
        while not self._stop.is_set():
            try:
                self._sweep()
                for job in self.jobs.running():
                    if job.kind == self.kind:
                        self._run_aside(job.id)
                return
            except ServiceError as exc:
                if not is_temporary(exc):
                    log.warning("jobs are not continued: %s", exc.message)
                    return
                self._stop.wait(exc.retry_after_s or RETRY_S)

    def _run_aside(self, id_: str) -> None:
        name = f"{self.kind}-{id_[:8]}"
        if not any(thread.name == name for thread in threading.enumerate()):
            threading.Thread(target=self._run, args=(id_,), name=name, daemon=True).start()

    def _run(self, id_: str) -> None:
        """Work on a job until it ends, the service stops, or another process has it."""
        while not self._stop.is_set():
            try:
                with self._store.notes.claimed(id_) as mine:
                    job = self.jobs.load(id_)
                    if mine and job.state == "running" and self._can_run(job):
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
                    self._say(job, exc.message)
                raise
            self._fail(job, exc.message)
        except Exception as exc:
            log.exception("job %s failed", job.id)
            self._fail(job, f"an unexpected {type(exc).__name__}: see the service's log")

    def _say(self, job: Job, message: str) -> None:
        """Write down what a job waits for."""
        self.jobs.update(replace(self.jobs.load(job.id), error=message))

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

    def _fail(self, job: Job, reason: str) -> None:
        """End a job that cannot be done; what it made goes first, so that writes go on."""
        latest = self.jobs.load(job.id)
        self._undo(job)
        self.jobs.update(replace(latest, state="failed", error=reason, updated=time.time()))
        log.warning("job %s failed: %s", job.id, reason)


def texts_per_step(job: Job) -> int:
    """Return how many texts a step of a job has."""
    return min(STEP, max(1, job.pace // SHARE)) if job.pace else STEP
