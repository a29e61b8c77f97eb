"""Batches the waiting inputs of many threads into passes through one model.

Leader/follower ("flat combining", Hendler et al., SPAA 2010): no batching thread and no wait timer.
A thread that finds the model free becomes the leader: it takes a token-budget batch out of all that
waits, encodes it inline, hands each request its rows, and promotes the oldest waiter in `finally`.
An idle service adds no wait; a busy one grows its batches by itself. Knows no model and no HTTP.
"""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from embedders.base import Embedder, Encoded, Item, Vectors
from errors import ClientGone, DeadlineExceeded, QueueFull, Unavailable
from observability import metrics, tracing
from server import turns
from serving.forward import Passes, Pulse, indexed
from serving.scheduler import Job, take_alike, take_any

# Every so many passes the oldest large request gets one, whatever else waits. By turns, a bulk
# client beside 8 of single texts keeps 0.77 of its rate, and their p99 is 2.9 times what it was
# alone; every fourth and halved, 0.37 and 2.1 (2 cores, AVX2, float32, 2026-11-26).
BULK_EVERY = 2
# Between two looks at a caller's socket: at each pass 100 callers would be 90,000 calls a second.
ASK_EVERY_S = 0.05


@dataclass
class Load:
    """A snapshot of the queue, for metrics and for `Retry-After`."""

    requests: int
    texts: int
    tokens: int
    tokens_per_s: float


