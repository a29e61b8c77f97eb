"""Pytest fixtures for the real servers: started once per session, on first use.

Listed in `tests/conftest.py` as a plugin. A missing server skips the test and names the command
that installs it; with `CI=true` it fails the test. A test that breaks a server starts its own.
"""

import os
from collections.abc import Iterator

import pytest

from tests.servers.mariadb import MariaDB
from tests.servers.postgres import Postgres
from tests.servers.process import Missing, Server
from tests.servers.redis import Redis


def need(*servers: type[Server]) -> None:
    """Skip the running test if one of these is not installed; with `CI=true`, fail it."""
    for server in servers:
        try:
            server.require()
        except Missing as missing:
            if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
                pytest.fail(str(missing))
            pytest.skip(str(missing))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL 18 with pgvector for everyone; `.database()` is an empty one of your own."""
    need(Postgres)
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A MariaDB for everyone; `.database()` is an empty one of your own."""
    need(MariaDB)
    with MariaDB() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """A Redis for everyone; `.url()`, and `.flush()` to empty it."""
    need(Redis)
    with Redis() as server:
        yield server
