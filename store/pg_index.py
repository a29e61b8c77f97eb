"""Builds the approximate search index (HNSW) of a collection once it is large enough.

In a thread beside the service, while reads and writes go on; one process does it, whoever comes
first. Until it is there searches scan everything, which is exact. A half-built index, left by a
crash, is removed and built again.
"""

import logging
import threading

import sqlalchemy as sa

from errors import ServiceError
from store.pg_schema import Collection, index_statement
from store.sql_engine import Database, after_fork

log = logging.getLogger("store")

CHECK_EVERY_ROWS = 1000  # new rows in this process between two counts
CLOSE_TIMEOUT_S = 5.0
MEMORY = "256MB"  # maintenance_work_mem: an HNSW graph that does not fit is built far slower
_LOCK = 0x656D6269  # "embi", with the collection's hash: one builder per collection


class Indexer:
    """Watches collections grow."""

    def __init__(self, db: Database, from_rows: int) -> None:
        self.db = db
        self.from_rows = from_rows
        self._grown: dict[str, int] = {}  # uuid -> new rows since the last look
        self._threads: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()
        after_fork(self, Indexer._forget)

    def _forget(self) -> None:
        """In a forked child: no thread of the parent is here, and its lock may be held for ever."""
        self._lock, self._threads = threading.Lock(), {}

    def grown(self, collection: Collection, rows: int) -> None:
        """Note new rows; from time to time see, beside the caller, whether an index is due."""
        if collection.ready or not collection.indexable:
            return
        with self._lock:
            self._grown[collection.uuid] = self._grown.get(collection.uuid, 0) + rows
            busy = self._threads.get(collection.uuid)
            if self._grown[collection.uuid] < min(CHECK_EVERY_ROWS, self.from_rows) or (
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
        """Build the index if it is due and nobody else does; say whether it was built."""
        if not collection.indexable:
            return False
        with self.db.upkeep() as connection:
            mine = sa.text(f"SELECT pg_try_advisory_lock({_LOCK}, hashtext(:uuid))")
            if not connection.scalar(mine, {"uuid": collection.uuid}):
                return False
            enough = sa.text(f"SELECT 1 FROM {collection.table} OFFSET :rows LIMIT 1")
            if connection.scalar(enough, {"rows": self.from_rows}) is None:
                return False
            ready = sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
            if (state := connection.scalar(ready, {"name": collection.index})) is True:
                return False
            if state is False:
                connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY {collection.index}")
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
