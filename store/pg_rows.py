"""The rows of one collection: write, delete, read, search and page, inside an open transaction."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from store.base import Hit, Mode, Part, Record, Vectors, Written
from store.budget import Budget
from store.pg_filter import Where
from store.pg_schema import Collection, search_settings
from store.pg_wire import Vector, dump_json, read_vector
from store.validation import Rows, check_present

ROWS_PER_STATEMENT = 1000  # of five values each; PostgreSQL takes 65,535 values
# Rows that the server sends at once: with texts of 1 MB 32 MB, half of a reply.
FETCHED = 32
EF_SEARCH = 100  # recall@10 on 50k x 384 clustered: 0.989 with 40, 0.998 with 100, 2026-11
RESCORED = 4  # candidates per wanted row, where the index holds float16 copies

_VALUE = "(%s, CAST(%s AS vector), %s, CAST(%s AS jsonb), %s)"
_PARTS: dict[Part, str] = {"vector": "vector_send(embedding)", "text": "text", "metadata": "meta"}


def write(
    connection: sa.Connection, collection: Collection, rows: Rows, mode: Mode, op: int
) -> Written:
    """Insert or replace rows, marked with this call's `op`.

    One statement serves every mode: an error rolls back what the mode forbids. Rows go in order of
    id, so that no two writers wait for each other.
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
        values: list[object] = []
        for i in chosen:
            values += rows.ids[i], Vector(rows.vectors[i]), rows.texts[i]
            values += dump_json(rows.metadata[i]), op
        new |= {id_: made for id_, made in connection.exec_driver_sql(statement, tuple(values))}
    check_present(mode, rows.ids, {id_ for id_, made in new.items() if not made})
    inserted = sum(new.values())
    return Written(inserted, len(new) - inserted)


def delete(connection: sa.Connection, collection: Collection, where: Where) -> int:
    """Delete the rows that match and return how many there were."""
    statement = sa.text(f"DELETE FROM {collection.table} WHERE {where.sql}")
    return connection.execute(statement, where.values).rowcount


def count(connection: sa.Connection, collection: Collection, where: Where) -> int:
    """Count the rows that match."""
    query = sa.text(f"SELECT count(*) FROM {collection.table} WHERE {where.sql}")
    return connection.scalar(query, where.values) or 0


def any_of(ids: Sequence[str]) -> Where:
    """Return the condition that a row has one of these ids."""
    where = Where(None)
    where.sql, where.values = "id = ANY(:ids)", {"ids": list(ids)}
    return where


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
    connection: sa.Connection, collection: Collection, cursor: str | None, limit: int,
    where: Where, parts: frozenset[Part],
) -> Generator[Record]:  # fmt: skip
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
    """Yield a statement's rows; many come in parts, and no more than are asked for."""
    if most > FETCHED:
        statement = statement.execution_options(stream_results=True, max_row_buffer=FETCHED)
    with closing(connection.execute(statement, values)) as answer:
        yield from answer


@dataclass(frozen=True)
class Query:
    """What one search is to find: the `k` best, after `offset`, of the rows that match."""

    k: int
    offset: int
    where: Where
    parts: frozenset[Part]
    exact: bool
    min_score: float | None
    budget: Budget

    @property
    def rows(self) -> int:
        """Number of rows to rank."""
        return self.offset + self.k


def search(
    connection: sa.Connection, collection: Collection, queries: Vectors, ask: Query
) -> list[list[Hit]]:
    """Return the best for each query, best first.

    The index answers if there is one, unless `exact`. It stops after `hnsw.max_scan_tuples` rows,
    so a query that it answers short is asked again without it.
    """
    indexed = collection.ready and not ask.exact
    ef_search = min(1000, max(EF_SEARCH, 2 * ask.rows))
    connection.exec_driver_sql(search_settings(ef_search, not indexed))
    statement = sa.text(_search_statement(collection, ask, indexed))
    found, short = [], []
    for i, query in enumerate(queries):
        ask.budget.check()  # each of many statements may be short
        left = ask.budget.left
        values = {"query": Vector(query), **ask.where.values}
        with closing(_rows(connection, statement, values, ask.rows)) as rows:
            hits, ranked = _hits(collection, rows, ask)
        if indexed and ranked < ask.rows:
            ask.budget.left = left  # these hits are not returned
            hits = []
            short.append(i)
        found.append(hits)
    if short:
        again = search(connection, collection, queries[short], replace(ask, exact=True))
        for i, hits in zip(short, again, strict=True):
            found[i] = hits
    return found


def _search_statement(collection: Collection, ask: Query, indexed: bool) -> str:
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


def _hits(collection: Collection, rows: Iterable[Any], ask: Query) -> tuple[list[Hit], int]:
    """Return the hits after the offset, and how many rows there were in all."""
    hits, ranked = [], 0
    for row in rows:
        ranked += 1
        ask.budget.check()
        score = 0.0 - row[-1] if collection.metric == "dot" else min(1.0, max(-1.0, 1.0 - row[-1]))
        if ranked <= ask.offset or (ask.min_score is not None and score < ask.min_score):
            continue
        hit = Hit(**vars(_record(row)), score=score)
        ask.budget.spend(hit)
        hits.append(hit)
    return hits, ranked


def _columns(parts: frozenset[Part]) -> str:
    wanted = (expr if part in parts else "NULL" for part, expr in _PARTS.items())
    return "id, " + ", ".join(wanted)


def _record(row: Any) -> Record:
    return Record(row[0], None if row[1] is None else read_vector(row[1]), row[2], row[3])
