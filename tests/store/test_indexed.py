"""Declared fields of a file store are ready before the first filter, and stay so."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from errors import Invalid
from store import Item, backup, catalog
from store.file import FileStore
from store.metadata_columns import MAX_FIELDS
from store.snapshot import MetadataReader
from tests.store.contract import DIM, items
from tests.store.faults import opened


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From which row on metadata was read, for each pass over a journal."""
    found: list[int] = []
    whole = MetadataReader.__call__

    def noted(self: MetadataReader, first_row: int) -> Iterator[dict[str, Any]]:
        found.append(first_row)
        return whole(self, first_row)

    monkeypatch.setattr(MetadataReader, "__call__", noted)
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
        with store._collection(store._find("docs")[1]).current():
            postings = store._collection(store._find("docs")[1]).postings
            assert len(postings._fields) == MAX_FIELDS
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
    with FileStore(folder) as store:
        _, entry = store._find("docs")
        (folder / "c" / entry.uuid / "MANIFEST").unlink()
    with FileStore(folder) as store:
        assert "missing" in store.repair("docs").problems[0]
        assert store.info("docs").indexed == ("n",)
        assert store.count("docs", {"n": 5}) == 1 and reads == []


def forgetful(names: catalog.Patch, aliases: dict[str, Any]) -> bytes:
    """A catalogue's record as a version without declarations wrote it."""
    entries = {name: entry and vars(entry) for name, entry in names.items()}
    known = {n: e and {k: v for k, v in e.items() if k != "indexed"} for n, e in entries.items()}
    change = {"k": "names", "collections": known, "aliases": aliases}
    return catalog.encode_record(catalog.dumps(change))


def test_a_catalogue_without_declarations_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched, FileStore(tmp_path) as store:
        patched.setattr(catalog, "_record", forgetful)
        store.create("docs", DIM)
        store.alias("live", "docs")
    with FileStore(tmp_path) as store:
        assert store.info("live").indexed == ()
        assert store.create("new", DIM, indexed=["n"])[0].indexed == ("n",)
        assert store.names() == ["docs", "new"]


def test_a_backup_without_a_declaration_restores(folder: Path, tmp_path: Path) -> None:
    with FileStore(folder) as store:
        name, entry = store._find("docs")
        facts = {key: value for key, value in vars(entry).items() if key != "indexed"}
        backup.back_up(store._collection(entry), tmp_path / "old", facts | {"name": name})
        info = store.restore(tmp_path / "old", "again")
        assert (info.indexed, info.count) == ((), 100)


@pytest.mark.parametrize("fields", [None, "n", ["a..b"], ["n", "n"], ["n", 5], [["n"]], {"n": 1}])
def test_a_backup_with_a_bad_declaration_is_refused(
    folder: Path, tmp_path: Path, fields: Any
) -> None:
    with FileStore(folder) as store:
        name, entry = store._find("docs")
        facts = vars(entry) | {"name": name, "indexed": fields}
        backup.back_up(store._collection(entry), tmp_path / "bad", facts)
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
