"""Batches the waiting inputs of many threads into passes through one model.

Leader/follower ("flat combining", Hendler et al., SPAA 2010): no batching thread and no wait timer.
A thread that finds the model free becomes the leader: it takes a batch within the token budget from
all waiting requests, encodes it inline, gives each request its rows, and promotes the oldest waiter
in `finally`. An idle service adds no wait; a busy one grows its batches by itself.
"""

import itertools
import threading
import time
from collections.abc import Sequence

import numpy as np

from embedders.base import Embedder, Encoded, Gone, Item
from errors import ClientGone, DeadlineExceeded, QueueFull, ServiceError, Unavailable
from observability import metrics, tracing
from server import slots
from serving.encoder import BatchHealth, Encoder
from serving.forward import Forward
from serving.scheduler import Job, take_mixed_lengths, take_similar_lengths

# The oldest large request gets every second pass, whatever else waits. So a bulk client with 8
# clients of single texts keeps 0.77 of its rate, and their p99 is 2.9 times what it was alone;
# every fourth pass and half of it: 0.37 and 2.1 (2 cores, AVX2, float32, 2026-11-26).
BULK_EVERY = 2
# Between two looks at a caller's socket: at each pass 100 callers would be 90,000 calls a second.
LOOK_EVERY_S = 0.05


