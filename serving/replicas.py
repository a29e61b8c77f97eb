"""Shares a model's requests out between its replicas and leaves out those that fail.

A lane like a batcher: the same `encode`. A request goes to the replica with the least tokens on
their way; if that fails, to the next, while its deadline lasts. A replica that failed is left out
until a probe, sent by a thread of its own and never by a request, is answered. The probe also
proves the embedding space: its vector must agree with the first replica's. Only replicas of one
fingerprint are put together at all. Owns the choice; knows nothing of how a replica encodes.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from embedders.base import Embedder, Encoded, Item, Prompt, Vectors
from errors import ModelUnavailable, ProviderError, QueueFull, ServiceError, Unavailable
from serving.batcher import Batcher

log = logging.getLogger("replicas")

PROBE_TEXT = "a replica proves that it encodes"
PROBE_S = 15.0  # how long a probe may take
PAUSES_S = (1.0, 2.0, 5.0, 10.0, 30.0)  # between the probes of one that stays away
SAME_SPACE = 0.98  # cosine of two replicas' probes; precision and batching explain no more

State = Literal["up", "down", "unproved"]


class Lane(Protocol):
    """What a replica encodes through: a batcher, or the embedder itself."""

    def encode(self, items: Sequence[Item], deadline: float | None = None) -> Encoded:
        """Encode `items`, in order."""


@dataclass(eq=False)
class Replica:
    """One place where the model runs. Its state is its set's to change, under the set's lock."""

    name: str
    embedder: Embedder
    lane: Lane
    state: State = "unproved"
    reason: str | None = None
    tokens: int = 0  # on their way
    served: int = 0
    failed: int = 0
    probes: int = 0  # in a row without success
    next_probe: float = 0.0


class Replicas:
    """A set of replicas that is used like one. Safe from many threads."""

    def __init__(
        self, replicas: Sequence[Replica], missing: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Take what was loaded, and the names of those that were not with their reasons."""
        spaces = {replica.embedder.facts.fingerprint for replica in replicas}
        if len(spaces) > 1:
            raise ModelUnavailable("its replicas are not of one embedding space")
        self._all = list(replicas)
        self._missing = list(missing)
        self._all[0].state = "up"  # the first needs no proof: the others are compared with it
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._reference: Vectors | None = None
        threading.Thread(target=self._watch, name="replicas", daemon=True).start()

    def encode(
        self,
        items: Sequence[Item],
        deadline: float | None = None,
        gone: Callable[[], bool] | None = None,
    ) -> Encoded:
        """Encode on the least busy replica, and on the next if that one fails.

        `gone` tells whether the caller went away: where requests wait, its is dropped then.
        Raises what the last one raised, or Unavailable if none is up.
        """
        tokens = sum(item.tokens for item in items)
        tried: list[Replica] = []
        failure: ServiceError | None = None
        while replica := self._take(tokens, tried):
            tried.append(replica)
            try:
                encoded = _encode(replica.lane, items, deadline, gone)
            except Exception as exc:
                if not self._left_out(replica, exc):
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
        raise failure or self._nobody()

    @property
    def replicas(self) -> Sequence[Replica]:
        """Those that were loaded, whatever their state."""
        return self._all

    @property
    def lanes(self) -> list[Lane]:
        """What each replica encodes through."""
        return [replica.lane for replica in self._all]

    def status(self) -> list[dict[str, object]]:
        """Return each replica's state as JSON."""
        with self._lock:
            loaded = [
                _row(each.name, each.state, each.reason, each.tokens, each.served, each.failed)
                for each in self._all
            ]
        return loaded + [_row(name, "down", reason) for name, reason in self._missing]

    def close(self) -> None:
        """End the probing and give back what the replicas hold."""
        self._closed = True
        self._wake.set()
        for replica in self._all:
            replica.embedder.close()

    def _take(self, tokens: int, tried: list[Replica]) -> Replica | None:
        with self._lock:
            free = [each for each in self._all if each.state == "up" and each not in tried]
            if not free:
                return None
            chosen = min(free, key=lambda each: (each.tokens, each.served))
            chosen.tokens += tokens
            return chosen

    def _left_out(self, replica: Replica, exc: Exception) -> bool:
        """Tell whether another replica may do better; leave this one out if it is broken."""
        if isinstance(exc, QueueFull):
            return True
        if isinstance(exc, ServiceError) and not isinstance(exc, ProviderError | Unavailable):
            return False  # the request's own fault, or its deadline
        reason = exc.message if isinstance(exc, ServiceError) else type(exc).__name__
        replica.failed += 1
        self._set(replica, "down", reason)
        return True

    def _set(self, replica: Replica, state: State, reason: str | None) -> None:
        with self._lock:
            changed = replica.state != state
            replica.state, replica.reason = state, reason
            pause = PAUSES_S[min(replica.probes, len(PAUSES_S) - 1)]
            replica.next_probe = time.monotonic() + pause
        if changed:
            log.warning("replica %s is %s%s", replica.name, state, f": {reason}" if reason else "")
        self._wake.set()

    def _nobody(self) -> Unavailable:
        known = [(each.name, each.reason or each.state) for each in self._all]
        reasons = "; ".join(f"{name}: {reason}" for name, reason in known + self._missing)
        return Unavailable(f"no replica is up ({reasons})", retry_after_s=PAUSES_S[1])

    # -- in the background -------------------------------------------------------------------------

    def _watch(self) -> None:
        self._probe(self._all[0])
        while not self._closed:
            now = time.monotonic()
            with self._lock:
                away = [each for each in self._all if each.state != "up"]
                due = [each for each in away if each.next_probe <= now]
                until = min((each.next_probe for each in away), default=None)
            for replica in due:
                self._probe(replica)
            if not due:
                self._wake.wait(None if until is None else max(0.0, until - now))
                self._wake.clear()

    def _probe(self, replica: Replica) -> None:
        """Encode one text there; put the replica in or leave it out by what comes back."""
        if reason := replica.embedder.obstacle():
            self._set(replica, "unproved" if replica.state == "unproved" else "down", reason)
            return
        replica.probes += 1
        try:
            items = replica.embedder.prepare([PROBE_TEXT], Prompt(), "right")
            vector = replica.lane.encode(items, time.monotonic() + PROBE_S).vectors[0]
        except Exception as exc:
            reason = exc.message if isinstance(exc, ServiceError) else type(exc).__name__
            self._set(replica, "down", reason)
            return
        if self._reference is None:
            self._reference = vector
        if not _agree(vector, self._reference):
            self._set(replica, "down", "its vectors are not those of the first replica")
            return
        replica.probes = 0
        if replica.state != "up":
            self._set(replica, "up", None)


def _encode(
    lane: Lane,
    items: Sequence[Item],
    deadline: float | None,
    gone: Callable[[], bool] | None,
) -> Encoded:
    if isinstance(lane, Batcher):
        return lane.encode(items, deadline, gone)
    return lane.encode(items, deadline)


def _row(
    name: str, state: State, reason: str | None, tokens: int = 0, served: int = 0, failed: int = 0
) -> dict[str, object]:
    return {
        "name": name,
        "status": state,
        "reason": reason,
        "queued_tokens": tokens,
        "served": served,
        "failed": failed,
    }


def _agree(one: Vectors, other: Vectors) -> bool:
    if one.shape != other.shape:
        return False
    lengths = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return float(one @ other) >= SAME_SPACE * lengths
