"""What a drop or a create that was killed leaves is finished, or listed, and never believed."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from sql.tables import COLLECTIONS
from store import records
from store.__main__ import main
from store.file import FileStore


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
