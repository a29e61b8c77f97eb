"""Many processes on one store, killed, forked and stopped at the worst moments."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from errors import Busy
from store import Item
from store.file import FileStore
from tests.store.faults import ROOT, contents, expected, opened, put, start, vector

LONG = bool(os.environ.get("STORE_LONG"))
WRITE_STEPS = ["matrix-written", "half-frame", "frame-written", "frame-synced"]
COMPACT_STEPS = [
    f"compact-{name}"
    for name in (
        "matrix-written",
        "journal-created",
        "journal-written",
        "journal-synced",
        "folder-synced",
        "manifest-switched",
        "old-unlinked",
    )
]

DIE = """
import os, signal, sys
from pathlib import Path
from store.file import FileStore
from tests.store.faults import put

def step(name):
    if name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

store = FileStore(Path(sys.argv[1]), step=step)
if sys.argv[2].startswith("compact"):
    store.compact("docs")
else:
    put(store, ["a", "new"], 7)
"""


@pytest.mark.fault("The store")
@pytest.mark.parametrize("name", WRITE_STEPS + COMPACT_STEPS)
def test_a_kill_at_any_step_leaves_before_or_after(tmp_path: Path, name: str) -> None:
    """It is killed during a write -> before or after, never half."""
    before = {"a": "1", "b": "1"}
    with opened(tmp_path / "s") as store:
        store.create("docs", 8)
        put(store, ["a", "b", "gone"], 1)
        store.delete("docs", ["gone"])
        with start(DIE, str(tmp_path / "s"), name) as killed:
            assert killed.wait(30) == -signal.SIGKILL
        after = before | {"a": "7", "new": "7"}
        allowed = [before] if name in ("matrix-written", "half-frame") else [after]
        if name.startswith("compact"):
            allowed = [before]
        assert contents(store) in allowed  # one that had it open
        with opened(tmp_path / "s") as fresh:  # and one that opens it now
            assert contents(fresh) in allowed
            put(fresh, ["next"], 9)
        assert contents(store)["next"] == "9" and store.verify("docs").ok
        store.compact("docs")
        assert contents(store)["next"] == "9" and store.verify("docs").ok
        (folder,) = (tmp_path / "s" / "c").iterdir()
        assert len(list(folder.glob("journal.*"))) == len(list(folder.glob("mat.*"))) == 1


def heard(process: subprocess.Popen[str], count: int) -> list[str]:
    """Wait for so many lines of a writer and return them."""
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


def rounds(folder: Path, count: int, mode: str, seed: int = 1) -> tuple[int, int, list[str]]:
    """Let four writers be killed at random, again and again; return kills, acks, violations."""
    with opened(folder) as store:
        store.create("docs", 8)
    rng, wrong, kills, acks = random.Random(seed), [], 0, 0
    state: dict[str, str] = {}
    for turn in range(count):
        args = [sys.executable, "-m", "tests.store.faults", str(folder)]
        writers = [
            subprocess.Popen(
                [*args, str(me), str(turn * 10 + me + 1), mode],
                cwd=ROOT,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for me in range(4)
        ]
        told = {process: heard(process, 1) for process in writers}  # all are at work
        one = rng.choice(writers)
        told[one] += heard(one, rng.randrange(10, 60))
        for process in rng.sample(writers, 4):
            process.kill()
            time.sleep(rng.uniform(0, 0.01))  # at any moment of a write of the next one
        reports = [[*told[process], *process.communicate()[0].splitlines()] for process in writers]
        kills += 4
        acks += sum(line.startswith("ack") for report in reports for line in report)
        wrong += [line for report in reports for line in report if line.startswith("failed")]
        try:
            with opened(folder) as store:
                found = contents(store)
        except Exception as exc:
            return kills, acks, [*wrong, f"round {turn}: {exc}"]
        for me, report in enumerate(reports):
            mine = {k: v for k, v in state.items() if k.startswith(f"w{me}-")}
            have = {k: v for k, v in found.items() if k.startswith(f"w{me}-")}
            if have not in expected([line.strip() for line in report], mine):
                wrong.append(f"round {turn}: writer {me} finds other rows than were acknowledged")
        state = found
        if wrong:
            break
    return kills, acks, wrong


def test_four_writers_killed_at_random_lose_nothing(tmp_path: Path) -> None:
    kills, acks, wrong = rounds(tmp_path / "s", 60 if LONG else 6, "lock")
    assert not wrong
    assert kills == 4 * (60 if LONG else 6) and acks > kills


def test_the_kills_find_a_store_without_its_lock(tmp_path: Path) -> None:
    """The control: four writers that do not lock each other out do damage within some rounds.

    The rounds end with the first damage.
    """
    _, _, wrong = rounds(tmp_path / "s", 100, "nolock")
    assert wrong


FORK = """
import os, sys
from pathlib import Path
from tests.store.faults import opened, put
inherit = sys.argv[2] == "inherit"
store = opened(Path(sys.argv[1]), lock_timeout_s=10)
put(store, ["parent"], 0)  # everything is open, the lock's file too
if inherit:  # the control: children go on with their parent's lock
    from store.locks import FileLock
    parent = os.getpid()
    FileLock._own = lambda self: self._fd
    from store.ledger import Ledger
    Ledger.reset_locks = lambda self: None
go, start = os.pipe()
children = []
for me in range(4):
    pid = os.fork()
    if pid == 0:
        os.close(start)
        os.read(go, 1)
        try:
            for i in range(50):
                put(store, [f"{me}-{i}"], i)
        except BaseException as exc:
            os._exit(1)
        os._exit(0)
    children.append(pid)
