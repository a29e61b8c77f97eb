"""Shares a model's requests between its replicas, and leaves out those that fail.

A request goes to the replica with the fewest tokens under way; if that fails, to the next, until
its deadline. Each replica has a circuit breaker, whose probe runs in a thread, never in a request.
The probe also proves the embedding space: its vector must agree with the first replica's. What did
not load has a breaker too, and its probe is the next try to load it.
"""

import functools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from circuit_breaker import CircuitBreaker
from embedders.base import DENSE, Encoded, Gone, Item, Row
from errors import ModelUnavailable, ProviderError, QueueFull, ServiceError, Unavailable
from serving.checks import agree
from serving.encoder import Encoder, Place

PROBE_TEXT = "a replica proves that it encodes"
PROBE_S = 15.0  # how long a probe may take
PAUSES_S = (1.0, 2.0, 5.0, 10.0, 30.0)  # between the probes of a replica that fails
LOAD_PAUSES_S = (30.0, 60.0, 120.0, 300.0)  # between the tries to load a replica

State = Literal["up", "down", "unproved"]


class Missing(NamedTuple):
    """A place where the model did not load: why, and what loads it or raises."""

    name: str
    reason: str
    load: Callable[[], Encoder]


@dataclass(eq=False)
class Replica:
    """One place where the model runs. Its counts change under the lock of its set."""

    name: str
    encoder: Encoder | None  # None: not loaded yet
    load: Callable[[], Encoder] | None = None
    breaker: CircuitBreaker = field(init=False)
    proved: bool = False
    tokens: int = 0  # under way
    served: int = 0
    failed: int = 0

    @property
    def state(self) -> State:
        """Up gets requests; an unproved one was not probed yet."""
        if self.breaker.problem is not None:
            return "down"
        return "up" if self.proved else "unproved"


