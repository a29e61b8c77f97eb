"""Declared fields of a file store are ready before the first filter, and stay so."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from errors import Invalid
from store import Item
from store.backup import NOTE
from store.file import FileStore
from store.metadata_columns import MAX_FIELDS, MetadataColumns
from tests.store.contract import DIM, items
from tests.store.faults import opened


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From which place on metadata was read, for each filter that had to."""
    found: list[int] = []
    whole = MetadataColumns.mask

    def noted(self: MetadataColumns, tree: Any, read: Any, *rest: Any) -> Any:
        def read_noted(place: int, n: int) -> Any:
            found.append(place)
            return read(place, n)

        return whole(self, tree, read_noted, *rest)

    monkeypatch.setattr(MetadataColumns, "mask", noted)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with 100 rows in `docs`, which declares one field of each."""
    with FileStore(tmp_path / "store") as store:
        store.create("docs", DIM, indexed=["n"])
        store.upsert("docs", items(100))
    return tmp_path / "store"


def test_the_first_filter_on_a_declared_field_reads_no_metadata(
    folder: Path, reads: list[int]
) -> None:
    with FileStore(folder) as store:
        assert store.count("docs", {"n": {"$lt": 40}}) == 40
        assert reads == []
        assert store.search("docs", items(1)[0].vector, 5, filter={"n": {"$gte": 98}}).hits[0][1]
        assert store.delete("docs", filter={"n": 7}) == 1
        assert reads == []


def test_the_first_filter_on_another_field_reads_them_all(folder: Path, reads: list[int]) -> None:
    """The control: reading is noticed."""
    with FileStore(folder) as store:
        assert store.count("docs", {"parity": "odd"}) == 50
        assert reads == [0]
        assert store.count("docs", {"n": 1, "parity": "odd"}) == 1
        assert reads == [0]


def test_declared_fields_stay_when_a_hundred_others_are_asked_for(
    folder: Path, reads: list[int]
) -> None:
    with FileStore(folder) as store:
        store.count("docs", {"parity": "odd"})
        for i in range(100):
            assert store.count("docs", {f"other{i}": 1}) == 0
        reads.clear()
        assert store.count("docs", {"n": 5}) == 1 and reads == []
        with store.files.using(store.catalog.look_up("docs")) as collection:
            assert len(collection.derived.columns._fields) == MAX_FIELDS
        store.count("docs", {"parity": "odd"})  # the control: it had to go
        assert reads == [0]


def test_64_declared_fields_leave_room_for_as_many_others(tmp_path: Path, reads: list[int]) -> None:
    with FileStore(tmp_path) as store:
        store.create("docs", DIM, indexed=[f"f{i}" for i in range(64)])
        store.upsert("docs", [Item("a", [1.0] * DIM, None, {f"f{i}": i for i in range(70)})])
        for _ in range(2):
            assert all(store.count("docs", {f"f{i}": i}) == 1 for i in range(70))
        assert len(reads) == 6


def test_what_is_written_is_followed_without_reading_it_back(
    folder: Path, reads: list[int]
) -> None:
    with FileStore(folder) as mine, FileStore(folder) as other:
        assert mine.count("docs", {"n": 3}) == other.count("docs", {"n": 3}) == 1
        for turn, store in enumerate([mine, other] * 3):
            store.upsert("docs", [Item(f"new{turn}", [1.0] * DIM, None, {"n": 3})])
            store.upsert("docs", [Item("id0003", [1.0] * DIM, None, {"n": -turn})])
            for looks in (other, mine):
                assert looks.count("docs", {"n": 3}) == turn + 1
                assert looks.count("docs", {"n": -turn}) == 1 + (turn == 0)
        assert other.delete("docs", filter={"n": 3}) == 6
        assert mine.count("docs", {"n": 3}) == 0
    assert reads == []


def test_declared_fields_outlive_compactions(folder: Path, reads: list[int]) -> None:
    with FileStore(folder) as mine, FileStore(folder) as other:
        assert mine.count("docs", {"n": 50}) == other.count("docs", {"n": 50}) == 1
        other.delete("docs", [f"id{i:04}" for i in range(50)])
        mine.compact("docs")
        other.upsert("docs", [Item("more", [1.0] * DIM, None, {"n": 50})])
        for store in (mine, other):
            assert store.stats("docs")["generation"] == 1
            assert store.count("docs", {"n": {"$lt": 60}}) == 11
    with opened(folder, compact_rows=10) as store:
        store.upsert("docs", items(50))
        store.delete("docs", [f"id{i:04}" for i in range(80)])  # compacts by itself
        assert store.stats("docs")["generation"] == 2
        assert store.count("docs", {"n": {"$gte": 90}}) == 10
    assert reads == []


def test_a_repaired_collection_has_its_fields(folder: Path, reads: list[int]) -> None:
    (path,) = (folder / "c").glob("*/records.db")
    data = path.read_bytes()
    path.write_bytes(data.replace(items(1)[0].vector.tobytes(), b"?" * DIM * 4))
    with FileStore(folder) as store:
        assert "99 records were saved" in store.repair("docs").problems[-1]
        assert store.info("docs").indexed == ("n",)
        assert store.count("docs", {"n": 5}) == 1 and reads == []


@pytest.mark.parametrize("fields", [None, "n", ["a..b"], ["n", "n"], ["n", 5], [["n"]], {"n": 1}])
def test_a_backup_with_a_bad_declaration_is_refused(
    folder: Path, tmp_path: Path, fields: Any
) -> None:
    with FileStore(folder) as store:
        store.backup("docs", tmp_path / "bad")
        note = json.loads((tmp_path / "bad" / NOTE).read_text()) | {"indexed": fields}
        (tmp_path / "bad" / NOTE).write_text(json.dumps(note))
        with pytest.raises(Invalid, match="indexed"):
            store.restore(tmp_path / "bad", "again")
        assert store.names() == ["docs"] and store.orphans() == []


def test_eight_handles_that_open_at_once_agree(folder: Path, reads: list[int]) -> None:
    with ExitStack() as stack:
        stores = [stack.enter_context(FileStore(folder)) for _ in range(8)]
        for turn, store in enumerate(stores):
            store.upsert("docs", [Item(f"turn{turn}", [1.0] * DIM, None, {"n": 1000 + turn})])
        assert {store.count("docs", {"n": {"$gte": 1000}}) for store in stores} == {8}
    assert reads == []