os.close(start)  # all begin
sys.exit(sum(os.waitpid(pid, 0)[1] != 0 for pid in children))
"""


def forked(folder: Path, mode: str) -> tuple[int, int]:
    with opened(folder) as store:
        store.create("docs", 8)
    with start(FORK, str(folder), mode) as parent:
        failed = parent.wait(60)
    try:
        with opened(folder) as store:
            return failed, store.count("docs")
    except Exception:
        return failed, -1


def test_children_forked_from_an_open_store_write_side_by_side(tmp_path: Path) -> None:
    assert forked(tmp_path / "s", "fork") == (0, 201)


def test_children_that_inherit_the_lock_do_not(tmp_path: Path) -> None:
    """The control: the lock belongs to the open file, so an inherited one locks nobody out.

    Whether two write at the same moment is chance, so there are some tries.
    """
    assert any(forked(tmp_path / str(i), "inherit") != (0, 201) for i in range(20))


HOLD = """
import os, signal, sys
from pathlib import Path
from store.file import FileStore
from tests.store.faults import put

def step(name):
    if name == "half-frame":
        print("stopped", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)

put(FileStore(Path(sys.argv[1]), step=step), ["held"], 3)
"""


def test_a_stopped_holder_of_the_lock_makes_writers_busy_not_hang(tmp_path: Path) -> None:
    with opened(tmp_path / "s", lock_timeout_s=0.4) as store, contextlib.ExitStack() as stack:
        store.create("docs", 8)
        put(store, ["before"], 1)
        holder = stack.enter_context(start(HOLD, str(tmp_path / "s")))
        assert holder.stdout is not None and holder.stdout.readline() == "stopped\n"
        began = time.monotonic()
        with pytest.raises(Busy) as caught:
            put(store, ["mine"], 2)
        assert time.monotonic() - began < 20 and caught.value.retry_after_s
        outcomes: list[str] = []

        def write(me: int) -> None:
            try:
                put(store, [f"t{me}"], me)
            except Busy:
                outcomes.append("busy")

        threads = [threading.Thread(target=write, args=(i,)) for i in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert outcomes == ["busy"] * 5
        assert store.count("docs") == 1  # readers need no lock
        os.kill(holder.pid, signal.SIGCONT)
        assert holder.wait(60) == 0
        put(store, ["mine"], 2)
        assert contents(store) == {"before": "1", "held": "3", "mine": "2"}


def test_a_reader_is_not_disturbed_by_a_hundred_compactions(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store, opened(tmp_path / "s") as other:
        store.create("docs", 8)
        put(store, [f"k{i}" for i in range(100)], 0)
        _, entry = other._find("docs")
        shot = other._collection(entry).snapshot()
        wanted = [shot.record(row, frozenset(["text", "vector"])) for row in range(100)]
        before = shot.matrix.copy()
        for turn in range(100):
            put(store, [f"k{i}" for i in range(turn + 1)], turn + 1)
            store.compact("docs")
            if turn % 10 == 0:
                assert other.get("docs", ["k99"])[0].text == "0"
                assert other.count("docs") == 100
        assert (shot.matrix == before).all()
        for row, record in enumerate(wanted):
            again = shot.record(row, frozenset(["text", "vector"]))
            assert again.vector is not None and record.vector is not None
            assert again.text == record.text and (again.vector == record.vector).all()


def test_interval_syncs_by_itself(tmp_path: Path) -> None:
    with opened(tmp_path / "s", fsync="interval", sync_interval_s=0.05) as store:
        store.create("docs", 8)
        put(store, ["a"], 1)
        _, entry = store._find("docs")
        journal = store._collection(entry).journal
        assert journal is not None
        deadline = time.monotonic() + 60
        while journal.unsynced and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not journal.unsynced


def syncs_of_eight_writers(tmp_path: Path) -> int:
    """Let 8 threads write, 7 of them while the first one's sync goes on; return how many syncs."""
    from store.fs import FS

    class Disk(FS):
        syncs, go_on = 0, threading.Event()

        def sync(self, fd: int) -> None:
            Disk.syncs += 1
            assert self.go_on.wait(60)

    Disk.go_on.set()
    with FileStore(tmp_path / "s", fs=Disk()) as store:
        store.create("docs", 8)
        put(store, ["one"], 1)
        queue = store._collection(store._find("docs")[1]).queue
        Disk.syncs = 0
        Disk.go_on.clear()
        threads = [threading.Thread(target=put, args=(store, [f"t{me}"], me)) for me in range(8)]
        threads[0].start()
        until(lambda: Disk.syncs == 1)
        for thread in threads[1:]:
            thread.start()
        until(lambda: len(queue._waiting) == 7)
        Disk.go_on.set()
        for thread in threads:
            thread.join()
        assert len(contents(store)) == 9
    return Disk.syncs


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def test_concurrent_writers_share_syncs(tmp_path: Path) -> None:
    """Each write is durable when it is answered, and yet there are fewer syncs than writes."""
    assert syncs_of_eight_writers(tmp_path) == 2


def test_writers_that_do_not_wait_for_each_other_sync_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a leader that takes its own write alone."""
    monkeypatch.setattr("store.writes.GROUP_BYTES", 0)
    assert syncs_of_eight_writers(tmp_path) == 8


def test_vectors_written_by_one_process_are_searched_by_another(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as one, opened(tmp_path / "s") as two:
        one.create("docs", 8)
        for i in range(50):
            writer, reader = (one, two) if i % 2 else (two, one)
            writer.upsert("docs", [Item(f"{i}", vector(i))])
            assert reader.search("docs", vector(i), 1).hits[0][0].id == f"{i}"
        one.drop("docs")
        assert two.collections() == []
