"""Many processes on one store, killed, forked and stopped at the worst moments."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from errors import Busy
from store import Item
from store.base import PARTS
from store.budget import UNBOUNDED
from store.file import FileStore
from tests.servers.programs import Program
from tests.store.faults import ROOT, contents, expected, opened, put, start, vector

WRITE_STEPS = ["before-commit", "committed"]
COMPACT_STEPS = ["compact-matrix-written", "compact-before-commit", "compact-committed"]

DIE = """
import os, signal, sys
from pathlib import Path
from store.file import FileStore
from tests.store.faults import put

def step(name):
    if name == sys.argv[2].removeprefix("compact-"):
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
    """The process is killed during a write -> the state before or after it, never half."""
    before = {"a": "1", "b": "1"}
    with opened(tmp_path / "s") as store:
        store.create("docs", 8)
        put(store, ["a", "b", "gone"], 1)
        store.delete("docs", ["gone"])
        with start(DIE, str(tmp_path / "s"), name) as killed:
            assert killed.wait(30) == -signal.SIGKILL
        after = before | {"a": "7", "new": "7"}
        allowed = [after] if name == "committed" else [before]
        assert contents(store) in allowed  # one that had it open
        with opened(tmp_path / "s") as fresh:  # and one that opens it now
            assert contents(fresh) in allowed
            put(fresh, ["next"], 9)
        assert contents(store)["next"] == "9" and store.verify("docs").ok
        store.compact("docs")
        assert contents(store)["next"] == "9" and store.verify("docs").ok
        (folder,) = (tmp_path / "s" / "c").iterdir()
        assert len(list(folder.glob("matrix.*"))) == 1


COMMITTING = """
import os, signal, sys
from pathlib import Path
from store.file import FileStore
from tests.store.faults import put

folder, ids, seed, when = Path(sys.argv[1]), sys.argv[2].split(), int(sys.argv[3]), sys.argv[4]
store = FileStore(folder, step=lambda name: name == when and os.kill(os.getpid(), signal.SIGKILL))
print("open" if store.count("docs") else "", flush=True)
if ids:
    put(store, ids, seed)
signal.pause()
"""


@pytest.mark.fault("The store")
@pytest.mark.parametrize("second", [["b"], ["b", "c", "d"], ["b", "c", "d", "e"]])
def test_a_commit_that_comes_back_after_a_kill_finds_its_own_vectors(
    tmp_path: Path, second: list[str]
) -> None:
    """The process is killed between a commit's last byte and the index of the log -> once
    SQLite recovers the log the commit is whole or absent, and no later write is in its rows.
    """
    with opened(tmp_path / "s") as store:
        store.create("docs", 8)
        put(store, ["first"], 1)
        store.compact("docs")
    (folder,) = (tmp_path / "s" / "c").iterdir()
    with start(COMMITTING, str(tmp_path / "s"), "", "0", "") as other:  # it keeps the log's index
        assert heard(other, 1) == ["open\n"]
        index = (folder / "records.db-shm").read_bytes()
        for ids, seed, when in (["x", "y", "z"], 5, "committed"), (second, 70, "before-commit"):
            with start(COMMITTING, str(tmp_path / "s"), " ".join(ids), str(seed), when) as killed:
                assert killed.wait(30) == -signal.SIGKILL
            with (folder / "records.db-shm").open("r+b") as file:  # as if not yet written
                file.write(index)
        other.kill()
    with opened(tmp_path / "s") as store:
        back = {"first": "1", "x": "5", "y": "5", "z": "5"}
        assert contents(store) == back  # the control: it did come back
        put(store, ["next"], 9)
        assert contents(store) == back | {"next": "9"} and store.verify("docs").ok


