"""Counts tries to sign in over the last minute, so that guessing is slow.

A try counts from before its password is hashed, so of many at once only as many are hashed as are
allowed; one that was right is taken back. Each process counts for itself. Knows no users, no HTTP.
"""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager

from errors import RateLimited, Unauthorized

MINUTE_S = 60.0
MANY = 10_000  # of counted names and addresses; above this, those of long ago are looked for

# What a try counts for, and how many of it a minute may have.
Counted = tuple[Hashable, int]


class Tries:
    """The wrong tries of the last minute and those under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wrong: defaultdict[Hashable, list[float]] = defaultdict(list)  # the oldest first
        self._under_way: Counter[Hashable] = Counter()

    @contextmanager
    def one(self, counted: Sequence[Counted]) -> Iterator[None]:
        """Count the block as a try, and as a wrong one only if it raises Unauthorized.

        Raises RateLimited, and runs no block, where one of the limits is reached.
        """
        with self._lock:
            self._let_in(counted, time.monotonic())
            self._under_way.update(who for who, _ in counted)
        wrong = False
        try:
            yield
        except Unauthorized:
            wrong = True
            raise
        finally:
            self._settle(counted, wrong)

    def _let_in(self, counted: Sequence[Counted], now: float) -> None:
        if len(self._wrong) > MANY:
            for who in list(self._wrong):
                self._forget(who, now)
        for who, most in counted:
            self._forget(who, now)
            wrong = self._wrong.get(who, [])
            if len(wrong) >= most:
                _refuse(max(1.0, wrong[-most] + MINUTE_S - now))
            if len(wrong) + self._under_way[who] >= most:
                _refuse(1.0)  # those under way may be right

    def _settle(self, counted: Sequence[Counted], wrong: bool) -> None:
        now = time.monotonic()
        with self._lock:
            for who, _ in counted:
                self._under_way[who] -= 1
                if not self._under_way[who]:
                    del self._under_way[who]
                if wrong:
                    self._wrong[who].append(now)

    def _forget(self, who: Hashable, now: float) -> None:
        """Forget what is older than a minute."""
        recent = [at for at in self._wrong.get(who, ()) if now - at < MINUTE_S]
        if recent:
            self._wrong[who] = recent
        else:
            self._wrong.pop(who, None)


def _refuse(wait_s: float) -> None:
    raise RateLimited(
        f"too many wrong passwords, or too many at once; try again in {wait_s:.0f} s",
        retry_after_s=wait_s,
    )
