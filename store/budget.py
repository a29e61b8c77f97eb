"""What one call may take: time until its deadline, work while its caller is there, bytes of reply.

Goes from a route through the library into the stores, which ask it while they read: between rows,
pages and filters, so that nothing is held in memory that will not be sent.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from errors import ClientGone, DeadlineExceeded, TooLarge

# The most that a float32 takes in JSON: -1.17549435e-38 and a comma.
NUMBER_BYTES = 16
# The names of a record's parts, its score, quotes and brackets.
RECORD_BYTES = 96
# The caller's socket is asked no more often: it is a system call.
ASK_EVERY_S = 0.1


class Budget:
    """The budget of one call. What is None is without a limit.

    `deadline` is a `time.monotonic()` value, `gone` returns whether the caller hung up, `left` is
    how many bytes of JSON may still be replied.
    """

    def __init__(
        self,
        deadline: float | None = None,
        gone: Callable[[], bool] | None = None,
        left: int | None = None,
    ) -> None:
        self.deadline, self.left = deadline, left
        self._gone, self._most = gone, left
        self._ask_from, self._was_gone = 0.0, False

    def anew(self) -> "Budget":
        """Return one with all its bytes, for another attempt at the same."""
        return Budget(self.deadline, self._gone, self._most)

    def unmetered(self) -> "Budget":
        """Return one with the same deadline and caller, for reading what is not replied."""
        return Budget(self.deadline, self._gone)

    def check(self) -> None:
        """Raise DeadlineExceeded or ClientGone if the work has become useless."""
        if self.deadline is None and self._gone is None:
            return
        now = time.monotonic()
        if self.deadline is not None and now > self.deadline:
            raise DeadlineExceeded("the request's deadline passed before it was answered")
        if self._gone is not None and now >= self._ask_from:
            self._ask_from, self._was_gone = now + ASK_EVERY_S, self._gone()
        if self._was_gone:
            raise ClientGone("the client closed the connection")

    @contextmanager
    def holding(self, lock: "threading.Lock | threading.RLock") -> Iterator[None]:
        """Hold a lock for a block. Raises as `check` while it waits."""
        while not lock.acquire(timeout=ASK_EVERY_S):
            self.check()
        try:
            yield
        finally:
            lock.release()

    def fits(self, record: Any) -> bool:
        """Whether a `store.base.Record` may be replied too; it is counted if so."""
        self.check()
        if self.left is None:
            return True
        numbers = 0 if record.vector is None else record.vector.size
        written = orjson.dumps((record.id, record.text, record.metadata))
        return self._take(RECORD_BYTES + len(written) + numbers * NUMBER_BYTES)

    def spend(self, record: Any) -> None:
        """Count a record that is to be replied. Raises TooLarge where there is no room for it."""
        if not self.fits(record):
            raise TooLarge(
                f"the reply would have more than {self._most:,} bytes (MAX_REPLY_BYTES): ask for "
                "less, with fewer ids or queries, a smaller k or limit, or without vector or text "
                "in include"
            )

    def takes(self, part: object) -> bool:
        """Whether another part of a reply fits as JSON; it is counted if so."""
        self.check()
        return self.left is None or self._take(len(orjson.dumps(part)))

    def _take(self, cost: int) -> bool:
        assert self.left is not None
        if cost > self.left:
            self.left = 0  # even where it is replied all the same, nothing follows it
            return False
        self.left -= cost
        return True


UNBOUNDED = Budget()
