"""A journal together with the state that is read from it, safe for threads, forks and processes.

Readers call `refresh` and look at the state; who writes does so inside `exclusive`. Order of locks:
`writing` (threads), LOCK (processes), `state` (short). `Catalog` and `Collection` build on it.
"""

import logging
import os
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from errors import Busy, ServiceError
from store.budget import UNBOUNDED, Budget
from store.frames import Frame
from store.fs import FS, failures
from store.journal import Fsync, Journal, Step, gone, no_step
from store.locks import FileLock

log = logging.getLogger("store")


@dataclass(frozen=True)
class Options:
    """How a file store behaves; see docs/store.md."""

    fsync: Fsync = "always"
    sync_interval_s: float = 1.0
    lock_timeout_s: float = 10.0
    compact_rows: int = 10_000  # compact by itself when so many rows, and half of all, are dead
    ann_above: int = 0  # search approximately from so many rows on; 0: never


class Ledger:
    """The state of one journal folder, kept up with what other processes append."""

    def __init__(self, fs: FS, folder: Path, options: Options, step: Step = no_step) -> None:
        self.fs, self.folder, self.options, self.step = fs, folder, options, step
        self.journal: Journal | None = None
        self._flock = FileLock(folder / "LOCK")
        self.reset_locks()
        _alive.add(self)

    def reset_locks(self) -> None:
        """Make new thread locks: in a forked child the old ones may be held by nobody."""
        self.state = threading.RLock()
        self.writing = threading.Lock()
        self._flock.close()

    def load(self, journal: Journal, exclusive: bool) -> bool:
        """Start the state anew for a journal just opened. False: only under the lock, please."""
        raise NotImplementedError

    def apply(self, frame: Frame) -> None:
        """Change the state by one frame."""
        raise NotImplementedError

    @contextmanager
    def current(self, budget: Budget = UNBOUNDED) -> Iterator[Journal]:
        """Hold the state still, as new as what is on the disk."""
        for _ in range(3):
            with budget.holding(self.state), failures("read"):
                if self._catch_up(exclusive=False):
                    assert self.journal is not None
                    yield self.journal
                    return
            with self.exclusive(writable=False):
                pass
        raise Busy(f"{self.folder} is being replaced again and again", retry_after_s=1)

    def _catch_up(self, exclusive: bool) -> bool:
        """Apply what is new, reopening if a compaction took over. Called with `state` held."""
        if self.journal is None or self.journal.replaced():
            self.journal = None
            journal = self._open()
            if not self.load(journal, exclusive):
                return False
            self.journal = journal
        for frame in self.journal.new_frames():
            self.apply(frame)
        return True

    def _open(self) -> Journal:
        """Open the current generation, again if it is replaced between two looks at it."""
        for _ in range(100):
            try:
                return Journal(self.fs, self.folder)
            except FileNotFoundError:
                if not (self.folder / "MANIFEST").exists():
                    raise gone(self.folder) from None
                time.sleep(0.001)
        raise Busy(f"{self.folder} is being replaced again and again", retry_after_s=1)

    @contextmanager
    def exclusive(self, writable: bool = True) -> Iterator[Journal]:
        """Be the only writer of all threads and processes, with the state up to date.

        Raises Busy when that takes too long and, where `writable`, Corrupt for damage.
        """
        with self.locked() as unclean:
            with self.state, failures("read"):
                self._catch_up(exclusive=True)
                journal = self.journal
            assert journal is not None
            if writable:
                journal.check_tail(unclean)
            yield journal

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Hold the lock and look at nothing; tell whether its last holder died holding it."""
        deadline = time.monotonic() + self.options.lock_timeout_s
        if not self.writing.acquire(timeout=self.options.lock_timeout_s):
            raise Busy("other writers of this process hold the collection", retry_after_s=1)
        try:
            with self._flock.held(max(0.0, deadline - time.monotonic())) as unclean:
                yield unclean
        finally:
            self.writing.release()

    def sync(self) -> None:
        """Bring to the disk what has been written without."""
        journal = self.journal
        if journal is not None and journal.unsynced and not journal.poison:
            with self.exclusive() as current:
                current.sync()

    def close(self) -> None:
        """Let go of the files."""
        with self.state:
            self.journal = None
        self._flock.close()


class Syncer:
    """A thread that syncs every so often, for fsync="interval"; one in each process that writes."""

    def __init__(self, ledgers: Mapping[str, Ledger], interval_s: float) -> None:
        self._ledgers, self._interval_s = ledgers, interval_s
        self._pid = 0
        self._stop = threading.Event()

    def start(self) -> None:
        """Start the thread, unless this process has it."""
        if self._pid != os.getpid():
            self._pid, self._stop = os.getpid(), threading.Event()
            threading.Thread(target=self._run, args=(self._stop,), daemon=True).start()

    def stop(self) -> None:
        """Let the thread end."""
        self._stop.set()

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(self._interval_s):
            for ledger in list(self._ledgers.values()):
                try:
                    ledger.sync()
                except ServiceError as exc:  # poisoned, dropped or busy: the next write is told
                    log.warning("%s was not synced: %s", ledger.folder, exc.message)


_alive: "weakref.WeakSet[Ledger]" = weakref.WeakSet()


def _after_fork() -> None:
    for ledger in list(_alive):
        ledger.reset_locks()


os.register_at_fork(after_in_child=_after_fork)
