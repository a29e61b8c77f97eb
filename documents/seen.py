"""Counts how often each of many keys came before, in 8 bytes a key."""

import numpy as np

MERGED = 1 << 18  # keys that are held as Python's own before they are packed


class Seen:
    """Keys that were added; two of many millions may by chance count as one."""

    def __init__(self) -> None:
        self._packed = np.empty(0, np.uint64)  # sorted
        self._fresh: set[int] = set()
        self._again: dict[int, int] = {}  # keys that came more than once

    def add(self, key: bytes) -> int:
        """Add a key of at least 8 bytes; return how often it was added before."""
        number = int.from_bytes(key[:8], "big")
        before = self._again.get(number)
        if before is None:
            if number not in self._fresh and not self._is_packed(number):
                self._fresh.add(number)
                if len(self._fresh) == MERGED:
                    self._pack()
                return 0
            before = 1
        self._again[number] = before + 1
        return before

    def _is_packed(self, number: int) -> bool:
        at = int(np.searchsorted(self._packed, np.uint64(number)))
        return at < len(self._packed) and int(self._packed[at]) == number

    def _pack(self) -> None:
        fresh = np.fromiter(self._fresh, np.uint64, len(self._fresh))
        self._packed = np.sort(np.concatenate([self._packed, fresh]))
        self._fresh.clear()
