"""The tables: a catalogue of collections and aliases, and one table of rows per collection.

A table of its own gives each collection a fixed width (which the HNSW index needs), an instant
drop, and shards by id under Citus. Functions take an open connection and never commit.
"""

from dataclasses import dataclass

import sqlalchemy as sa

from store.base import Metric

HNSW_WIDTH = 2000  # pgvector 0.8: the widest `vector` that HNSW takes
HALF_WIDTH = 4000  # and the widest `halfvec`; beyond it every search is exact
PLAIN_WIDTH = 1900  # 7.6 of a page's 8 KB: kept inside the row, where a scan finds it at once

CATALOGUE_LOCK = 0x656D6264  # "embd": one change of names at a time
_CATALOGUE = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE IF NOT EXISTS emb_collections (
    name text COLLATE "C" PRIMARY KEY,
    uuid text NOT NULL UNIQUE,
    dim integer NOT NULL,
    metric text NOT NULL,
    model text,
    fingerprint text,
    created double precision NOT NULL
);
ALTER TABLE emb_collections ADD COLUMN IF NOT EXISTS indexed text[] NOT NULL DEFAULT '{}';
CREATE TABLE IF NOT EXISTS emb_aliases (
    name text COLLATE "C" PRIMARY KEY,
    target text COLLATE "C" NOT NULL
);
CREATE TABLE IF NOT EXISTS emb_notes (
    key text COLLATE "C" PRIMARY KEY,
    body text NOT NULL
);
"""

_SCAN_EVERYTHING = {"enable_indexscan": "off", "enable_seqscan": "on", "enable_bitmapscan": "on"}


@dataclass(frozen=True)
class Collection:
    """A row of the catalogue."""

    name: str
    uuid: str  # 32 hexadecimal digits: safe inside a table's name
    dim: int
    metric: Metric
    model: str | None
    fingerprint: str | None
    created: float
    indexed: tuple[str, ...] = ()  # the fields that were declared
    ready: bool = False  # whether there is an HNSW index

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


def prepare(connection: sa.Connection) -> None:
    """Make the catalogue if it is not there. Workers that start together take turns."""
    newest = (  # a catalogue of an older version lacks it
        "SELECT 1 FROM pg_attribute"
        " WHERE attrelid = to_regclass('emb_collections') AND attname = 'indexed'"
    )
    if connection.scalar(sa.text(newest)) is None:
        lock_catalogue(connection)
        connection.exec_driver_sql(_CATALOGUE)


def lock_catalogue(connection: sa.Connection) -> None:
    """Wait for our turn to change names; the turn ends with the transaction."""
    connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({CATALOGUE_LOCK})"))


def create_rows(connection: sa.Connection, collection: Collection, shards: int) -> None:
    """Make a collection's table of rows, spread over `shards` by Citus if there are several."""
    table = collection.table
    for statement in (
        f"""CREATE TABLE {table} (
            id text COLLATE "C" PRIMARY KEY,
            embedding vector({collection.dim}) NOT NULL,
            text text,
            meta jsonb NOT NULL,
            op bigint NOT NULL
        )""",
        *([f"ALTER TABLE {table} ALTER COLUMN embedding SET STORAGE PLAIN"] * _fits(collection)),
        *distribution(table, shards),
        f"CREATE INDEX emb_m_{collection.uuid} ON {table} USING gin (meta jsonb_path_ops)",
    ):
        connection.exec_driver_sql(statement)


def distribution(table: str, shards: int) -> tuple[str, ...]:
    """The statements that hand a table to Citus; none without it."""
    if shards < 2:
        return ()
    return (f"SELECT create_distributed_table('{table}', 'id', shard_count => {int(shards)})",)


def index_statement(collection: Collection) -> str:
    """The statement that builds the HNSW index while writes go on; not inside a transaction."""
    kind = "halfvec" if collection.half else "vector"
    family = {"cosine": "cosine", "dot": "ip"}[collection.metric]
    return (
        f"CREATE INDEX CONCURRENTLY {collection.index} ON {collection.table}"
        f" USING hnsw ({collection.key} {kind}_{family}_ops)"
    )


def search_settings(ef_search: int, shards: int, exact: bool) -> str:
    """The statement that prepares a transaction for searching.

    Without `iterative_scan` HNSW looks at `ef_search` rows, and a filter then leaves fewer than
    were asked for, silently. With Citus these settings reach the shards only if told to, and that
    must come first.
    """
    settings = {
        "hnsw.iterative_scan": "strict_order",
        "hnsw.ef_search": str(ef_search),
        "plan_cache_mode": "force_custom_plan",  # the best plan depends on the filter
        "jit": "off",  # compiling takes longer than the search
        **(_SCAN_EVERYTHING if exact else {}),
    }
    first = ["SET LOCAL citus.propagate_set_commands = 'local'"] if shards >= 2 else []
    return "; ".join([*first, *(f"SET LOCAL {k} = '{v}'" for k, v in settings.items())])


def _fits(collection: Collection) -> bool:
    return collection.dim <= PLAIN_WIDTH