class Batcher:
    """Encodes on `embedder` for many threads at once, one pass at a time."""

    def __init__(
        self,
        embedder: Embedder,
        *,
        max_tokens: int,
        max_items: int = 512,
        max_queue_tokens: int = 2_000_000,
        hung_after_s: float = 300,
        numbers: metrics.Lane | None = None,
    ) -> None:
        self._embedder = embedder
        self._max_tokens = max_tokens
        self._max_items = max_items
        self._max_queue_tokens = max_queue_tokens
        self._lock = threading.Lock()
        self._jobs: list[Job] = []  # oldest first; only those with inputs left to take
        self._led = False  # whether a thread is encoding or about to
        self._stopping = False
        self._waiting_tokens = 0
        self._tokens_per_s = 0.0
        self._passes = itertools.count(1)
        self._numbers = numbers or metrics.Lane()
        self._model = Passes(embedder, hung_after_s, self._numbers)

    def encode(
        self,
        items: Sequence[Item],
        deadline: float | None = None,
        gone: Callable[[], bool] | None = None,
    ) -> Encoded:
        """Return the vectors of `items`, in order.

        `deadline` is a `time.monotonic()` value; `gone` tells whether the caller went away.
        Raises QueueFull, DeadlineExceeded, or what the embedder raised for one of these items.
        """
        if not items:
            return Encoded(np.empty((0, self._embedder.facts.dimension), np.float32), [])
        order = sorted(range(len(items)), key=lambda i: items[i].tokens)
        tokens = sum(item.tokens for item in items)
        job = Job(items, deadline, gone and _Caller(gone), order, len(items), tokens)
        entered = time.monotonic()
        self._enter(job)
        with turns.away():
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
        assert job.vectors is not None
        return Encoded(job.vectors, [item.tokens for item in items])

    def limit(self, *, max_items: int, max_queue_tokens: int) -> None:
        """Change the limits; the next pass and the next request go by them."""
        self._max_items, self._max_queue_tokens = max_items, max_queue_tokens

    def stop(self) -> None:
        """Refuse what waits and what comes: the process ends. A pass under way is delivered."""
        with self._lock:
            self._stopping = True
            for job in [job for job in self._jobs if not job.leads]:
                self._fail(job, _stopping())

    def load(self) -> Load:
        """Return how much is waiting and how fast it is being done."""
        with self._lock:
            texts = sum(len(job.order) for job in self._jobs)
            return Load(len(self._jobs), texts, self._waiting_tokens, self._tokens_per_s)

    def pulse(self) -> Pulse:
        """Return whether passes succeed, and how long the one under way has taken."""
        return self._model.pulse()

    # -- entering and leaving -------------------------------------------------------------------

    def _enter(self, job: Job) -> None:
        with self._lock:
            if self._model.broken:
                raise Unavailable(self._model.broken, retry_after_s=5)
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
        """Give up a job whose deadline has passed; rows under way are dropped when they come."""
        with self._lock:
            if not job.done:
                self._fail(job, DeadlineExceeded("the request's deadline passed while it waited"))
            if job.leads:  # promoted at the last moment: the lead must go on
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
            self._ask_who_is_gone()
            with self._lock:
                batch = self._take()
            if batch:
                finished = self._run(batch)
        except BaseException:  # this thread is being ended: nobody else may hang for it
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

    def _ask_who_is_gone(self) -> None:
        """Ask after the callers that wait: without the lock, which the others need meanwhile."""
        with self._lock:
            callers = [job.gone for job in self._jobs if isinstance(job.gone, _Caller)]
        for caller in callers:
            if caller.ask_from <= (now := time.monotonic()):
                caller.ask_from, caller.left = now + ASK_EVERY_S, caller.gone()

    def _take(self) -> list[tuple[Job, int]]:
        """Choose the next batch, within the budget. Called with the lock held."""
        self._drop_hopeless()
        if not self._jobs:
            return []
        first = self._turn()
        givers = [first, *(job for job in self._jobs if job is not first)]
        room = int(self._max_tokens * self._model.budget)
        take = take_alike if self._embedder.pads else take_any
        batch = take(givers, room, self._max_items)
        self._jobs = [job for job in self._jobs if job.order]
        now = time.monotonic()
        for job, _ in batch:
            job.taken = job.taken or now
        tokens = sum(job.items[i].tokens for job, i in batch)
        self._waiting_tokens -= tokens
        self._numbers.waiting(-len(batch), -tokens)
        return batch

    def _turn(self) -> Job:
        """Return the request whose turn it is: the oldest of a kind, small and large by turns."""
        small = next(self._passes) % BULK_EVERY != 0
        return next((job for job in self._jobs if job.small == small), self._jobs[0])

    def _drop_hopeless(self) -> None:
        """Drop requests whose deadline has passed or whose client is gone: they cost no pass."""
        now = time.monotonic()
        for job in list(self._jobs):
            if self._stopping:
                self._fail(job, _stopping())
            elif job.deadline is not None and job.deadline < now:
                self._fail(job, DeadlineExceeded("the request's deadline passed while it waited"))
            elif job.gone is not None and job.gone():
                self._fail(job, ClientGone("the client closed the connection"))

    def _run(self, batch: list[tuple[Job, int]]) -> list[Job]:
        """Encode a batch and deliver; return the jobs that are finished by it."""
        rows, took = self._model.rows([job.items[i] for job, i in batch])
        lengths = [job.items[i].tokens for job, i in batch]
        tokens = sum(lengths)
        width = max(lengths) * len(batch) if self._embedder.pads else tokens
        self._numbers.filled(max(width / self._max_tokens, len(batch) / self._max_items))
        finished: list[Job] = []
        with self._lock:
            rate = tokens / max(took, 1e-6)
            self._tokens_per_s += (rate - self._tokens_per_s) * (0.1 if self._tokens_per_s else 1)
            for (job, i), row in zip(batch, rows, strict=True):
                if job.done:
                    continue
                if isinstance(row, Exception):
                    self._fail(job, indexed(row, i, len(job.items)))
                else:
                    self._deliver(job, i, row)
                if job.done:
                    finished.append(job)
        return finished

    def _deliver(self, job: Job, index: int, row: Vectors) -> None:
        if job.vectors is None:
            job.vectors = np.empty((len(job.items), row.shape[-1]), np.float32)
        job.vectors[index] = row
        job.missing -= 1


@dataclass
class _Caller:
    """Whoever waits. Called, it tells whether it was gone when it was last asked."""

    gone: Callable[[], bool]
    left: bool = False
    ask_from: float = 0.0

    def __call__(self) -> bool:
        return self.left


def _stopping() -> Unavailable:
    return Unavailable("the service is stopping; send this again", retry_after_s=2)


def _remaining(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