@pytest.mark.parametrize("compacted", [False, True])
def test_places_that_a_killed_write_used_are_not_used_again(
    tmp_path: Path, compacted: bool
) -> None:
    with opened(tmp_path / "s") as store, opened(tmp_path / "s") as other:
        store.create("docs", 8)
        put(store, ["a", "b", "gone"], 1)
        if compacted:  # so that places differ from rows
            store.delete("docs", ["gone"])
            store.compact("docs")
        rows = contents(store)
        with start(COMMITTING, str(tmp_path / "s"), "x y", "5", "before-commit") as killed:
            assert killed.wait(30) == -signal.SIGKILL
        assert contents(store) == contents(other) == rows
        put(other, ["new"], 9)
        assert store.stats("docs")["dead_rows"] == 2
        with opened(tmp_path / "s") as fresh:
            for each in (store, other, fresh):
                assert contents(each) == rows | {"new": "9"}
                assert each.search("docs", vector(9), 9).hits[0][0].id == "new"
        store.compact("docs")
        assert contents(other) == rows | {"new": "9"}


WRITER = """
import sys
from pathlib import Path
from tests.store.faults import writer
writer(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "blind")
"""


def heard(process: Program | subprocess.Popen[str], count: int) -> list[str]:
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
        seeds = [str(turn * 10 + me + 1) for me in range(4)]
        writers = [start(WRITER, str(folder), str(me), seeds[me], mode) for me in range(4)]
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


@pytest.mark.parametrize("count", [3, pytest.param(30, marks=pytest.mark.long)])
def test_four_writers_killed_at_random_lose_nothing(tmp_path: Path, count: int) -> None:
    kills, acks, wrong = rounds(tmp_path / "s", count, "follow")
    assert not wrong
    assert kills == 4 * count and acks > kills


def test_the_kills_find_a_store_that_does_not_follow(tmp_path: Path) -> None:
    """The control: four writers that do not take in each other's writes fail within some rounds."""
    _, _, wrong = rounds(tmp_path / "s", 20, "blind")
    assert wrong


FORK = """
import os, sys
from pathlib import Path
from sql import forks
from tests.store.faults import opened, put
store = opened(Path(sys.argv[1]))
put(store, ["parent"], 0)  # everything is open
inherited = []
if sys.argv[2] == "inherit":  # the control: children go on with their parent's connections
    for calls in forks._all:
        if not hasattr(each := calls._close_idle.__self__, "_idle"):
            continue
        inherited += [(each, each._idle)]
        each._idle = []
go, start = os.pipe()
children = []
for me in range(4):
    pid = os.fork()
    if pid == 0:
        os.close(start)
        for each, idle in inherited:
            each._idle = idle
        os.read(go, 1)
        try:
            for i in range(10 if me % 2 else 60):
                put(store, [f"{me}-{i}"], i)
            if me % 2:
                store.close()
        except BaseException as exc:
            os._exit(1)
        os._exit(0)
    children.append(pid)
for each, idle in inherited:
    each._idle = idle
store.close()  # the last connection takes the log into the file and removes it
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
            assert store.verify("docs").ok
            return failed, store.count("docs")
    except Exception:
        return failed, -1


def test_children_forked_from_an_open_store_write_side_by_side(tmp_path: Path) -> None:
    assert forked(tmp_path / "s", "fork") == (0, 141)


def test_children_that_inherit_connections_do_not(tmp_path: Path) -> None:
    """The control: a child has none of the locks that its inherited connections believe in."""
    assert any(forked(tmp_path / f"s{i}", "inherit") != (0, 141) for i in range(5))


def test_a_fork_waits_for_calls_under_way(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        store.create("docs", 8)
        put(store, ["a"], 1)
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                put(store, ["b"], 2)
                store.get("docs", ["a"])

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for i in range(20):
                child = os.fork()
                if child == 0:
                    try:
                        put(store, [f"c{i}"], 3)
                        os._exit(int(store.get("docs", ["a"]) == []))
                    except BaseException:
                        os._exit(1)
                assert os.waitpid(child, 0)[1] == 0
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert store.count("docs") == 22 and store.verify("docs").ok


HOLD = """
import os, signal, sys
from pathlib import Path
from store.file import FileStore
from tests.store.faults import put