class Replicas(Encoder):
    """A set of replicas that encodes like one. Safe from many threads."""

    def __init__(
        self, encoders: Sequence[tuple[str, Encoder]], missing: Sequence[Missing] = ()
    ) -> None:
        """Take what was loaded, by name, and what was not.

        Raises ModelUnavailable for encoders of different embedding spaces.
        """
        if len({encoder.embedder.facts.fingerprint for _, encoder in encoders}) > 1:
            raise ModelUnavailable("its replicas are not of one embedding space")
        super().__init__(encoders[0][1].embedder)
        self._lock = threading.Lock()
        self._closed = False
        self._reference: Row | None = None
        loaded = [Replica(name, encoder) for name, encoder in encoders]
        away = [Replica(name, None, load) for name, _, load in missing]
        self._all = [*loaded, *away]
        for replica in self._all:
            replica.breaker = CircuitBreaker(
                f"replica {replica.name}", functools.partial(self._probe, replica), failures=1,
                pauses=PAUSES_S if replica.encoder else LOAD_PAUSES_S, describe=_reason,
            )  # fmt: skip
        for replica, (_, reason, _) in zip(away, missing, strict=True):
            replica.breaker.failed(ModelUnavailable(reason))
        loaded[0].proved = True  # the others are compared with it
        threading.Thread(target=self._prove, args=(loaded,), name="replicas", daemon=True).start()

    def encode(
        self, items: Sequence[Item], deadline: float | None = None, gone: Gone | None = None
    ) -> Encoded:
        """Encode on the least busy replica, and on the next if that one fails. See `Encoder`.

        Raises what the last one raised, or Unavailable if none is up.
        """
        tokens = sum(item.tokens for item in items)
        # Copies that give dense vectors alone are not asked for anything else, nor blamed for it.
        tried = [] if all(item.outputs == DENSE for item in items) else self._dense_only()
        failure: ServiceError | None = None
        while replica := self._take(tokens, tried):
            tried.append(replica)
            assert replica.encoder is not None
            try:
                encoded = replica.encoder.encode(items, deadline, gone)
            except Exception as exc:
                if not self._may_another_succeed(replica, exc):
                    raise
                failure = exc if isinstance(exc, ServiceError) else Unavailable("a replica failed")
                if deadline is not None and time.monotonic() >= deadline:
                    raise failure from None
            else:
                replica.served += 1
                return encoded
            finally:
                with self._lock:
                    replica.tokens -= tokens
        if failure is not None:
            raise failure
        reasons = "; ".join(f"{r.name}: {r.breaker.problem or r.state}" for r in self._all)
        raise Unavailable(
            f"no replica is up ({reasons})",
            short="no replica of the model is up; send this again later",
            retry_after_s=PAUSES_S[1],
        )

    def failing_reason(self) -> str | None:
        """Return why the first replica cannot encode. One that fails is only left out."""
        return self.embedder.not_ready_reason()

    @property
    def places(self) -> Sequence[Place]:
        """Each replica that was loaded."""
        return [
            Place(r.encoder, r.name, None if r.state == "up" else r.breaker.problem or r.state)
            for r in self._all
            if r.encoder is not None
        ]

    def status(self) -> list[dict[str, object]]:
        """Return each replica's state as JSON."""
        with self._lock:
            return [
                {"name": each.name, "status": each.state, "reason": each.breaker.problem,
                 "queued_tokens": each.tokens, "served": each.served, "failed": each.failed}
                for each in self._all
            ]  # fmt: skip

    def close(self) -> None:
        """End the probing and free what the replicas hold."""
        with self._lock:
            self._closed = True
            encoders = [each.encoder for each in self._all if each.encoder is not None]
        for each in self._all:
            each.breaker.close()
        for encoder in encoders:
            encoder.close()

    def _dense_only(self) -> list[Replica]:
        return [each for each in self._all if each.encoder and each.encoder.embedder.dense_only]

    def _take(self, tokens: int, tried: list[Replica]) -> Replica | None:
        with self._lock:
            free = [each for each in self._all if each.state == "up" and each not in tried]
            if not free:
                return None
            chosen = min(free, key=lambda each: (each.tokens, each.served))
            chosen.tokens += tokens
            return chosen

    def _may_another_succeed(self, replica: Replica, exc: Exception) -> bool:
        """Whether it is worth trying another replica. Leaves this one out if it is at fault."""
        if isinstance(exc, QueueFull):
            return True
        if isinstance(exc, ServiceError) and not isinstance(exc, ProviderError | Unavailable):
            return False  # the request's own fault, or its deadline
        replica.failed += 1
        replica.breaker.failed(exc)
        return True

    # -- in the background -------------------------------------------------------------------------

    def _prove(self, replicas: Sequence[Replica]) -> None:
        for replica in replicas:
            try:
                self._probe(replica)
            except Exception as exc:
                replica.breaker.failed(exc)

    def _probe(self, replica: Replica) -> None:
        """Load the replica if need be, and encode a text on it. Raises why it is not to be used."""
        encoder = replica.encoder or self._load(replica)
        if reason := encoder.embedder.not_ready_reason():
            raise ModelUnavailable(reason)
        items = encoder.embedder.trial(PROBE_TEXT)
        row = encoder.encode(items, time.monotonic() + PROBE_S).row(0)
        if self._reference is None:
            self._reference = row
        if not agree(row, self._reference):
            raise ModelUnavailable("its vectors are not those of the first replica")
        replica.proved = True

    def _load(self, replica: Replica) -> Encoder:
        assert replica.load is not None
        encoder = replica.load()
        with self._lock:
            same = encoder.embedder.facts.fingerprint == self.embedder.facts.fingerprint
            if same and not self._closed:
                replica.encoder = encoder
                replica.breaker.pauses = PAUSES_S
                return encoder
        encoder.close()
        raise ModelUnavailable("it is not of the first replica's embedding space")


def _reason(exc: BaseException) -> str:
    return exc.message if isinstance(exc, ServiceError) else type(exc).__name__
