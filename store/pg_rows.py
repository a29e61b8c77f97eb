"""The rows of one collection: write, delete, read, search and page, inside an open transaction."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from errors import Conflict, NotFound
from store.base import Hit, Mode, Part, Record, Vectors, Written
from store.budget import Budget
from store.pg_filter import Where
from store.pg_schema import Collection, search_settings
from store.pg_wire import Vector, dump_json, read_vector
from store.validation import Rows

ROWS_PER_STATEMENT = 1000  # times five values each; PostgreSQL takes 65,535 values
# Rows that come from the server at once: with texts of 1 MB 32 MB, half of a reply.
FETCHED = 32
EF_SEARCH = 100  # recall@10 on 50k x 384 clustered: 0.989 with 40, 0.998 with 100, 2026-11
RESCORED = 4  # so many candidates per wanted row, where the index holds float16 copies

_VALUE = "(%s, CAST(%s AS vector), %s, CAST(%s AS jsonb), %s)"
_PARTS: dict[Part, str] = {"vector": "vector_send(embedding)", "text": "text", "metadata": "meta"}


def write(
    connection: sa.Connection, collection: Collection, rows: Rows, mode: Mode, op: int
) -> Written:
    """Insert or replace rows. `op` marks them as this call's.

    The same statement serves every mode; where it did what the mode forbids, the error that is
    raised rolls it back. Rows go in order of id, so that no two writers wait for each other.
    """
    new: dict[str, bool] = {}
    order = sorted(range(len(rows.ids)), key=rows.ids.__getitem__)
    for start in range(0, len(order), ROWS_PER_STATEMENT):
        chosen = order[start : start + ROWS_PER_STATEMENT]
        statement = (
            f"INSERT INTO {collection.table} (id, embedding, text, meta, op)"
            f" VALUES {', '.join([_VALUE] * len(chosen))}"
            " ON CONFLICT (id) DO UPDATE SET embedding = excluded.embedding,"
            " text = excluded.text, meta = excluded.meta, op = excluded.op"
            " RETURNING id, (xmax = 0)"
        )
        values = [
            value
            for i in chosen
            for value in (
                *(rows.ids[i], Vector(rows.vectors[i]), rows.texts[i]),
                *(dump_json(rows.metadata[i]), op),
            )
        ]
        new.update(
            (id_, bool(made)) for id_, made in connection.exec_driver_sql(statement, tuple(values))
        )
    _judge(mode, [(i, id_, new[id_]) for i, id_ in enumerate(rows.ids)])
    inserted = sum(new.values())
    return Written(inserted, len(new) - inserted)


def _judge(mode: Mode, done: Sequence[tuple[int, str, bool]]) -> None:
    for i, id_, inserted in done:
        if mode == "insert" and not inserted:
            raise Conflict(f"item {i}: id {id_!r} exists already", param="id")
        if mode == "update" and inserted:
            raise NotFound(f"item {i}: no id {id_!r} to update", param="id")


def written(connection: sa.Connection, collection: Collection, ids: list[str], op: int) -> bool:
    """Tell whether a write that was marked `op` is there."""
    query = f"SELECT 1 FROM {collection.table} WHERE id = ANY(:ids) AND op = :op LIMIT 1"
    return connection.scalar(sa.text(query), {"ids": ids, "op": op}) is not None


def delete(connection: sa.Connection, collection: Collection, where: Where) -> int:
    """Delete the rows that match and return how many there were."""
    statement = sa.text(f"DELETE FROM {collection.table} WHERE {where.sql}")
    return connection.execute(statement, where.values).rowcount


def count(connection: sa.Connection, collection: Collection, where: Where) -> int:
    """Count the rows that match."""
    query = sa.text(f"SELECT count(*) FROM {collection.table} WHERE {where.sql}")
    return connection.scalar(query, where.values) or 0


def any_of(ids: Sequence[str]) -> Where:
    """The condition that a row has one of these ids."""
    where = Where(None)
    where.sql, where.values = "id = ANY(:ids)", {"ids": list(ids)}
    return where


def sample(connection: sa.Connection, collection: Collection, most: int) -> list[str]:
    """Return `most` ids, in order: those whose hashes come first."""
    query = f"SELECT id FROM {collection.table} ORDER BY hashtextextended(id, 0), id LIMIT :most"
    return sorted(connection.scalars(sa.text(query), {"most": most}))


def get(
    connection: sa.Connection, collection: Collection, ids: Sequence[str], parts: frozenset[Part],
    budget: Budget,
) -> list[Record]:  # fmt: skip
    """Return the rows of these ids that exist, in the order asked."""
    where = any_of(ids)
    query = f"SELECT {_columns(parts)} FROM {collection.table} WHERE {where.sql}"
    found = {}
    with closing(_rows(connection, sa.text(query), where.values, len(ids))) as rows:
        for record in map(_record, rows):
            budget.spend(record)
            found[record.id] = record
    return [found[id_] for id_ in ids if id_ in found]


def page(
    connection: sa.Connection,
    collection: Collection,
    cursor: str | None,
    limit: int,
    where: Where,
    parts: frozenset[Part],
) -> Generator[Record]:
    """Yield up to `limit` rows that match, by id, after `cursor`."""
    query = (
        f"SELECT {_columns(parts)} FROM {collection.table}"
        f" WHERE id > CAST(:cursor AS text) AND {where.sql} ORDER BY id LIMIT :limit"
    )
    values = {"cursor": cursor or "", "limit": limit, **where.values}
    with closing(_rows(connection, sa.text(query), values, limit)) as rows:
        yield from map(_record, rows)


def _rows(
    connection: sa.Connection, statement: sa.TextClause, values: Mapping[str, Any], most: int
) -> Generator[Any]:
    """Yield a statement's rows; many of them come in parts, and no more than are asked for."""
    if most > FETCHED:
        statement = statement.execution_options(stream_results=True, max_row_buffer=FETCHED)
    with closing(connection.execute(statement, values)) as answer:
        yield from answer


