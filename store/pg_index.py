"""Builds the approximate search index (HNSW) of a collection once it is large enough.

A thread builds it while reads and writes go on, in whichever process is first. Until it is there
searches scan everything, which is exact. A half-built index, left by a crash, is removed and built
again.
"""

import logging
import threading

import sqlalchemy as sa

from errors import ServiceError
from sql.database import Database, after_fork
from store.pg_schema import Collection, index_statement

log = logging.getLogger("store")

CHECK_EVERY_ROWS = 1000  # new rows in this process between two counts
CLOSE_TIMEOUT_S = 5.0
MEMORY = "256MB"  # maintenance_work_mem: an HNSW graph that does not fit is built far slower
_MINE = sa.text("SELECT pg_try_advisory_lock(1701667433, hashtext(:uuid))")  # one builder of each
_READY = sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")


class Indexer:
    """Watches collections grow."""

    def __init__(self, db: Database, from_rows: int) -> None:
        self._db, self._from_rows = db, from_rows
        self._grown: dict[str, int] = {}  # uuid -> new rows since the last look
        self._threads: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()
        after_fork(self, Indexer._forget)

    def _forget(self) -> None:
        """In a forked child: its parent's threads are not here, and the lock may be held."""
        self._lock, self._threads = threading.Lock(), {}

    def grown(self, collection: Collection, rows: int) -> None:
        """Count new rows; from time to time look, in a thread, whether an index is due."""
        if collection.ready or not collection.indexable:
            return
        with self._lock:
            self._grown[collection.uuid] = self._grown.get(collection.uuid, 0) + rows
            busy = self._threads.get(collection.uuid)
            if self._grown[collection.uuid] < min(CHECK_EVERY_ROWS, self._from_rows) or (
                busy and busy.is_alive()
            ):
                return
            self._grown[collection.uuid] = 0
            thread = threading.Thread(
                target=self._build_quietly, args=(collection,), name="store-index", daemon=True
            )
            self._threads[collection.uuid] = thread
        thread.start()

    def build(self, collection: Collection) -> bool:
        """Build the index if it is due and no other process does; return whether it was built."""
        if not collection.indexable:
            return False
        with self._db.upkeep() as connection:
            if not connection.scalar(_MINE, {"uuid": collection.uuid}):
                return False
            enough = sa.text(f"SELECT 1 FROM {collection.table} OFFSET :rows LIMIT 1")
            if connection.scalar(enough, {"rows": self._from_rows}) is None:
                return False
            if (state := connection.scalar(_READY, {"name": collection.index})) is True:
                return False
            if state is False:  # after a crash some shards of Citus have no index to drop
                connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {collection.index}")
            connection.exec_driver_sql(f"SET maintenance_work_mem = '{MEMORY}'")
            connection.exec_driver_sql(index_statement(collection))
            return True

    def close(self) -> None:
        """Wait a while for what is being built; a build that is cut off is done again later."""
        with self._lock:
            running = list(self._threads.values())
        for thread in running:
            thread.join(CLOSE_TIMEOUT_S)

    def _build_quietly(self, collection: Collection) -> None:
        try:
            if self.build(collection):
                log.info("built the search index of collection %s", collection.name)
        except ServiceError as error:
            log.warning("collection %s has no search index yet: %s", collection.name, error)
