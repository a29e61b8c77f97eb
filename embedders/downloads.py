"""Shows how far a download is: a bar on a terminal, else a line in the log every few seconds."""

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

log = logging.getLogger("embedders")
FIRST_S, EVERY_S = 2.0, 5.0  # until the first line, and from one line to the next
REDRAWN_S = 0.2


class _Count(tqdm):  # type: ignore[misc]  # tqdm has no types
    """A bar of the hub's library that shows nothing, and counts in its class."""

    bars: list["_Count"]
    monitor_interval = 0  # no thread of tqdm's own

    def __init__(self, *args: Any, **options: Any) -> None:
        # Where tqdm is turned off for the whole process it would count nothing.
        super().__init__(*args, **{**options, "disable": False, "file": _Nothing()})
        self.bars.append(self)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Show nothing."""


class _Nothing:
    """A file that keeps nothing."""

    def write(self, text: str) -> None:
        """Keep nothing."""

    def flush(self) -> None:
        """Do nothing."""


@contextmanager
def shown(name: str) -> Iterator[type[tqdm]]:
    """Give the class with which the hub's library counts; show its bytes until the block ends."""
    bars: list[_Count] = []
    counts = type("Count", (_Count,), {"bars": bars})
    done = threading.Event()
    show = _draw if sys.stderr.isatty() and not os.environ.get("TQDM_DISABLE") else _write
    thread = threading.Thread(target=show, args=(name, bars, done), daemon=True)
    thread.start()
    try:
        yield counts
    finally:
        done.set()
        thread.join()


def _so_far(bars: list[_Count]) -> tuple[int, int]:
    """Return the bytes that are there, and those that are wanted.

    The library counts bytes twice, from the network and onto the disk, and files besides.
    """
    of_bytes = [bar for bar in list(bars) if bar.unit == "B"]
    return (int(max((bar.n for bar in of_bytes), default=0)),
            int(max((bar.total or 0 for bar in of_bytes), default=0)))  # fmt: skip


def _write(name: str, bars: list[_Count], done: threading.Event) -> None:
    begun, wait_s = time.monotonic(), FIRST_S
    while not done.wait(wait_s):
        there, wanted = _so_far(bars)
        seconds = time.monotonic() - begun
        if wanted:
            log.info("downloading %s: %.0f of %.0f MB in %.0f s", name, there / 1e6, wanted / 1e6,
                     seconds)  # fmt: skip
        else:
            log.info("downloading %s: the hub has not said how much in %.0f s", name, seconds)
        wait_s = EVERY_S


def _draw(name: str, bars: list[_Count], done: threading.Event) -> None:
    with tqdm(desc=name, unit="B", unit_scale=True, leave=False) as bar:
        while not done.wait(REDRAWN_S):
            there, bar.total = _so_far(bars)
            bar.update(there - bar.n)
            bar.refresh()
