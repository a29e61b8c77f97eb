"""A name is looked up without a lock, and yet never as it was before a change that was answered."""

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from sql.database import Database
from sql.tables import COLLECTIONS
from store import records
from store.__main__ import main
from store.file import FileStore

TARGETS, MOVES, READERS = 7, 250, 4


def looked_up_wrongly(folder: Path) -> list[str]:
    """Move an alias and swap two names while threads look both up; return what was stale.

    After `done` changes were answered and with `begun` begun, a reader may see the state after any
    number between the two, and no other. Half of the readers have the folder open by themselves.
    """
    with FileStore(folder) as mine, FileStore(folder) as other:
        for i in range(TARGETS):
            mine.create(f"c{i}", 3)
        pair = [mine.create(name, 3)[0].uuid for name in ("x", "y")]
        mine.alias("now", "c0")
        begun = done = 0
        wrong: list[str] = []
        start = threading.Barrier(READERS + 1)

        def read(store: FileStore) -> None:
            start.wait()
            while done < MOVES and not wrong:
                for name in ("now", "x"):
                    least = done
                    entry = store.catalog.look_up(name)
                    states = range(least, begun + 1)
                    found = entry.name if name == "now" else entry.uuid
                    if found not in ([f"c{s % TARGETS}" for s in states] if name == "now"
                                     else [pair[s % 2] for s in states]):  # fmt: skip
                        wrong.append(f"{name} is {found} after {least} to {states.stop - 1}")

        threads = [
            threading.Thread(target=read, args=((mine, other)[i % 2],)) for i in range(READERS)
        ]
        for thread in threads:
            thread.start()
        start.wait()
        for move in range(1, MOVES + 1):
            begun = move
            (mine, other)[move % 3 == 0].alias("now", f"c{move % TARGETS}")
            (mine, other)[move % 2].swap("x", "y")
            done = move
        for thread in threads:
            thread.join()
        last = {store.catalog.look_up("now").name for store in (mine, other)}
        assert last == {f"c{MOVES % TARGETS}"}
    return wrong


def test_a_name_is_never_looked_up_as_it_was_before(memory_path: Path) -> None:
    assert looked_up_wrongly(memory_path / "s") == []


def test_it_is_where_nobody_looks_at_the_disk(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: names that are taken for the newest without a look."""
    monkeypatch.setattr(Database, "version", lambda self: (1, 1))
    with pytest.raises(AssertionError):
        assert looked_up_wrongly(memory_path / "s") == []


class Dies(BaseException):
    """Stands for the end of the process."""


def test_what_a_killed_drop_left_in_the_trash_is_gone_at_the_next_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise Dies

    with FileStore(tmp_path) as store:
        store.create("docs", 3)
        store.create("kept", 3)
        with monkeypatch.context() as patched:
            patched.setattr("store.open_collections.shutil.rmtree", die)
            with pytest.raises(Dies):
                store.drop("docs")
        assert list((tmp_path / "trash").iterdir())
    with FileStore(tmp_path) as store:
        assert list((tmp_path / "trash").iterdir()) == []
        assert store.names() == ["kept"]


def test_a_drop_that_was_killed_before_its_end_is_finished_or_never_was(tmp_path: Path) -> None:
    with FileStore(tmp_path) as store:
        for name in ("kept", "gone"):
            store.create(name, 3)
        kept, gone = (store.catalog.look_up(name) for name in ("kept", "gone"))
        store.files.remove(None, kept)  # type: ignore[arg-type]  # and the names stay
        store.files.remove(None, gone)  # type: ignore[arg-type]
        store._database.write(
            lambda c: c.execute(sa.delete(COLLECTIONS).where(COLLECTIONS.c.uuid == gone.uuid)),
            lambda _: False,
        )
    with FileStore(tmp_path) as store:
        assert store.names() == ["kept"] and store.count("kept") == 0
        assert store.orphans() == []


def test_repair_lists_folders_that_belong_to_no_collection(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FileStore(tmp_path) as store:
        store.create("kept", 3)
        left = tmp_path / "c" / ("0" * 32)
        records.make(left / "records.db", 3, "cosine")
        assert store.orphans() == [left]
    with pytest.raises(SystemExit, match="^0$"):
        main(["--dir", str(tmp_path), "repair"])
    assert f"{left}" in (said := capsys.readouterr().out) and "belongs to no collection" in said
