"""Batches the waiting inputs of many threads into passes through one model.

Leader/follower ("flat combining", Hendler et al., SPAA 2010): no batching thread and no wait timer.
A thread that finds the model free becomes the leader: it takes a batch within the token budget from
all waiting requests of the lane whose turn it is (`turns.py`), encodes it inline, gives each
request its rows, and promotes the oldest waiter in `finally`. An idle service adds no wait; a busy
one grows its batches by itself. Where a device computes one pass while the next is copied to it,
the next leader begins as soon as the pass before was launched.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from config.serving import Lane
from embedders.base import Embedder, Encoded, Gone, Item
from errors import ClientGone, DeadlineExceeded, QueueFull, ServiceError, Unavailable
from observability import metrics, tracing
from server import slots
from serving.encoder import BatchHealth, Encoder, Limits
from serving.forward import Forward
from serving.scheduler import Job, take_mixed_lengths, take_similar_lengths
from serving.turns import Turns

# Where nothing says how many tokens may wait: so many seconds of passes, half of the default
# deadline, at least so many tokens. A pass counts if it is half full: a lone short text says
# nothing of the rate under load. Before the first such pass it is `UNMEASURED`.
QUEUE_S, QUEUE_LEAST, UNMEASURED, HALF_FULL = 60.0, 65_536, 2_000_000, 0.5
# Between two looks at a caller's socket: at each pass 100 callers would be 90,000 calls a second.
LOOK_EVERY_S = 0.05


@dataclass
class Waiting:
    """What waits in one lane, and how fast it is served. Changes under the batcher's lock.

    A pass tells the rate if it left some of the lane waiting or was half full of it: a lone short
    text says nothing of the rate under load.
    """

    tokens: int = 0
    tokens_per_s: float = 0.0  # while something waits
    _since_s: float = 0.0  # seconds of passes since this lane's last one

    def passed(self, tokens: int, took_s: float, *, tells: bool) -> None:
        """Count a pass with so many tokens of this lane."""
        self._since_s += took_s
        if tokens and tells:
            rate = tokens / max(self._since_s, 1e-6)
            self.tokens_per_s = _follow(self.tokens_per_s, rate)
        if tokens or not self.tokens:
            self._since_s = 0.0

    @property
    def left_s(self) -> float:
        """How long it will be until all is served."""
        return self.tokens / (self.tokens_per_s or self.tokens or 1)


class Batcher(Encoder):
    """Encodes on one embedder for many threads at once, `embedder.in_flight` passes at a time."""

    def __init__(
        self,
        embedder: Embedder,
        *,
        max_tokens: int,
        limits: Limits | None = None,
        hung_after_s: float = 300,
        numbers: metrics.ModelMetrics | None = None,
    ) -> None:
        """Form passes of `max_tokens` tokens within the limits; None for what suits the embedder.

        A pass of `hung_after_s` makes the model unhealthy.
        """
        super().__init__(embedder)
        self._max_tokens = max_tokens
        self._lock = threading.Lock()
        self._jobs: list[Job] = []  # oldest first; only those with inputs left to take
        self._choosing = False  # whether a leader has not yet launched its pass
        self._under_way = 0  # leaders: passes under way, and the one that is chosen
        self._stopping = False
        self._waiting: dict[Lane, Waiting] = {"interactive": Waiting(), "bulk": Waiting()}
        self._full_tokens_per_s = 0.0  # of full passes
        self._turns = Turns()
        self._numbers = numbers or metrics.ModelMetrics()
        self._forward = Forward(embedder, hung_after_s, self._numbers)
        self.limit(limits or Limits())

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
        entered = time.monotonic()
        job = Job(items, deadline, gone, order, len(items), tokens, entered)
        self._enter(job)
        with slots.away():
            while not job.done:
                if job.leads:
                    self._lead(job)
                elif not job.awake.wait(_remaining(deadline)):
                    self._leave(job)
                else:
                    job.awake.clear()
            if job.leads:  # chosen while another pass failed it: the lead is another's
                with self._lock:
                    self._end_lead(job, launched=False)
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

    def limit(self, limits: Limits) -> None:
        """Change the limits, from the next pass and the next request on."""
        self._limits = limits
        promise = limits.promise_ms
        self._turns.promise_s = None if promise is None else promise / 1000

    @property
    def _max_items(self) -> int:
        return self._limits.max_items or self.embedder.pass_items

    @property
    def queue_limit(self) -> int:
        """The tokens that may wait in a lane: what was set, else a minute of measured passes."""
        if self._limits.max_queue_tokens is not None:
            return self._limits.max_queue_tokens
        measured = int(self._full_tokens_per_s * QUEUE_S)
        return max(QUEUE_LEAST, measured) if measured else UNMEASURED

    def stop(self) -> None:
        """Refuse what waits and what comes. A pass under way is still delivered."""
        with self._lock:
            self._stopping = True
            for job in [job for job in self._jobs if not job.leads]:
                self._fail(job, _stopping())

    def queued(self) -> tuple[int, int]:
        """Return how many requests and tokens wait."""
        with self._lock:
            return len(self._jobs), sum(each.tokens for each in self._waiting.values())

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
            waiting = self._waiting[job.lane]
            if waiting.tokens and waiting.tokens + job.tokens > self.queue_limit:
                raise QueueFull(
                    f"{waiting.tokens} tokens of {job.lane} requests are waiting already (limit "
                    f"{self.queue_limit}); send this again later",
                    retry_after_s=min(max(waiting.left_s, 1.0), 30.0),
                )
            waiting.tokens += job.tokens
            self._numbers.waiting(job.lane, 1, len(job.order), job.tokens)
            self._turns.came(job.lane, job.entered)
            self._jobs.append(job)
            self._promote()

    def _leave(self, job: Job) -> None:
        """Give up a job whose deadline has passed. Rows of it that still come are dropped."""
        with self._lock:
            if not job.done:
                self._fail(job, DeadlineExceeded("the request's deadline passed while it waited"))
            if job.leads:  # promoted at the last moment: another must lead
                self._end_lead(job, launched=False)

    def _fail(self, job: Job, error: Exception) -> None:
        """Take a job out of the queue with an error. Called with the lock held."""
        job.error = error
        tokens = sum(job.items[i].tokens for i in job.order)
        self._waiting[job.lane].tokens -= tokens
        self._numbers.waiting(job.lane, -bool(job.order), -len(job.order), -tokens)
        if isinstance(error, DeadlineExceeded | ClientGone):
            metrics.DROPPED.labels(error.code).inc()
        job.order = []
        if job in self._jobs:
            self._jobs.remove(job)
        job.awake.set()

    def _promote(self) -> None:
        """Make the oldest waiter a leader, if another pass may begin. Called with the lock held."""
        if self._choosing or self._under_way >= self.embedder.in_flight:
            return
        job = next((job for job in self._jobs if not job.leads), None)
        if job is not None:
            self._choosing, job.leads = True, True
            self._under_way += 1
            job.awake.set()

    def _end_lead(self, job: Job, *, launched: bool) -> None:
        """Let another take the place of a leader. Called with the lock held."""
        job.leads = False
        self._under_way -= 1
        if not launched:
            self._choosing = False
        self._promote()

    # -- leading ---------------------------------------------------------------------------------

    def _lead(self, job: Job) -> None:
        """Encode one batch, deliver its rows, and pass the lead on, whatever happens."""
        finished: list[Job] = []
        batch: list[tuple[Job, int]] = []
        tells: set[Lane] = set()
        launched = False

        def on_launch() -> None:
            nonlocal launched
            with self._lock:
                if not launched:
                    launched, self._choosing = True, False
                    self._promote()

        try:
            self._look_at_callers()
            with self._lock:
                batch, tells = self._take()
            if batch:
                finished = self._run(batch, tells, on_launch)
        except BaseException:  # this thread is being ended: no other request may hang
            with self._lock:
                for waiting in {job for job, _ in batch if not job.done}:
                    self._fail(waiting, Unavailable("the pass through the model was broken off"))
            raise
        finally:
            with self._lock:
                self._end_lead(job, launched=launched)
            for each in finished:
                each.awake.set()

    def _look_at_callers(self) -> None:
        """Find out which callers hung up, without the lock, which the others need meanwhile."""
        with self._lock:
            jobs = list(self._jobs)
        for job in jobs:
            if job.gone is not None and job.look_at <= (now := time.monotonic()):
                job.look_at, job.left = now + LOOK_EVERY_S, job.gone()

    def _take(self) -> tuple[list[tuple[Job, int]], set[Lane]]:
        """Choose the next batch, within the budget. Called with the lock held.

        Returns it, and the lanes whose rate it tells: see `Waiting`.
        """
        self._drop_expired()
        if not self._jobs:
            return [], set()
        now = time.monotonic()
        lane = self._turns.next({job.lane for job in self._jobs})
        givers = [job for job in self._jobs if job.lane == lane]
        # On a CPU interactive requests would wait for bulk's inputs, and bulk would lose a part of
        # its turn. On a GPU a pass takes nearly as long whatever is in it, so both lanes go along.
        together = self.embedder.facts.device.startswith("cuda")
        if together:
            givers += [job for job in self._jobs if job.lane != lane]
        room = self._turns.room(lane, self._full, now, together=together)
        take = take_similar_lengths if self.embedder.pads else take_mixed_lengths
        batch = take(givers, room, self._max_items)
        for job, _ in batch:
            if not job.taken:
                job.taken = now
                self._numbers.waited(job.lane, now - job.entered)
        tells: set[Lane] = set()
        for lane, waiting in self._waiting.items():
            taken = [(job, i) for job, i in batch if job.lane == lane]
            if taken:
                tokens = sum(job.items[i].tokens for job, i in taken)
                waiting.tokens -= tokens
                share = max(tokens / max(room, 1), len(taken) / self._max_items)
                if waiting.tokens or share >= HALF_FULL:
                    tells.add(lane)
                ended = len({job for job, _ in taken if not job.order})
                self._numbers.waiting(lane, -ended, -len(taken), -tokens)
        self._jobs = [job for job in self._jobs if job.order]
        return batch, tells

    @property
    def _full(self) -> int:
        """The tokens of the largest pass that the device takes now."""
        return int(self._max_tokens * self._forward.budget)

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

    def _run(
        self, batch: list[tuple[Job, int]], tells: set[Lane], on_launch: Callable[[], None]
    ) -> list[Job]:
        """Encode a batch and deliver; return the jobs that are finished by it."""
        rows, took = self._forward.rows([job.items[i] for job, i in batch], on_launch)
        lengths = [job.items[i].tokens for job, i in batch]
        tokens = sum(lengths)
        width = max(lengths) * len(batch) if self.embedder.pads else tokens
        share = max(width / self._max_tokens, len(batch) / self._max_items)
        self._numbers.filled(share)
        finished: list[Job] = []
        with self._lock:
            self._count(batch, tells, width, took)
            if share >= HALF_FULL:
                rate = tokens / max(took, 1e-6)
                self._full_tokens_per_s = _follow(self._full_tokens_per_s, rate)
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

    def _count(
        self, batch: list[tuple[Job, int]], tells: set[Lane], width: int, took_s: float
    ) -> None:
        """Count a pass `width` tokens wide for both lanes. Called with the lock held."""
        tokens: dict[Lane, int] = {"interactive": 0, "bulk": 0}
        for job, i in batch:
            tokens[job.lane] += job.items[i].tokens
        for lane, waiting in self._waiting.items():
            waiting.passed(tokens[lane], took_s, tells=lane in tells)
        bulk = round(width * tokens["bulk"] / max(sum(tokens.values()), 1))
        waits = self._waiting["bulk"].tokens > 0
        self._turns.passed(width, bulk, self._full, took_s, waits=waits)


def _follow(mean: float, rate: float) -> float:
    """Return the moving average of rates with one more; the first is taken as it is."""
    return mean + (rate - mean) * (0.1 if mean else 1)


def _stopping() -> Unavailable:
    return Unavailable("the service is stopping; send this again", retry_after_s=2)


def _remaining(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
