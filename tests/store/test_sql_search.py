"""Search by index on a real pgvector: its silent short answers shown, and ours, never short."""

from collections.abc import Iterator
from urllib.parse import quote

import numpy as np
import pytest
import sqlalchemy as sa

import errors
from store import Item
from store.pg_schema import Collection, index_statement, search_settings, table_statements
from store.pg_wire import Vector
from store.pgvector import PostgresStore
from tests.servers.postgres import Postgres

ROWS, DIM, RARE = 12_000, 16, 500  # the filter {"rare": true} matches one row in 500


@pytest.fixture(scope="module")
def url(postgres: Postgres) -> str:
    return postgres.database()


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    rng = np.random.default_rng(7)
    centres = rng.standard_normal((40, DIM), dtype=np.float32)
    spread = rng.standard_normal((ROWS, DIM), dtype=np.float32)
    return centres[rng.integers(0, 40, ROWS)] + np.float32(0.4) * spread


@pytest.fixture(scope="module")
def store(url: str, data: np.ndarray) -> Iterator[PostgresStore]:
    """A collection past the size from which there is an index, which built itself."""
    with PostgresStore(url) as opened:
        opened.create("c", DIM)
        for start in range(0, ROWS, 1000):
            opened.upsert("c", [item(i, v) for i, v in enumerate(data[start:][:1000], start)])
        opened.indexer.close()  # it was started beside the writes
        opened.compact("c")  # or, had it been too early, now
        assert opened.stats("c")["indexed"]
        yield opened


def item(i: int, vector: np.ndarray) -> Item:
    return Item(f"{i:05d}", vector, None, {"rare": i % RARE == 0, "n": i})


def truth(data: np.ndarray, query: np.ndarray, k: int, keep: np.ndarray | None = None) -> list[str]:
    unit = data / np.linalg.norm(data, axis=1, keepdims=True)
    scores = unit @ (query / np.linalg.norm(query))
    if keep is not None:
        scores[~keep] = -9
    return [f"{i:05d}" for i in np.argsort(-scores, kind="stable")[:k]]


def plain(store: PostgresStore, query: np.ndarray, k: int, where: str, *settings: str) -> list[str]:
    """What one writes first: pgvector by its index, with its defaults or these settings."""
    table = f"emb_v_{store.info('c').uuid}"
    text = sa.text(
        f"SELECT id FROM {table} WHERE {where} ORDER BY embedding <=> CAST(:q AS vector) LIMIT {k}"
    )

    def work(connection: sa.Connection) -> list[str]:
        for setting in ("enable_seqscan = off", "enable_bitmapscan = off", *settings):
            connection.exec_driver_sql(f"SET LOCAL {setting}")
        return list(connection.scalars(text, {"q": Vector(query)}))

    return store.db.read(work)


def test_pgvector_by_default_returns_too_few_and_says_nothing(
    store: PostgresStore, data: np.ndarray
) -> None:
    """The trap, as a control: if this ever fails, pgvector has changed and the cure may go."""
    assert len(plain(store, data[1], 100, "TRUE")) == 40  # hnsw.ef_search
    rare = "meta @> CAST('{\"rare\": true}' AS jsonb)"
    assert len(plain(store, data[1], 10, rare)) < 10


@pytest.mark.parametrize("k", [1, 10, 100, 1000])
def test_as_many_as_asked_come_back_and_the_right_ones(
    store: PostgresStore, data: np.ndarray, k: int
) -> None:
    for query in data[:5]:
        found = store.search("c", query, k)
        ids = [hit.id for hit in found.hits[0]]
        assert len(ids) == k and not found.exact
        right = len(set(ids) & set(truth(data, query, k)))
        assert right >= 0.95 * k
        scores = [hit.score for hit in found.hits[0]]
        assert scores == sorted(scores, reverse=True)


def test_the_index_finds_99_of_100_neighbours(store: PostgresStore, data: np.ndarray) -> None:
    found = store.search("c", data[:100], 10).hits
    right = [
        len({h.id for h in hits} & set(truth(data, q, 10)))
        for q, hits in zip(data[:100], found, strict=True)
    ]
    assert sum(right) / 1000 >= 0.99