class Batcher(Encoder):
    """Encodes on one embedder for many threads at once, one pass at a time."""

    def __init__(
        self,
        embedder: Embedder,
        *,
        max_tokens: int,
        max_items: int = 512,
        max_queue_tokens: int = 2_000_000,
        hung_after_s: float = 300,
        numbers: metrics.ModelMetrics | None = None,
    ) -> None:
        super().__init__(embedder)
        self._max_tokens, self._max_items = max_tokens, max_items
        self._max_queue_tokens = max_queue_tokens
        self._lock = threading.Lock()
        self._jobs: list[Job] = []  # oldest first; only those with inputs left to take
        self._led = False  # whether a thread is encoding or about to
        self._stopping = False
        self._waiting_tokens = 0
        self._tokens_per_s = 0.0
        self._passes = itertools.count(1)
        self._numbers = numbers or metrics.ModelMetrics()
        self._forward = Forward(embedder, hung_after_s, self._numbers)

    def encode(
        self, items: Sequence[Item], deadline: float | None = None, gone: Gone | None = None
    ) -> Encoded:
        """Return what `items` ask for, in order. See `Encoder`.

        Raises QueueFull, DeadlineExceeded, ClientGone, Unavailable, or the error of the first of
        these items that failed, with its index.
        """
        if not items:
            return Encoded.dense(np.empty((0, self.embedder.facts.dimension), np.float32), [])
        order = sorted(range(len(items)), key=lambda i: items[i].tokens)
        tokens = sum(item.tokens for item in items)
        job = Job(items, deadline, gone, order, len(items), tokens)
        entered = time.monotonic()
        self._enter(job)
        with slots.away():
            while not job.done:
                if job.leads:
                    self._lead(job)
                elif not job.awake.wait(_remaining(deadline)):
                    self._leave(job)
                else:
                    job.awake.clear()
        ended = time.monotonic()
        tracing.note("queue", entered, job.taken or ended)
        tracing.note("encode", job.taken or ended, ended)
        if job.error is None and deadline is not None and ended > deadline:
            job.error = DeadlineExceeded("the request's deadline passed while it was encoded")
        if job.error is not None:
            try:
                raise job.error
            finally:
                del job  # its error's traceback holds this frame
        return Encoded(job.columns, [item.tokens for item in items])

    def limit(self, *, max_items: int, max_queue_tokens: int) -> None:
        """Change the limits, from the next pass and the next request on."""
        self._max_items, self._max_queue_tokens = max_items, max_queue_tokens

    def stop(self) -> None:
        """Refuse what waits and what comes. A pass under way is still delivered."""
        with self._lock:
            self._stopping = True
            for job in [job for job in self._jobs if not job.leads]:
                self._fail(job, _stopping())

    def queued(self) -> tuple[int, int]:
        """Return how many requests and tokens wait."""
        with self._lock:
            return len(self._jobs), self._waiting_tokens

    def health(self) -> BatchHealth:
        """Return whether passes succeed, and how long the one under way has taken."""
        return self._forward.health()

    # -- entering and leaving -------------------------------------------------------------------

    def _enter(self, job: Job) -> None:
        with self._lock:
            if self._forward.broken:
                raise Unavailable(self._forward.broken, retry_after_s=5)
            if self._stopping:
                raise _stopping()
            waiting = self._waiting_tokens
            if waiting and waiting + job.tokens > self._max_queue_tokens:
                raise QueueFull(
                    f"{waiting} tokens are waiting already (limit {self._max_queue_tokens}); "
                    "send this again later",
                    retry_after_s=min(max(waiting / (self._tokens_per_s or waiting), 1.0), 30.0),
                )
            self._waiting_tokens += job.tokens
            self._numbers.waiting(len(job.order), job.tokens)
            self._jobs.append(job)
            if not self._led:
                self._led = job.leads = True

    def _leave(self, job: Job) -> None:
        """Give up a job whose deadline has passed. Rows of it that still come are dropped."""
        with self._lock:
            if not job.done:
                self._fail(job, DeadlineExceeded("the request's deadline passed while it waited"))
            if job.leads:  # promoted at the last moment: another must lead
                job.leads = False
                self._promote()

    def _fail(self, job: Job, error: Exception) -> None:
        """Take a job out of the queue with an error. Called with the lock held."""
        job.error = error
        tokens = sum(job.items[i].tokens for i in job.order)
        self._waiting_tokens -= tokens
        self._numbers.waiting(-len(job.order), -tokens)
        if isinstance(error, DeadlineExceeded | ClientGone):
            metrics.DROPPED.labels(error.code).inc()
        job.order = []
        if job in self._jobs:
            self._jobs.remove(job)
        job.awake.set()

    def _promote(self) -> None:
        """Make the oldest waiter the leader. Called with the lock held by whoever led."""
        self._led = bool(self._jobs)
        if self._jobs:
            self._jobs[0].leads = True
            self._jobs[0].awake.set()

    # -- leading ---------------------------------------------------------------------------------

    def _lead(self, job: Job) -> None:
        """Encode one batch, deliver its rows, and pass the lead on, whatever happens."""
        finished: list[Job] = []
        batch: list[tuple[Job, int]] = []
        try:
            self._look_at_callers()
            with self._lock:
                batch = self._take()
            if batch:
                finished = self._run(batch)
        except BaseException:  # this thread is being ended: no other request may hang
            with self._lock:
                for waiting in {job for job, _ in batch if not job.done}:
                    self._fail(waiting, Unavailable("the pass through the model was broken off"))
            raise
        finally:
            with self._lock:
                job.leads = False
                self._promote()
            for each in finished:
                each.awake.set()

    def _look_at_callers(self) -> None:
        """Find out which callers hung up, without the lock, which the others need meanwhile."""
        with self._lock:
            jobs = list(self._jobs)
        for job in jobs:
            if job.gone is not None and job.look_at <= (now := time.monotonic()):
                job.look_at, job.left = now + LOOK_EVERY_S, job.gone()

    def _take(self) -> list[tuple[Job, int]]:
        """Choose the next batch, within the budget. Called with the lock held."""
        self._drop_expired()
        if not self._jobs:
            return []
        small = next(self._passes) % BULK_EVERY != 0
        first = next((job for job in self._jobs if job.small == small), self._jobs[0])
        givers = [first, *(job for job in self._jobs if job is not first)]
        room = int(self._max_tokens * self._forward.budget)
        take = take_similar_lengths if self.embedder.pads else take_mixed_lengths
        batch = take(givers, room, self._max_items)
        self._jobs = [job for job in self._jobs if job.order]
        now = time.monotonic()
        for job, _ in batch:
            job.taken = job.taken or now
        tokens = sum(job.items[i].tokens for job, i in batch)
        self._waiting_tokens -= tokens
        self._numbers.waiting(-len(batch), -tokens)
        return batch

    def _drop_expired(self) -> None:
        """Drop requests whose deadline has passed or whose caller hung up: they cost no pass."""
        now = time.monotonic()
        for job in list(self._jobs):
            if self._stopping:
                self._fail(job, _stopping())
            elif job.deadline is not None and job.deadline < now:
                self._fail(job, DeadlineExceeded("the request's deadline passed while it waited"))
            elif job.left:
                self._fail(job, ClientGone("the client closed the connection"))

    def _run(self, batch: list[tuple[Job, int]]) -> list[Job]:
        """Encode a batch and deliver; return the jobs that are finished by it."""
        rows, took = self._forward.rows([job.items[i] for job, i in batch])
        lengths = [job.items[i].tokens for job, i in batch]
        tokens = sum(lengths)
        width = max(lengths) * len(batch) if self.embedder.pads else tokens
        self._numbers.filled(max(width / self._max_tokens, len(batch) / self._max_items))
        finished: list[Job] = []
        with self._lock:
            rate = tokens / max(took, 1e-6)
            self._tokens_per_s += (rate - self._tokens_per_s) * (0.1 if self._tokens_per_s else 1)
            for (job, i), row in zip(batch, rows, strict=True):
                if job.done:
                    continue
                if isinstance(row, ServiceError):
                    if not isinstance(row, Unavailable):  # that is no input's fault
                        row.index = i
                    self._fail(job, row)
                else:
                    job.put(i, row)
                if job.done:
                    finished.append(job)
        return finished


def _stopping() -> Unavailable:
    return Unavailable("the service is stopping; send this again", retry_after_s=2)


def _remaining(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
