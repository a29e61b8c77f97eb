"""The collections of a file store that this process has open: the most recently used ones.

Each open collection holds some ten files, so that only as many stay open as the limit on open files
allows. One that a call is using stays open. Also does for the catalogue what a change of names
needs of the files.
"""

import logging
import os
import resource
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from errors import Corrupt, NotFound, ServiceError
from sql.database import after_fork
from store.collection import Collection
from store.entry import Entry
from store.local_disk import failures
from store.record_file import Options, Step
from store.records import make
from store.validation import being_replaced, check_uuid

log = logging.getLogger("store")

# An open collection has a matrix (2 files) and a database with up to four connections (9 files).
# The rest of the limit on open files is for clients, models and connections under load.
FILES, SHARE = 11, 0.5
MOST_OPEN = 1000
LOOK_EVERY_S = 2.0  # for collections that another process has dropped


class OpenCollections:
    """Opens collections and closes the least recently used."""

    def __init__(self, directory: Path, options: Options, step: Step) -> None:
        self.directory, self._options, self._step = directory, options, step
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        limit = int(limit * SHARE) // FILES if limit > 0 else MOST_OPEN
        self._most = options.open_collections or max(8, min(MOST_OPEN, limit))
        self._open: OrderedDict[str, Collection] = OrderedDict()
        self._lock = threading.Lock()
        self._looked = 0.0  # when; by the monotonic clock
        self._syncing = 0  # the process in which a thread syncs
        self._stop = threading.Event()
        # Set by the store, which has the catalogue: see `Catalog.writable`.
        self.writable: Callable[[str], tuple[str | None, bool]] = lambda name: (None, False)
        after_fork(self, OpenCollections._forget_lock)

    def _forget_lock(self) -> None:
        self._lock = threading.Lock()
        for collection in self._open.values():
            collection.users = 0

    def path(self, uuid: str) -> Path:
        """Return the folder of a collection."""
        return self.directory / "c" / uuid

    @contextmanager
    def using(self, entry: Entry) -> Iterator[Collection]:
        """Give a collection, which stays open for the block."""
        with self._lock:
            collection = self._open.get(entry.uuid)
            if collection is None:
                collection = Collection(
                    self.path(entry.uuid), self._options, self._step, entry.indexed
                )
                collection.shape = entry.dim, entry.metric
                collection.may_write = partial(self._check_write, entry.uuid)
                self._open[entry.uuid] = collection
            self._open.move_to_end(entry.uuid)
            collection.users += 1
        try:
            self._close_some()
            yield collection
        finally:
            with self._lock:
                collection.users -= 1

    def _close_some(self) -> None:
        """Close those that are too many, and those whose files another process has deleted."""
        look = time.monotonic() - self._looked > LOOK_EVERY_S
        if len(self._open) <= self._most and not look:
            return
        with self._lock:
            idle = [uuid for uuid, each in self._open.items() if not each.users]
            gone = [uuid for uuid in idle if look and not self.path(uuid).exists()]
            many = [uuid for uuid in idle if uuid not in gone]
            many = many[: max(0, len(self._open) - len(gone) - self._most)]
            closing = [self._open.pop(uuid) for uuid in (*gone, *many)]
            self._looked = time.monotonic() if look else self._looked
        for collection in closing:
            collection.close()

    def _check_write(self, uuid: str, name: str) -> None:
        """Raise Conflict at the moment of writing if `name` means another collection by now."""
        meant, replaced = self.writable(name)
        check_uuid(meant or "", uuid, name)
        if replaced:
            raise being_replaced()

    # -- for the catalogue -----------------------------------------------------------------------

    def make(self, connection: sa.Connection, entry: Entry) -> None:
        """Make the files of a new collection. `repair` lists those that a failure leaves."""
        make(self.path(entry.uuid) / "records.db", entry.dim, entry.metric)

    def remove(self, connection: sa.Connection, entry: Entry) -> None:
        """Note that a collection is about to go, so that a crash leaves nothing behind."""
        with failures("drop the collection"):
            (self.directory / "trash" / entry.uuid).touch(0o600)

    def removed(self, entry: Entry) -> None:
        """Delete the files of a collection that is in the catalogue no more."""
        with self._lock:
            collection = self._open.pop(entry.uuid, None)
        if collection is not None:
            collection.close()
        delete(self.directory, entry.uuid)

    @contextmanager
    def without_writers(self, connection: sa.Connection, *entries: Entry) -> Iterator[None]:
        """Wait for the writes under way, and keep others out for a block. Raises Busy."""
        with ExitStack() as held:
            for entry in sorted(set(entries), key=lambda each: each.uuid):
                collection = held.enter_context(self.using(entry))
                with suppress(Corrupt, NotFound):  # what is damaged or missing takes no writes
                    held.enter_context(collection.records.writing())
            yield

    def count(self, connection: sa.Connection | None, entry: Entry) -> int:
        """Return how many records there are."""
        with self.using(entry) as collection, collection.current() as shot:
            return shot.count

    # -- syncing ---------------------------------------------------------------------------------

    def sync_now_and_then(self) -> None:
        """With fsync "interval", have a thread that syncs; one in each process that writes."""
        if self._options.fsync == "interval" and self._syncing != os.getpid():
            self._syncing, self._stop = os.getpid(), threading.Event()
            threading.Thread(target=self._sync, args=(self._stop,), daemon=True).start()

    def _sync(self, stop: threading.Event) -> None:
        while not stop.wait(self._options.sync_interval_s):
            for collection in list(self._open.values()):
                try:
                    collection.records.sync()
                except ServiceError as exc:  # the next write is refused with it
                    log.warning("%s was not synced: %s", collection.folder, exc.message)

    def close(self) -> None:
        """Bring everything to the disk and close the files."""
        self._stop.set()
        with self._lock:
            collections = list(self._open.values())
            self._open.clear()
        for collection in collections:
            collection.close()


def delete(store: Path, uuid: str) -> None:
    """Delete a collection's folder: out of the way in one step, then file by file."""
    folder, aside = store / "c" / uuid, store / "trash" / f"{uuid}.files"
    with failures("drop the collection"):
        with suppress(FileNotFoundError):
            folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
        (store / "trash" / uuid).unlink(missing_ok=True)
