"""One collection's file as a process has it open: connections, transactions, forks.

In WAL mode readers never wait, and a commit is on the disk before it is answered.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import apsw

from errors import Corrupt, Full, NotFound, ServiceError, Unavailable
from sql.apsw_driver import patience
from sql.forks import Calls
from store.local_disk import NO_SPACE, check_owner
from store.records import PAGE_BYTES, translated

log = logging.getLogger("store")

Fsync = Literal["always", "interval", "never"]
Step = Callable[[str], None]  # gets the name of each step of a write; tests kill there

WAL_PAGES = 512  # take the log into the file once it has so many: 4 MiB
# Readers that overlap keep the log from being begun again. Whenever it has grown by so many pages,
# 16 MiB, a writer waits for them: PATIENCE_S for each 16 MiB, at most a share of the lock timeout.
LONG_WAL_PAGES, PATIENCE_S, PATIENCE_SHARE = 2048, 2.0, 0.8
# With FULL each commit is synced; with NORMAL a power cut may take the last commits, whole.
SYNCHRONOUS = {"always": "FULL", "interval": "NORMAL", "never": "NORMAL"}
# Idle connections that are kept: each has two open files and up to 2 MB of pages.
IDLE = 3


@dataclass(frozen=True)
class Options:
    """How a file store behaves; see docs/store.md."""

    fsync: Fsync = "always"
    sync_interval_s: float = 1.0
    lock_timeout_s: float = 10.0
    compact_rows: int = 10_000  # compact automatically when so many rows, and half of all, are dead
    ann_above: int = 0  # search approximately from so many rows on; 0: never
    open_collections: int = 0  # at most; 0: as many as the limit on open files allows


def no_step(name: str) -> None:
    """Do nothing at a step."""


class RecordFile:
    """One collection's file as this process has it; safe for threads, processes and forks."""

    def __init__(self, path: Path, options: Options) -> None:
        self.path, self._name, self._options = path, str(path), options
        self._idle: list[apsw.Connection] = []
        self._lock = threading.Lock()
        self._calls = Calls(path, self._close_idle)
        self._closed = False
        self._unsynced = False
        self._identity: tuple[int, int] | None = None  # of the file: device and inode
        self._log_pages = 0  # at the last commit
        self._tried_at = 0  # pages of a long log when its readers were waited for in vain
        self.poison: str | None = None  # why this process may not write any more

    # -- transactions ----------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[apsw.Connection]:
        """Give a connection whose first SELECT fixes what all others see. Waits for no writer."""
        with self._connection() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    @contextmanager
    def writing(self, step: Step = no_step) -> Iterator[apsw.Connection]:
        """Give a connection that is the only writer of all processes; commit at the end.

        Raises Busy after the lock timeout, NotFound if the collection was dropped, Corrupt if its
        file is another one by now, and Unavailable once the disk has failed to sync.
        """
        if self.poison:
            raise Unavailable(self.poison)
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._check_file()
                yield connection
                step("before-commit")
                self._unsynced = True
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            self._checkpoint(connection)

    def _checkpoint(self, connection: apsw.Connection) -> None:
        """Take a log that has grown into the file. What is committed stays so if that fails."""
        pages, mode = self._log_pages, apsw.SQLITE_CHECKPOINT_PASSIVE
        if pages < self._tried_at:  # it has been begun again
            self._tried_at = 0
        if pages < WAL_PAGES:
            return
        connection.set_busy_handler(None)
        if pages >= self._tried_at + LONG_WAL_PAGES:
            most = self._options.lock_timeout_s * PATIENCE_SHARE
            wait_s = min(most, PATIENCE_S * (pages // LONG_WAL_PAGES))
            connection.set_busy_handler(patience(wait_s))
            self._tried_at, mode = pages, apsw.SQLITE_CHECKPOINT_RESTART
        try:
            connection.wal_checkpoint("main", mode)
        except apsw.BusyError:
            pass
        except apsw.Error as exc:
            if _failed_sync(exc):
                self._poisoned()
            else:
                log.warning("the log of %s stays long: %s", self.path, exc)
        finally:
            connection.set_busy_handler(patience(self._options.lock_timeout_s))

    def _note_commit(self, connection: apsw.Connection, name: str, pages: int) -> int:
        self._log_pages = pages
        return apsw.SQLITE_OK

    def _poisoned(self) -> Unavailable:
        """Refuse all further writes: the kernel reports a failed sync once, then all seems well."""
        self.poison = (
            "the disk failed to take a write of this collection, so what is on it is unknown; "
            "check the disk and restart the service"
        )
        log.error("%s was not synced", self.path)
        return Unavailable(self.poison)

    def sync(self) -> None:
        """Bring what was committed to the disk, where commits do not. Raises Unavailable."""
        if not self._unsynced or self.poison or self._options.fsync == "always":
            return
        self._unsynced = False
        try:
            fd = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # the last connection took it all into the file, and synced that
        try:
            os.fdatasync(fd) if hasattr(os, "fdatasync") else os.fsync(fd)
        except OSError as exc:
            raise self._poisoned() from exc
        finally:
            os.close(fd)

    def shrink(self) -> int:
        """Write the file again without the space of what was deleted; return the bytes freed."""
        if self.poison:
            raise Unavailable(self.poison)
        before = self.path.stat().st_size
        with self._connection() as connection, _temporary_files_in(self.path.parent):
            connection.execute("VACUUM")
            connection.set_busy_handler(None)  # while others read, the log stays as it is
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.set_busy_handler(patience(self._options.lock_timeout_s))
        return before - self.path.stat().st_size

    # -- connections -----------------------------------------------------------------------------

    @contextmanager
    def _connection(self) -> Iterator[apsw.Connection]:
        with self._calls.under_way():
            yield from self._borrowed()

    def _borrowed(self) -> Iterator[apsw.Connection]:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        whole = False
        try:
            connection = connection or self._connect()
            yield connection
            whole = True
        except apsw.Error as exc:
            if _failed_sync(exc):
                whole = True  # a new connection would read what was not synced
                raise self._poisoned() from exc
            problem: ServiceError = translated(exc, self.path)
            if connection and isinstance(exc, apsw.IOError) and connection.system_errno in NO_SPACE:
                problem = Full("no space is left on the disk of the store")
            # The next connection would make a new index of the log: a full disk has no room for it.
            whole = isinstance(problem, Full)
            raise problem from exc
        except UnicodeDecodeError as exc:
            raise Corrupt(f"{self.path} is damaged; run: python -m store repair") from exc
        except ServiceError:
            whole = True
            raise
        finally:
            with self._lock:
                keep = whole and not self._closed and len(self._idle) < IDLE
                if keep and connection:
                    self._idle.append(connection)
            if connection and not keep:
                connection.close()

    def _connect(self) -> apsw.Connection:
        self._check_file()
        check_owner(self.path)
        connection = apsw.Connection(self._name, flags=apsw.SQLITE_OPEN_READWRITE)
        connection.set_busy_handler(patience(self._options.lock_timeout_s))
        connection.execute(
            f"PRAGMA synchronous = {SYNCHRONOUS[self._options.fsync]}; "
            f"PRAGMA journal_size_limit = {LONG_WAL_PAGES * PAGE_BYTES}; "
            "PRAGMA trusted_schema = OFF"
        )
        if self._identity is None:  # an overlay may have copied the file when it was opened
            self._identity = _identity(os.stat(self._name))
        connection.set_wal_hook(self._note_commit)  # SQLite's own checkpoints hide a failed sync
        return connection

    def _check_file(self) -> None:
        """Raise NotFound or Corrupt unless the file is there, and the one that was opened first."""
        try:
            found = os.stat(self._name)
        except FileNotFoundError:
            if not self.path.parent.exists():
                raise NotFound("the collection has been dropped") from None
            raise Corrupt(f"{self.path} is missing; restore a backup") from None
        if self._identity not in (None, _identity(found)):
            raise Corrupt(f"{self.path} was replaced while it was in use; restart the service")

    def close(self) -> None:
        """Close the connections, those at work when they are done. The last one of all processes
        takes the log into the file.
        """
        with suppress(ServiceError):
            self.sync()
        self._closed = True
        with suppress(ServiceError), self._calls.under_way():
            self._close_idle()

    def _close_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _failed_sync(exc: apsw.Error) -> bool:
    failed = (apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC)
    return getattr(exc, "extendedresult", 0) in failed


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Have SQLite write its temporary files beside the collection: /tmp may be small."""
    before = os.environ.get("SQLITE_TMPDIR")
    os.environ["SQLITE_TMPDIR"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("SQLITE_TMPDIR", None)
        if before is not None:
            os.environ["SQLITE_TMPDIR"] = before
