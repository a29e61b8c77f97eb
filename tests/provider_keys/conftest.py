"""Vaults as several workers have them, on every kind of database."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from accounts.provider_keys import ProviderKeys
from config import Config

# Two Fernet keys, and keys as providers make them.
A, B = "A" * 43 + "=", "B" * 43 + "="
SECRET = "sk-proj-Zx81-one-key-that-nobody-may-see-QWER"
OTHER = "sk-proj-Yy72-another-key-that-nobody-may-see-ASDF"


@pytest.fixture(params=["sqlite", "mariadb", "postgres"])
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/keys.db"
    return request.getfixturevalue(request.param).database()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/keys.db"


@pytest.fixture
def keys_of() -> Iterator[Callable[..., ProviderKeys]]:
    """Open a keys as a worker does at its start."""
    opened: list[ProviderKeys] = []

    def make(url: str, keys: str | None = A, **environment: str) -> ProviderKeys:
        keys = ProviderKeys(url, Config(encryption_key=keys), environment.get)
        opened.append(keys)
        keys.renew()
        return keys

    yield make
    for keys in opened:
        keys.close()
