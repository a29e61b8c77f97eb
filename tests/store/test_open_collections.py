"""Any number of collections with few open files: the least recently used are closed."""

import os
import resource
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from errors import Conflict
from store import Item, open_store
from store.file import FileStore
from store.record_file import Options
from tests.store.faults import ROOT, opened, put, vector

LONG = bool(os.environ.get("STORE_LONG"))
MANY = """
import resource, sys
from pathlib import Path
import numpy as np
from store import Item
from store.file import FileStore
resource.setrlimit(resource.RLIMIT_NOFILE, (1400, 1400))
count = int(sys.argv[2])
with FileStore(Path(sys.argv[1])) as store:
    for i in range(count):
        store.create(f"c{i}", 4)
        store.upsert(f"c{i}", [Item("a", [1, i, 0, 0], f"{i}")])
    for i in range(0, count, max(1, count // 2000)):
        (hit,) = store.search(f"c{i}", [[1, i, 0, 0]]).hits[0]
        assert (hit.id, hit.text) == ("a", str(i)), i
        store.upsert(f"c{i}", [Item("b", [1, 2, 3, 4])])
        assert store.count(f"c{i}") == 2
print("done")
"""


@pytest.mark.fault("Process and machine")
def test_many_collections_work_with_few_open_files(memory_path: Path) -> None:
    """There are more collections than files may be open -> each is written and searched."""
    done = subprocess.run(
        [sys.executable, "-c", MANY, str(memory_path / "s"), "20000" if LONG else "500"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "done\n", done.stderr[-2000:]


def test_the_least_recently_used_are_closed_and_those_in_use_are_not(tmp_path: Path) -> None:
    with FileStore(tmp_path, options=Options(open_collections=2)) as store:
        for i in range(6):
            store.create(f"c{i}", 8)
            store.upsert(f"c{i}", [Item("a", vector(i))])
        before = len(os.listdir("/proc/self/fd"))
        entry = store.catalog.look_up("c0")
        with store.files.using(entry) as collection, collection.snapshot() as shot:
            for i in range(1, 6):
                assert store.count(f"c{i}") == 1
            assert shot.ids(shot.places()) == ["a"]  # it was not closed under the reader
        for i in range(6):
            assert store.search(f"c{i}", vector(i), 1).hits[0][0].score > 0.99
        assert len(os.listdir("/proc/self/fd")) <= before + 10


def test_threads_that_close_each_others_collections_all_get_their_answers(tmp_path: Path) -> None:
    wrong: list[object] = []
    with FileStore(tmp_path, options=Options(open_collections=2)) as store:
        for i in range(8):
            store.create(f"c{i}", 8)

        def work(me: int) -> None:
            try:
                for turn in range(25):
                    name = f"c{(me + turn) % 8}"
                    store.upsert(name, [Item(f"{me}-{turn}", vector(turn))])
                    assert store.get(name, [f"{me}-{turn}"])
            except BaseException as exc:
                wrong.append(exc)

        threads = [threading.Thread(target=work, args=(me,)) for me in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert sum(store.count(f"c{i}") for i in range(8)) == 100


def test_what_is_closed_leaves_no_log_behind(tmp_path: Path) -> None:
    with FileStore(tmp_path, options=Options(open_collections=1)) as store:
        for name in ("docs", "other"):
            store.create(name, 8)
        put(store, ["a"], 1)
        store.count("other")
        uuid = store.identity("docs").uuid
        assert [path.name for path in (tmp_path / "c" / uuid).glob("records.db*")] == ["records.db"]


def test_more_collections_than_allowed_are_refused(tmp_path: Path) -> None:
    with open_store(None, tmp_path / "s", max_collections=2) as store:
        for name in ("a", "b"):
            store.create(name, 3)
        with pytest.raises(Conflict, match="MAX_COLLECTIONS"):
            store.create("c", 3)
        assert store.create("a", 3, if_exists="ok")[1] is False
        store.backup("a", tmp_path / "backup")
        with pytest.raises(Conflict, match="MAX_COLLECTIONS"):
            store.restore(tmp_path / "backup", "c")
        store.drop("b")
        assert store.restore(tmp_path / "backup", "c").count == 0
        assert len(list((tmp_path / "s" / "c").iterdir())) == 2


def test_how_many_stay_open_follows_the_limit_on_open_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, most in ((1400, 63), (100, 8), (10**6, 1000)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        with opened(tmp_path / str(limit)) as store:
            assert store.files._most == most


def test_what_another_process_drops_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.open_collections.LOOK_EVERY_S", 0)
    with FileStore(tmp_path) as store, FileStore(tmp_path) as other:
        for name in ("docs", "new", "third"):
            store.create(name, 8)
            store.upsert(name, [Item("a", vector(1), name)])
            other.count(name)
        store.swap("docs", "new")
        store.drop("new")
        assert deleted_files(tmp_path) > 0  # the control: the other one has them open
        assert other.get("docs", ["a"])[0].text == "new" and other.count("third") == 1
        assert deleted_files(tmp_path) == 0 and len(other.files._open) == 2


def deleted_files(folder: Path) -> int:
    """Return how many deleted files of a folder this process has open."""
    found = 0
    for each in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            path = os.readlink(each)
            deleted = path.endswith(("records.db (deleted)", "matrix.0 (deleted)"))
            found += deleted and path.startswith(str(folder))
    return found