@dataclass(frozen=True)
class Ask:
    """What is asked of one search: the `k` best, after `offset`, of those that match."""

    k: int
    offset: int
    where: Where
    parts: frozenset[Part]
    shards: int
    exact: bool
    min_score: float | None
    budget: Budget

    @property
    def rows(self) -> int:
        """How many rows are ranked."""
        return self.offset + self.k


def search(
    connection: sa.Connection, collection: Collection, queries: Vectors, ask: Ask
) -> list[list[Hit]]:
    """Return the best for each query, best first.

    By the index when there is one, unless `exact`; and again without it for every query that it
    answered short, because it stops looking after `hnsw.max_scan_tuples`.
    """
    indexed = collection.ready and not ask.exact
    ef_search = min(1000, max(EF_SEARCH, 2 * ask.rows))
    connection.exec_driver_sql(search_settings(ef_search, ask.shards, not indexed))
    statement = sa.text(_search_statement(collection, ask, indexed))
    found, short = [], []
    for i, query in enumerate(queries):
        ask.budget.check()  # of many statements each may be short
        left = ask.budget.left
        values = {"query": Vector(query), **ask.where.values}
        with closing(_rows(connection, statement, values, ask.rows)) as rows:
            hits, ranked = _hits(collection, rows, ask)
        if indexed and ranked < ask.rows:
            ask.budget.left = left  # these are not replied
            hits = []
            short.append(i)
        found.append(hits)
    if short:
        again = search(connection, collection, queries[short], replace(ask, exact=True))
        for i, hits in zip(short, again, strict=True):
            found[i] = hits
    return found


def _search_statement(collection: Collection, ask: Ask, indexed: bool) -> str:
    where = ask.where
    sign = {"cosine": "<=>", "dot": "<#>"}[collection.metric]
    distance = f"embedding {sign} CAST(:query AS vector)"
    source = collection.table
    if indexed and collection.half:
        near = f"{collection.key} {sign} CAST(CAST(:query AS vector) AS halfvec({collection.dim}))"
        source = (
            f"(SELECT * FROM {collection.table} WHERE {where.sql}"
            f" ORDER BY {near} LIMIT {ask.rows * RESCORED}) AS near"
        )
    return (
        f"SELECT {_columns(ask.parts)}, {distance} AS distance FROM {source} WHERE {where.sql}"
        f" ORDER BY {distance}, id LIMIT {ask.rows}"
    )


def _hits(collection: Collection, rows: Iterable[Any], ask: Ask) -> tuple[list[Hit], int]:
    """Return the hits behind the offset, and how many rows there were in all."""
    hits, ranked = [], 0
    for row in rows:
        ranked += 1
        ask.budget.check()
        score = 0.0 - row[-1] if collection.metric == "dot" else min(1.0, max(-1.0, 1.0 - row[-1]))
        if ranked <= ask.offset or (ask.min_score is not None and score < ask.min_score):
            continue
        hit = _hit(row, score)
        ask.budget.spend(hit)
        hits.append(hit)
    return hits, ranked


def _columns(parts: frozenset[Part]) -> str:
    wanted = (expr if part in parts else "NULL" for part, expr in _PARTS.items())
    return "id, " + ", ".join(wanted)


def _record(row: Any) -> Record:
    return Record(row[0], None if row[1] is None else read_vector(row[1]), row[2], row[3])


def _hit(row: Any, score: float) -> Hit:
    record = _record(row)
    return Hit(record.id, record.vector, record.text, record.metadata, score)
