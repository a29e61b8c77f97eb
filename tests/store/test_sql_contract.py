"""PostgresStore keeps the contract of every vector store, on a real PostgreSQL."""

from collections.abc import Iterator

import pytest

from store import VectorStore
from store.pgvector import PostgresStore
from tests.servers.postgres import Postgres
from tests.store.contract import Contract
from tests.store.operations import machine, run


@pytest.fixture(scope="module")
def url(postgres: Postgres) -> str:
    return postgres.database()


def fresh(url: str) -> PostgresStore:
    store = PostgresStore(url)
    for info in store.collections():
        store.drop(info.name)
    return store


@pytest.fixture
def store(url: str) -> Iterator[VectorStore]:
    with fresh(url) as opened:
        yield opened


class TestPostgresStore(Contract):
    pass


def test_random_operations_agree_with_a_dict(url: str) -> None:
    run(machine(lambda: fresh(url)), 12, 25)


@pytest.mark.long
def test_many_random_operations_agree_with_a_dict(url: str) -> None:
    run(machine(lambda: fresh(url)), 40, 30)
