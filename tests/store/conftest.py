"""Fixtures of the store's tests."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.file import FileStore
from tests.store.faults import MEMORY

pytest.register_assert_rewrite("tests.store.contract")


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A folder in memory where there is one: for tests that open a store a thousand times."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileStore]:
    """An empty file store."""
    with FileStore(tmp_path / "store") as opened:
        yield opened