@pytest.mark.parametrize("k", [10, 24, 50])
def test_a_rare_filter_is_never_answered_short(
    store: PostgresStore, data: np.ndarray, k: int
) -> None:
    keep = np.arange(ROWS) % RARE == 0
    for query in data[:5]:
        ids = [hit.id for hit in store.search("c", query, k, filter={"rare": True}).hits[0]]
        assert len(ids) == min(k, keep.sum())
        assert ids == truth(data, query, min(k, int(keep.sum())), keep)


def test_the_index_giving_up_early_is_made_good(
    store: PostgresStore, data: np.ndarray, url: str
) -> None:
    """With iterative scan it still stops at hnsw.max_scan_tuples; then everything is scanned."""
    keep = np.arange(ROWS) % RARE == 0
    tired = ["hnsw.max_scan_tuples = 50", "hnsw.iterative_scan = strict_order"]
    rare = "meta @> CAST('{\"rare\": true}' AS jsonb)"
    assert len(plain(store, data[3], 20, rare, *tired)) < 20  # the control: it does give up
    options = "-c hnsw.max_scan_tuples=50 -c enable_seqscan=off -c enable_bitmapscan=off"
    with PostgresStore(f"{url}?options={quote(options)}") as stops:
        found = stops.search("c", data[3], 20, filter={"rare": True})
        assert [hit.id for hit in found.hits[0]] == truth(data, data[3], 20, keep)


def test_exact_is_exact_and_says_so(store: PostgresStore, data: np.ndarray) -> None:
    found = store.search("c", data[:20], 50, exact=True)
    assert found.exact
    for query, hits in zip(data[:20], found.hits, strict=True):
        assert [hit.id for hit in hits] == truth(data, query, 50)


def test_pages_of_a_search_fit_together(store: PostgresStore, data: np.ndarray) -> None:
    whole = [hit.id for hit in store.search("c", data[9], 60, exact=True).hits[0]]
    pages = [store.search("c", data[9], 20, offset=o, exact=True).hits[0] for o in (0, 20, 40)]
    assert [hit.id for page in pages for hit in page] == whole


def test_settings_end_with_the_search(store: PostgresStore, data: np.ndarray) -> None:
    store.search("c", data[0], 5, exact=True)
    assert store.db.read(lambda c: c.scalar(sa.text("SHOW enable_indexscan"))) == "on"


def test_a_half_built_index_is_built_anew(store: PostgresStore, data: np.ndarray) -> None:
    collection = store.indexer, store.info("c").uuid
    index = f"emb_h_{collection[1]}"
    with store.db.upkeep() as connection:
        connection.exec_driver_sql(
            f"UPDATE pg_index SET indisvalid = FALSE WHERE indexrelid = '{index}'::regclass"
        )
    report = store.verify("c")
    assert not report.ok and "compact" in report.problems[0]
    found = store.search("c", data[2], 10)
    assert found.exact  # it is not used
    assert [hit.id for hit in found.hits[0]] == truth(data, data[2], 10)
    store.compact("c")
    assert store.verify("c").ok
    assert not store.search("c", data[2], 10).exact


