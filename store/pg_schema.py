"""A table of rows for each collection, and what is sent to PostgreSQL and Citus to make it.

A table of its own gives a collection a fixed width (which the HNSW index needs), an instant drop,
and shards by id under Citus. Functions take an open connection and never commit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from store.entry import Entry

HNSW_WIDTH = 2000  # pgvector 0.8: the widest `vector` that HNSW takes
HALF_WIDTH = 4000  # and the widest `halfvec`; beyond it every search is exact
PLAIN_WIDTH = 1900  # 7.6 of a page's 8 KB: kept inside the row, where a scan finds it at once
LOCK_TIMEOUT_S = 10  # a change of names gives up behind a longer write
_WRITERS = 0x656D6277  # "embw", with the collection's hash: shared by writers, else exclusive

# Columns to read with a collection: whether it has an index, and a writer's lock.
READY: sa.ColumnElement[bool] = sa.literal_column(
    "COALESCE((SELECT indisvalid FROM pg_index"
    " WHERE indexrelid = to_regclass('emb_h_' || emb_collections.uuid)), FALSE)"
)
WRITING: sa.ColumnElement[str] = sa.literal_column(
    f"CAST(pg_advisory_xact_lock_shared({_WRITERS}, hashtext(emb_collections.uuid)) AS text)"
)
_WAIT = sa.text(f"SELECT pg_advisory_xact_lock({_WRITERS}, hashtext(:uuid))")
# The same for as long as a connection wants, whatever transactions it has.
HOLD_WRITERS = sa.text(f"SELECT pg_advisory_lock({_WRITERS}, hashtext(:uuid))")
LET_WRITERS_GO = sa.text(f"SELECT pg_advisory_unlock({_WRITERS}, hashtext(:uuid))")
_STOP_INDEXING = sa.text(  # or the drop would wait for the index to be finished
    "SELECT pg_cancel_backend(pid) FROM pg_stat_progress_create_index"
    " WHERE relid = to_regclass(:table)"
)
# Without iterative_scan HNSW looks at ef_search rows, and a filter then leaves fewer than were
# asked for, silently. Citus passes settings on to the shards only if told to, and that must come
# first; a PostgreSQL without Citus takes it as a setting of somebody's own.
_SEARCHING = {
    "citus.propagate_set_commands": "local",
    "hnsw.iterative_scan": "strict_order",
    "plan_cache_mode": "force_custom_plan",  # the best plan depends on the filter
    "jit": "off",  # compiling takes longer than the search
}
_SCAN_EVERYTHING = {"enable_indexscan": "off", "enable_seqscan": "on", "enable_bitmapscan": "on"}


@dataclass(frozen=True)
class Collection(Entry):
    """A collection, and whether it has an HNSW index. The uuid is safe in a table's name."""

    ready: bool = False

    @classmethod
    def of(cls, entry: Entry, ready: bool = False) -> "Collection":
        """Return an entry of the catalogue as a collection."""
        return cls(**asdict(entry), ready=ready)

    @property
    def table(self) -> str:
        """The table of its rows."""
        return f"emb_v_{self.uuid}"

    @property
    def index(self) -> str:
        """The name of its HNSW index."""
        return f"emb_h_{self.uuid}"

    @property
    def indexable(self) -> bool:
        """Whether HNSW takes vectors of this width."""
        return self.dim <= HALF_WIDTH

    @property
    def half(self) -> bool:
        """Whether the index holds float16 copies, whose best are then rescored in float32."""
        return self.dim > HNSW_WIDTH

    @property
    def key(self) -> str:
        """What the index is over."""
        return f"(CAST(embedding AS halfvec({self.dim})))" if self.half else "embedding"


class Tables:
    """The rows of collections as the catalogue handles them; see `store.catalog.Rows`."""

    def __init__(self, shards: int) -> None:
        self._shards = shards

    def make(self, connection: sa.Connection, entry: Entry) -> None:
        """Make a collection's table."""
        for statement in table_statements(Collection.of(entry), self._shards):
            connection.exec_driver_sql(statement)

    def remove(self, connection: sa.Connection, entry: Entry) -> None:
        """Drop a collection's table."""
        table = Collection.of(entry).table
        connection.execute(_STOP_INDEXING, {"table": table})
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {table}")

    def removed(self, entry: Entry) -> None:
        """Do nothing: the table went with the transaction."""

    @contextmanager
    def without_writers(self, connection: sa.Connection, *entries: Entry) -> Iterator[None]:
        """Wait for the writes under way, and keep others out until the transaction ends."""
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
        for entry in sorted(entries, key=lambda each: each.uuid):
            connection.execute(_WAIT, {"uuid": entry.uuid})
        yield

    def count(self, connection: sa.Connection | None, entry: Entry) -> int:
        """Return how many rows there are."""
        assert connection is not None
        query = sa.text(f"SELECT count(*) FROM {Collection.of(entry).table}")
        return connection.scalar(query) or 0


def table_statements(collection: Collection, shards: int) -> Iterator[str]:
    """Yield what makes a collection's table; from 2 `shards` on Citus spreads it by id."""
    table = collection.table
    yield f"""CREATE TABLE {table} (
        id text COLLATE "C" PRIMARY KEY,
        embedding vector({collection.dim}) NOT NULL,
        text text,
        meta jsonb NOT NULL,
        op bigint NOT NULL
    )"""
    if collection.dim <= PLAIN_WIDTH:
        yield f"ALTER TABLE {table} ALTER COLUMN embedding SET STORAGE PLAIN"
    if shards > 1:
        yield f"SELECT create_distributed_table('{table}', 'id', shard_count => {int(shards)})"
    yield f"CREATE INDEX emb_m_{collection.uuid} ON {table} USING gin (meta jsonb_path_ops)"


def index_statement(collection: Collection) -> str:
    """Return what builds the HNSW index while writes go on, outside a transaction."""
    kind = "halfvec" if collection.half else "vector"
    family = {"cosine": "cosine", "dot": "ip"}[collection.metric]
    return (
        f"CREATE INDEX CONCURRENTLY {collection.index} ON {collection.table}"
        f" USING hnsw ({collection.key} {kind}_{family}_ops)"
    )


def search_settings(ef_search: int, exact: bool) -> str:
    """Return the statement that prepares a transaction for searching."""
    settings = {**_SEARCHING, "hnsw.ef_search": str(ef_search)}
    settings |= _SCAN_EVERYTHING if exact else {}
    return "; ".join(f"SET LOCAL {name} = '{value}'" for name, value in settings.items())
