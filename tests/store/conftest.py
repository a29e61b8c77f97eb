"""Fixtures of the store's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from store.file import FileStore

pytest.register_assert_rewrite("tests.store.contract")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileStore]:
    """An empty file store."""
    with FileStore(tmp_path / "store") as opened:
        yield opened
