"""One collection's file as a process has it open: its log, its lock, and a disk that fails."""

import errno
import json
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from errors import Corrupt, Full, NotFound
from store import Item, record_file
from store.file import FileStore
from store.record_file import Options
from store.records import PAGE_BYTES
from tests.store.faults import contents, opened, put, start, vector
from tests.store.test_damage import FAIL
from tests.store.test_processes import until


def longest_log(folder: Path) -> int:
    """Write 60 MB while readers overlap; return the most bytes that the log has had."""
    most, stop = 0, threading.Event()
    with opened(folder, fsync="never") as store:
        store.create("docs", 4096)
        with store.files.using(store.catalog.look_up("docs")) as collection:

            def read() -> None:
                while not stop.is_set():
                    with collection.current():
                        time.sleep(0.05)

            threads = [threading.Thread(target=read) for _ in range(4)]
            for thread in threads:
                thread.start()
            try:
                for turn in range(60):
                    store.upsert("docs", [Item(f"{i}", vector(turn, 4096)) for i in range(60)])
                    most = max(most, (collection.folder / "records.db-wal").stat().st_size)
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
            for _ in range(3):  # nothing reads: it is begun again, and cut
                store.upsert("docs", [Item("1", vector(1, 4096))])
            limit = record_file.LONG_WAL_PAGES * PAGE_BYTES
            assert (collection.folder / "records.db-wal").stat().st_size <= limit
        assert store.count("docs") == 60 and store.verify("docs").ok
    return most


def test_the_log_stays_short_while_readers_overlap(tmp_path: Path) -> None:
    assert longest_log(tmp_path / "s") < 36 << 20


def test_the_log_grows_where_no_writer_waits_for_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: readers that overlap keep it from being begun again."""
    monkeypatch.setattr("store.record_file.LONG_WAL_PAGES", 1 << 30)
    assert longest_log(tmp_path / "s") > 50 << 20


def test_a_writer_that_is_broken_off_while_it_waits_holds_up_no_other(tmp_path: Path) -> None:
    at_work, go_on = threading.Event(), threading.Event()

    def step(name: str) -> None:
        at_work.set()
        assert go_on.wait(30)

    class Out(BaseException):
        pass

    def out(*_: object) -> None:
        raise Out

    with FileStore(tmp_path / "s") as store:
        store.create("docs", 8)
        store.count("docs")
        with store.files.using(store.catalog.look_up("docs")) as collection:
            collection.step = step
        first = threading.Thread(target=put, args=(store, ["first"], 1))
        first.start()
        assert at_work.wait(30)
        before = signal.signal(signal.SIGALRM, out)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(Out):
                put(store, ["second"], 2)
        finally:
            signal.signal(signal.SIGALRM, before)
        third = threading.Thread(target=put, args=(store, ["third"], 3))
        third.start()
        until(lambda: len(collection.queue._waiting) == 1)
        go_on.set()
        for thread in (first, third):
            thread.join(60)
        assert contents(store) == {"first": "1", "third": "3"}
        put(store, ["fourth"], 4)


@pytest.mark.parametrize("when", ["matrix-written", "before-commit"])
def test_a_compaction_that_fails_leaves_no_file(tmp_path: Path, when: str) -> None:
    """The disk is full before a compaction is committed -> `Full`, and its file is removed."""

    def step(name: str) -> None:
        if name == when and len(list((tmp_path / "s").glob("c/*/matrix.*"))) == 2:
            raise OSError(errno.ENOSPC, "no space")

    with FileStore(tmp_path / "s", step=step) as store:
        store.create("docs", 8)
        put(store, ["a", "b"], 1)
        store.delete("docs", ["a"])
        with pytest.raises(Full):
            store.compact("docs")
        (only,) = (tmp_path / "s").glob("c/*/matrix.*")
        assert only.name == "matrix.0" and contents(store) == {"b": "1"}
        put(store, ["c"], 2)
        assert contents(store) == {"b": "1", "c": "2"}


def test_a_file_that_is_deleted_or_replaced_while_it_is_open_takes_no_writes(
    tmp_path: Path,
) -> None:
    with opened(tmp_path / "s") as store:
        store.create("docs", 8)
        put(store, ["a"], 1)
        (path,) = (tmp_path / "s").glob("c/*/records.db")
        copied = path.with_name("copy")
        shutil.copyfile(path, copied)
        path.unlink()
        with pytest.raises(Corrupt, match=r"records\.db is missing; restore a backup"):
            put(store, ["b"], 2)
        copied.rename(path)
        with pytest.raises(Corrupt, match="was replaced while it was in use"):
            put(store, ["b"], 2)
        shutil.rmtree(path.parent)
        with pytest.raises(NotFound, match="dropped"):
            put(store, ["b"], 2)


UNSYNCED = """
import sys
from pathlib import Path
import pytest
from errors import Unavailable
from store import Item
from tests.store.faults import opened, vector
flag = Path(sys.argv[2])
with opened(Path(sys.argv[1]), fsync="never") as store:
    store.create("docs", 4096)
    def write(turn):
        store.upsert("docs", [Item(f"{turn}-{i}", vector(i, 4096)) for i in range(60)])
    write(0)
    flag.touch()
    for turn in range(1, 8):
        try:
            write(turn)
        except Unavailable:
            break
    flag.unlink()
    assert 3 < turn < 7, turn  # at the first checkpoint, of 4 MiB
    with pytest.raises(Unavailable, match="unknown"):
        write(9)
    assert store.count("docs") == 60 * turn and store.stats("docs")["poisoned"] is True
"""


def test_a_failed_sync_of_a_checkpoint_is_final_too(tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    flag, source, library = tmp_path / "FLAG", tmp_path / "fail.c", tmp_path / "fail.so"
    source.write_text(FAIL.replace("FLAG", json.dumps(str(flag))))
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    with start(UNSYNCED, str(tmp_path / "s"), str(flag), LD_PRELOAD=str(library)) as process:
        assert process.wait(60) == 0


def test_a_compaction_that_failed_is_not_tried_with_each_write(tmp_path: Path) -> None:
    """The disk has no room for a compaction that is due -> writes go on, it is tried later."""
    tried: list[str] = []

    def step(name: str) -> None:
        if name == "matrix-written":
            tried.append(name)
            raise OSError(errno.ENOSPC, "no space")

    options = Options(compact_rows=5)
    with FileStore(tmp_path / "s", options=options, step=step) as store:
        store.create("docs", 8)
        for turn in range(10):
            put(store, ["a", "b", "c"], turn)
        assert len(tried) == 1 and contents(store) == dict.fromkeys("abc", "9")