def test_an_index_of_which_nothing_is_left_is_built_again(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a build that was broken off a shard of Citus may have no index to drop."""
    left = sa.text("SELECT FALSE WHERE CAST(:name AS text) <> ''")
    monkeypatch.setattr("store.pg_index._READY", left)
    with PostgresStore(postgres.database(), index_from_rows=5) as store:
        store.create("docs", 4)
        store.upsert("docs", [Item(str(i), [1, i, 0, 0]) for i in range(9)])
        store.indexer.close()
        store.compact("docs")
        assert store.stats("docs")["indexed"]


def test_a_small_collection_has_no_index_and_is_exact(store: PostgresStore) -> None:
    store.create("small", 4)
    store.upsert("small", [Item("a", [1, 0, 0, 0]), Item("b", [0, 1, 0, 0])])
    store.compact("small")
    found = store.search("small", [1, 1, 0, 0], 10)
    assert found.exact
    assert [hit.id for hit in found.hits[0]] == ["a", "b"]  # a tie goes by id
    store.drop("small")


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_wide_vectors_are_found_by_float16_and_ranked_in_float32(
    postgres: Postgres, metric: str
) -> None:
    """OpenAI's large model has 3072 dimensions; HNSW takes 2000 as float32, 4000 as float16."""
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((300, 3072), dtype=np.float32)
    with PostgresStore(postgres.database(), index_from_rows=100) as store:
        store.create("wide", 3072, metric)
        store.upsert("wide", [Item(f"{i:03d}", v) for i, v in enumerate(vectors)])
        store.indexer.close()
        store.compact("wide")
        assert store.stats("wide")["indexed"]
        near = store.search("wide", vectors[:10], 5)
        exact = store.search("wide", vectors[:10], 5, exact=True)
        assert not near.exact and exact.exact
        for got, right in zip(near.hits, exact.hits, strict=True):
            assert [hit.id for hit in got] == [hit.id for hit in right]
            assert [hit.score for hit in got] == pytest.approx([hit.score for hit in right])


def test_the_widest_vectors_are_kept_and_searched(postgres: Postgres) -> None:
    vectors = np.random.default_rng(2).standard_normal((30, 16_000), dtype=np.float32)
    with PostgresStore(postgres.database(), index_from_rows=10) as store:
        store.create("widest", 16_000)
        store.upsert("widest", [Item(f"{i:03d}", v, "x" * 500) for i, v in enumerate(vectors)])
        store.compact("widest")
        assert not store.stats("widest")["indexed"]  # beyond what HNSW takes
        assert store.search("widest", vectors[3], 1).hits[0][0].id == "003"
        assert np.array_equal(store.get("widest", ["007"])[0].vector, vectors[7])


@pytest.mark.parametrize("dim", [1536, 1900, 1901])
def test_vectors_that_nearly_fill_a_page_are_kept(postgres: Postgres, dim: int) -> None:
    id_, text = "\U0001f600" * 512, "long " * 5000
    with PostgresStore(postgres.database()) as store:
        store.create("c", dim)
        vector = np.random.default_rng(3).standard_normal(dim, dtype=np.float32)
        store.upsert("c", [Item(id_, vector, text, {"k": "v" * 60_000})])
        [record] = store.get("c", [id_])
        assert record.text == text and np.array_equal(record.vector, vector)


def test_dropping_does_not_wait_for_an_index_to_be_built(postgres: Postgres) -> None:
    rng = np.random.default_rng(4)
    with PostgresStore(postgres.database(), index_from_rows=3000) as store:
        store.create("c", 512)
        for start in range(0, 6000, 1000):
            vectors = rng.standard_normal((1000, 512), dtype=np.float32)
            store.upsert("c", [Item(str(start + i), v) for i, v in enumerate(vectors)])
        store.drop("c")
        with pytest.raises(errors.NotFound):
            store.count("c")
        assert store.collections() == []


# -- what needs Citus is checked as text only: docs/scale.md says so ---------------------------


def test_settings_reach_the_shards_of_citus_first_of_all() -> None:
    """Whatever STORE_SHARDS says now: a collection may have been made with another value."""
    first, *others = search_settings(100, exact=False).split("; ")
    assert first == "SET LOCAL citus.propagate_set_commands = 'local'"
    assert "SET LOCAL hnsw.iterative_scan = 'strict_order'" in others


def test_a_sharded_collection_is_distributed_by_id() -> None:
    narrow = Collection("c", "u", 384, "cosine", None, None, 0.0)
    spread = "SELECT create_distributed_table('emb_v_u', 'id', shard_count => 8)"
    assert spread in table_statements(narrow, 8)
    for shards in (0, 1):
        assert not any("distributed" in each for each in table_statements(narrow, shards))


def test_the_index_is_over_what_is_searched() -> None:
    narrow = Collection("c", "u", 384, "cosine", None, None, 0.0)
    wide = Collection("c", "u", 3072, "dot", None, None, 0.0)
    assert index_statement(narrow).endswith("ON emb_v_u USING hnsw (embedding vector_cosine_ops)")
    assert index_statement(wide).endswith(
        "USING hnsw ((CAST(embedding AS halfvec(3072))) halfvec_ip_ops)"
    )
