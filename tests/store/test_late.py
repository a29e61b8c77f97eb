"""A store whose disk is not there at the start: its collections wait, and nothing else."""

from pathlib import Path

import pytest

from errors import Invalid, ServiceError
from store import VectorStore, open_store
from store.lazy import open_or_wait


def test_it_opens_when_it_can(tmp_path: Path) -> None:
    place = tmp_path / "store"
    place.write_text("a file where the folder should be")  # as good as a disk that is read-only
    store = open_or_wait(lambda: open_store(None, place))
    assert store.problem
    with pytest.raises(ServiceError) as refused:
        store.create("notes", 3)
    assert refused.value.status == 503
    place.unlink()
    info, new = store.create("notes", 3)
    assert new and info.dim == 3 and store.problem is None
    store.close()


def test_a_store_that_opens_is_itself(tmp_path: Path) -> None:
    with open_or_wait(lambda: open_store(None, tmp_path / "store")) as store:
        assert isinstance(store, VectorStore) and store.problem is None


def test_a_setting_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(Invalid, match="ftp"):
        open_or_wait(lambda: open_store("ftp://somewhere"))
