"""Shares a model's requests out between its replicas and leaves out those that fail.

A lane like a batcher: the same `encode`. A request goes to the replica with the least tokens on
their way; if that fails, to the next, while its deadline lasts. A replica that failed is left out
until a probe, sent by a thread of its own and never by a request, is answered. The probe also
proves the embedding space: its vector must agree with the first replica's. Only replicas of one
fingerprint are put together at all. What did not load is tried again by the same thread, now and
then. Owns the choice; knows nothing of how a replica encodes.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from embedders.base import Embedder, Encoded, Item, Prompt, Vectors
from errors import ModelUnavailable, ProviderError, QueueFull, ServiceError, Unavailable
from serving.batcher import Batcher

log = logging.getLogger("replicas")

PROBE_TEXT = "a replica proves that it encodes"
PROBE_S = 15.0  # how long a probe may take
PAUSES_S = (1.0, 2.0, 5.0, 10.0, 30.0)  # between the probes of one that stays away
LOAD_PAUSES_S = (30.0, 60.0, 120.0, 300.0)  # between the tries to load one that did not
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


@dataclass(eq=False)
class Missing:
    """A place where the model did not load, why, and what tries it again. Raises what that does."""

    name: str
    reason: str
    load: Callable[[], Replica]
    tries: int = 0
    next_try: float = field(default_factory=lambda: time.monotonic() + LOAD_PAUSES_S[0])


class Replicas:
    """A set of replicas that is used like one. Safe from many threads."""

    def __init__(self, replicas: Sequence[Replica], missing: Sequence[Missing] = ()) -> None:
        """Take what was loaded, and what was not."""
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
            return loaded + [_row(each.name, "down", each.reason) for each in self._missing]

    def close(self) -> None:
        """End the probing and give back what the replicas hold."""
        with self._lock:
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
        replica.failed += 1
        self._set(replica, "down", _reason(exc))
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
        known = [f"{each.name}: {each.reason or each.state}" for each in self._all]
        reasons = "; ".join(known + [f"{each.name}: {each.reason}" for each in self._missing])
        return Unavailable(
            f"no replica is up ({reasons})",
            short="no replica of the model is up; send this again later",
            retry_after_s=PAUSES_S[1],
        )

    # -- in the background -------------------------------------------------------------------------

    def _watch(self) -> None:
        self._probe(self._all[0])
        while not self._closed:
            now = time.monotonic()
            with self._lock:
                away = [each for each in self._all if each.state != "up"]
                due = [each for each in away if each.next_probe <= now]
                late = [each for each in self._missing if each.next_try <= now]
                times = [each.next_probe for each in away] + [m.next_try for m in self._missing]
                until = min(times, default=None)
            for replica in due:
                self._probe(replica)
            for missing in late:
                self._load(missing)
            if not due and not late:
                self._wake.wait(None if until is None else max(0.0, until - now))
                self._wake.clear()

    def _load(self, missing: Missing) -> None:
        """Try to load what did not, and take it among the others, yet to be proved."""
        try:
            replica = missing.load()
            if replica.embedder.facts.fingerprint != self._all[0].embedder.facts.fingerprint:
                replica.embedder.close()
                raise ModelUnavailable("it is not of the first replica's embedding space")
        except Exception as exc:
            missing.tries += 1
            pause = LOAD_PAUSES_S[min(missing.tries, len(LOAD_PAUSES_S) - 1)]
            missing.reason, missing.next_try = _reason(exc), time.monotonic() + pause
            return
        with self._lock:
            if not self._closed:
                self._missing.remove(missing)
                self._all.append(replica)
                log.info("replica %s is loaded", replica.name)
                return
        replica.embedder.close()

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
            self._set(replica, "down", _reason(exc))
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


def _reason(exc: Exception) -> str:
    return exc.message if isinstance(exc, ServiceError) else type(exc).__name__


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
