"""Filters as SQL mean exactly what `filters.matches` says, whatever the metadata."""

import json
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sql.database import Database
from store.filters import matches, parse
from store.pg_filter import FEW, Where
from store.pg_wire import dump_json


@pytest.fixture(scope="module")
def connection(postgres) -> Iterator[sa.Connection]:
    database = Database(postgres.database())
    with database.engine.connect() as opened:
        yield opened
    database.close()


def chosen(connection: sa.Connection, raw: object, docs: list[dict]) -> list[int]:
    """Which of these the database picks."""
    where = Where(parse(raw))
    query = sa.text(
        "SELECT number FROM (SELECT number - 1 AS number, value AS meta FROM"
        " jsonb_array_elements(CAST(:docs AS jsonb)) WITH ORDINALITY AS t(value, number)) AS rows"
        f" WHERE {where.sql} ORDER BY number"
    )
    return list(connection.scalars(query, {"docs": dump_json(docs), **where.values}))


def expected(raw: object, docs: list[dict]) -> list[int]:
    return [i for i, doc in enumerate(docs) if matches(parse(raw), doc)]


# Few names and few values, so that they meet; and values that are nearly, but not quite, equal.
NAMES = st.sampled_from(["a", "b", "0", "é", "a b", "$x", ""])
NUMBERS = st.sampled_from(
    [0, 1, 1.0, -1, 0.5, 0.1, -0.0, 2**53, 2**53 + 1, 2.0**53, 1e16, 1e22, 10**16, 2**63 - 1]
    + [2.0**63, -(2.0**60), 2**60, 1e300, 5e-324, 1.7976931348623157e308]
)
STRINGS = st.sampled_from(
    ["", "a", "ab", "b", "B", "é", "z", "\uffff", "\U0001f600", "1", "%", "'"]
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, STRINGS, FLOATS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)
DOCS = st.lists(st.dictionaries(NAMES, VALUES, max_size=4), min_size=1, max_size=12)
FIELDS = st.lists(st.sampled_from(["a", "b", "0", "é", "a b"]), min_size=1, max_size=3).map(
    ".".join
)
OPERANDS = SCALARS | st.sampled_from(["a\0b", "\0"])
TESTS = st.one_of(
    OPERANDS,
    st.fixed_dictionaries({"$eq": OPERANDS}),
    st.fixed_dictionaries({"$ne": OPERANDS}),
    st.fixed_dictionaries({"$contains": OPERANDS}),
    st.fixed_dictionaries({"$exists": st.booleans()}),
    st.fixed_dictionaries({"$in": st.lists(OPERANDS, max_size=4)}),
    st.fixed_dictionaries({"$nin": st.lists(OPERANDS, min_size=FEW + 1, max_size=FEW + 3)}),
    st.dictionaries(
        st.sampled_from(["$gt", "$gte", "$lt", "$lte"]),
        NUMBERS | STRINGS | st.just("a\0b"),
        min_size=1,
        max_size=2,
    ),
)
FILTERS = st.recursive(
    st.dictionaries(FIELDS, TESTS, max_size=2),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$not": inner}),
    ),
    max_leaves=4,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(raw=FILTERS, docs=DOCS)
def test_the_database_picks_what_the_definition_picks(connection, raw, docs) -> None:
    assert chosen(connection, raw, docs) == expected(raw, docs)


@pytest.mark.parametrize(
    ("raw", "doc", "match"),
    [
        ({"a": 1}, {"a": True}, False),
        ({"a": 1}, {"a": 1.0}, True),
        ({"a": "x"}, {"a": ["x"]}, False),
        ({"a": {"$contains": "x"}}, {"a": ["x"]}, True),
        ({"a": {"$contains": "x"}}, {"a": "axb"}, True),
        ({"a.0": "x"}, {"a": ["x"]}, False),  # never inside lists
        ({"a.0": "x"}, {"a": {"0": "x"}}, True),
        ({"a": {"$ne": 1}}, {}, True),
        ({"$not": {"a": {"$gt": 1}}}, {"a": "text"}, True),  # NULL would have lost this one
        ({"$not": {"a.b": 1}}, {"a": 3}, True),
        ({"a": None}, {"a": None}, True),
        ({"a": None}, {}, False),
        ({"a": {"$gt": "\uffff"}}, {"a": "\U0001f600"}, True),  # by code point, not UTF-16
        ({"a": {"$gt": "B"}}, {"a": "a"}, True),  # by code point, not by dictionary
        ({"a": 2**53 + 1}, {"a": 2.0**53}, False),
        ({"a": {"$in": []}}, {"a": 1}, False),
        (
            {"a'; DROP TABLE emb_collections; --": 1},
            {"a'; DROP TABLE emb_collections; --": 1},
            True,
        ),
        ({":w0": ":w1"}, {":w0": ":w1"}, True),
    ],
)
def test_cases_that_sql_gets_wrong_by_itself(connection, raw, doc, match) -> None:
    assert bool(expected(raw, [doc])) is match
    assert bool(chosen(connection, raw, [doc])) is match


def test_the_comparison_can_fail(connection) -> None:
    """The control: SQL's own NULL logic, which is what one writes first, loses rows."""
    naive = "NOT (meta -> 'a' = CAST('1' AS jsonb))"
    query = sa.text(
        f"SELECT count(*) FROM (SELECT CAST('{{}}' AS jsonb) AS meta) AS t WHERE {naive}"
    )
    assert connection.scalar(query) == 0
    assert expected({"$not": {"a": 1}}, [{}]) == [0]


@given(value=VALUES)
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_json_comes_back_as_it_was(connection, value) -> None:
    back = connection.scalar(sa.text("SELECT CAST(:v AS jsonb)"), {"v": dump_json({"x": value})})
    assert back == {"x": value}
    assert json.dumps(back, sort_keys=True).replace("-0.0", "0.0") == json.dumps(
        {"x": value}, sort_keys=True
    ).replace("-0.0", "0.0")