def step(name):
    if name == "before-commit":
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
    """What a call reads is of one moment, whatever is written and compacted meanwhile."""
    with opened(tmp_path / "s") as store, opened(tmp_path / "s") as other:
        store.create("docs", 8)
        put(store, [f"k{i}" for i in range(100)], 0)
        entry = other.catalog.look_up("docs")
        with other.files.using(entry) as collection, collection.snapshot() as shot:
            before = shot.matrix.copy()
            for turn in range(100):
                put(store, [f"k{i}" for i in range(turn + 1)], turn + 1)
                store.compact("docs")
                if turn % 10 == 0 and turn < 99:
                    assert other.get("docs", ["k99"])[0].text == "0"
                    assert other.count("docs") == 100
            assert (shot.matrix == before).all()
            ids = [f"k{i}" for i in range(100)]
            for i, record in enumerate(shot.named(ids, frozenset(PARTS), UNBOUNDED)):
                assert record.vector is not None and record.text == "0"
                assert (record.vector == vector(i)).all()
        assert other.get("docs", ["k0"])[0].text == "100"


SYNCS = """
import sys, threading, time
from pathlib import Path
from tests.store.faults import opened, put
mode = sys.argv[2]
with opened(Path(sys.argv[1]), fsync=mode, sync_interval_s=0.05) as store:
    store.create("docs", 8)
    put(store, ["a"], 1)
    print("begin", flush=True)
    sys.stdin.readline()
    for i in range(10):
        put(store, [f"b{i}"], 1)
    if mode == "interval":
        time.sleep(0.5)
    print("end", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize(
    ("mode", "least", "most"), [("always", 10, 14), ("interval", 1, 9), ("never", 0, 0)]
)
def test_what_is_synced(tmp_path: Path, mode: str, least: int, most: int) -> None:
    """`always` syncs before each answer, `interval` some times a second, `never` not at all."""
    with strace(tmp_path, SYNCS, str(tmp_path / "s"), mode) as (process, trace):
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "begin\n"
        before = trace.read_text().count("-wal")
        print("go", file=process.stdin, flush=True)
        assert process.stdout.readline() == "end\n"
        until(lambda: trace.read_text().count("-wal") - before >= least)
        assert trace.read_text().count("-wal") - before <= most
        print("go", file=process.stdin, flush=True)
        assert process.wait(60) == 0


@contextlib.contextmanager
def strace(tmp_path: Path, code: str, *args: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Run a program and write its syncs, with the files' names, into the file that is given."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-e", "trace=fsync,fdatasync", "-o", str(trace)]
    with subprocess.Popen(
        [*command, sys.executable, "-c", code, *args], cwd=ROOT, text=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        yield process, trace


def commits_of_eight_writers(tmp_path: Path) -> int:
    """Let 8 threads write, 7 of them while the first one commits; return how many commits."""
    commits, go_on = [], threading.Event()

    def step(name: str) -> None:
        if name == "before-commit":
            commits.append(name)
            assert go_on.wait(60)

    go_on.set()
    with FileStore(tmp_path / "s", step=step) as store:
        store.create("docs", 8)
        put(store, ["one"], 1)
        with store.files.using(store.catalog.look_up("docs")) as collection:
            queue = collection.queue
        commits.clear()
        go_on.clear()
        threads = [threading.Thread(target=put, args=(store, [f"t{me}"], me)) for me in range(8)]
        threads[0].start()
        until(lambda: len(commits) == 1)
        for thread in threads[1:]:
            thread.start()
        until(lambda: len(queue._waiting) == 7)
        go_on.set()
        for thread in threads:
            thread.join()
        assert len(contents(store)) == 9
    return len(commits)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def test_concurrent_writers_share_a_commit(tmp_path: Path) -> None:
    """Each write is durable when it is answered, and yet there are fewer commits than writes."""
    assert commits_of_eight_writers(tmp_path) == 2


def test_writers_that_do_not_share_commit_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a leader that takes its own write alone."""
    monkeypatch.setattr("store.writes.GROUP_BYTES", 0)
    assert commits_of_eight_writers(tmp_path) == 8


def test_vectors_written_by_one_process_are_searched_by_another(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as one, opened(tmp_path / "s") as two:
        one.create("docs", 8)
        for i in range(50):
            writer, reader = (one, two) if i % 2 else (two, one)
            writer.upsert("docs", [Item(f"{i}", vector(i))])
            assert reader.search("docs", vector(i), 1).hits[0][0].id == f"{i}"
        one.drop("docs")
        assert two.collections() == []
