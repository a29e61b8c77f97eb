"""What one request looks up and encodes, for others that want the same at the same moment."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from cache.codec import Entry
from errors import DeadlineExceeded
from server import slots

# Wait for another request's vectors only if it encodes at most this many times as many texts: else
# a lone query whose text is part of a bulk load is encoded again, which is faster.
PATIENCE = 64


@dataclass(eq=False)
class InFlight:
    """The keys that one request looks up and encodes, and their rows for others that want them.

    A key is released only after its value is in the cache, so a later request finds it there.
    """

    keys: list[bytes] = field(default_factory=list)
    rows: dict[bytes, Entry] = field(default_factory=dict)
    missing: int = 0  # keys that were not in the cache
    looked: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def looked_up(self, found: dict[bytes, Entry]) -> None:
        """Share what the cache held."""
        self.rows, self.missing = dict(found), len(self.keys) - len(found)
        self.looked.set()

    def end(self, rows: dict[bytes, Entry]) -> None:
        """Share what was encoded."""
        self.rows = self.rows | rows
        self.ended.set()

    def wait(self, keys: Sequence[bytes], deadline: float | None, size: int) -> dict[bytes, Entry]:
        """Return those of these keys' entries that exist, for a request of `size` texts.

        Raises DeadlineExceeded.
        """
        _wait(self.looked, deadline)
        if self.missing <= PATIENCE * size and any(key not in self.rows for key in keys):
            _wait(self.ended, deadline)
        return {key: self.rows[key] for key in keys if key in self.rows}


def _wait(event: threading.Event, deadline: float | None) -> None:
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    with slots.away():
        ended = event.wait(left)
    if not ended:
        raise DeadlineExceeded("the request's deadline passed while it waited")
