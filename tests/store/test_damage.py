"""Files that were cut, flipped, removed or forged: told, mended where possible, never believed."""

import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from errors import Corrupt, Full, Invalid, ServiceError, Unavailable
from store import Item
from store.backup import COPY, NOTE
from store.file import FileStore
from store.frames import HEADER, encode_frame, encode_record, read_frame
from store.fs import FS
from store.locks import file_system
from store.unpickle import check, loads
from tests.store.faults import ROOT, contents, opened, put, vector


@pytest.fixture
def folder(memory_path: Path) -> Path:
    """A closed store: five writes of three rows, each acknowledged."""
    with opened(memory_path / "store") as store:
        store.create("docs", 8)
        for seed in range(5):
            put(store, [f"{seed}-{i}" for i in range(3)], seed)
    return memory_path / "store"


def journal_of(folder: Path) -> Path:
    (path,) = (folder / "c").glob("*/journal.*")
    return path


def frame_ends(data: bytes) -> list[int]:
    def read(size: int, at: int) -> bytes:
        return data[at : at + size]

    ends = [len(HEADER)]
    while (frame := read_frame(read, ends[-1], len(ends) - 1)) is not None:
        ends.append(frame.end)
    return ends


def rows_of_first(writes: int) -> dict[str, str]:
    return {f"{seed}-{i}": str(seed) for seed in range(writes) for i in range(3)}


@pytest.mark.fault("The store")
def test_a_journal_cut_at_any_length_holds_every_whole_write(folder: Path) -> None:
    """The journal is cut at any length -> every whole write is there."""
    journal = journal_of(folder)
    whole = journal.read_bytes()
    ends = frame_ends(whole)
    matrix = (journal.parent / "mat.0").read_bytes()
    assert len(ends) == 6 and ends[-1] == len(whole)
    for size in range(ends[0], len(whole) + 1):
        journal.write_bytes(whole[:size])
        (journal.parent / "mat.0").write_bytes(matrix)
        writes = sum(end <= size for end in ends) - 1
        with opened(folder, fsync="never") as store:
            assert contents(store) == rows_of_first(writes), size
            put(store, ["next"], 9)  # the torn rest is cut off, and kept
            assert contents(store) == rows_of_first(writes) | {"next": "9"}
        torn = list(journal.parent.glob("torn.*"))
        assert [path.read_bytes() for path in torn] == (
            [whole[ends[writes] : size]] if size not in ends else []
        )
        for path in torn:
            path.unlink()


def test_every_flipped_byte_is_found_and_never_read(folder: Path) -> None:
    journal = journal_of(folder)
    whole = journal.read_bytes()
    ends = frame_ends(whole)
    for at in range(ends[0], len(whole)):
        broken = bytearray(whole)
        broken[at] ^= 0x41
        journal.write_bytes(broken)
        writes = sum(end <= at for end in ends) - 1
        with opened(folder) as store:
            assert not store.verify("docs").ok, at
            assert store.count("docs") == 3 * writes, at  # up to the damage
            if writes < 4:  # acknowledged writes follow: nothing may be added, nothing cut
                with pytest.raises(Corrupt, match=f"byte {ends[writes]} .*repair"):
                    put(store, ["next"], 9)
                assert journal.read_bytes() == broken
        assert not list(journal.parent.glob("torn.*"))
    journal.write_bytes(b"X" + whole[1:])
    with opened(folder) as store, pytest.raises(Corrupt, match="repair"):
        store.count("docs")


def test_damage_in_a_compacted_journal_is_never_taken_for_a_torn_write(folder: Path) -> None:
    with opened(folder) as store:
        store.compact("docs")
    journal = journal_of(folder)
    whole = journal.read_bytes()
    for broken in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), whole[:40]):
        journal.write_bytes(broken)
        with opened(folder) as store, pytest.raises(Corrupt):
            put(store, ["next"], 9)
        assert journal.read_bytes() == broken


def test_repair_saves_all_but_the_damaged_write_and_keeps_the_evidence(folder: Path) -> None:
    journal = journal_of(folder)
    whole = journal.read_bytes()
    ends = frame_ends(whole)
    broken = bytearray(whole)
    broken[ends[2] + 50] ^= 1
    journal.write_bytes(broken)
    with opened(folder) as store:
        report = store.repair("docs")
        assert f"bytes {ends[2]} to {ends[3]}" in report.problems[0]
        left = {k: v for k, v in rows_of_first(5).items() if v != "2"}
        assert contents(store) == left and store.verify("docs").ok
        put(store, ["next"], 9)
        assert store.repair("docs").problems == ()
    (kept,) = journal.parent.glob("damaged.*")
    assert kept.read_bytes() == broken


def test_repair_replaces_a_damaged_manifest(folder: Path) -> None:
    manifest = journal_of(folder).parent / "MANIFEST"
    manifest.write_bytes(manifest.read_bytes()[:-1])
    with opened(folder) as store:
        with pytest.raises(Corrupt, match="MANIFEST"):
            store.count("docs")
        assert not store.verify("docs").ok
        assert store.repair("docs").problems
        assert contents(store) == rows_of_first(5)


@pytest.mark.parametrize("harm", ["removed", "emptied", "zeroed", "flipped"])
def test_the_matrix_is_made_again(folder: Path, harm: str) -> None:
    (matrix,) = (folder / "c").glob("*/mat.0")
    whole = matrix.read_bytes()
    if harm == "removed":
        matrix.unlink()
    else:
        new = {"emptied": b"", "zeroed": bytes(len(whole)), "flipped": b"\x99" + whole[1:]}
        matrix.write_bytes(new[harm])
    with opened(folder) as store:
        if harm in ("zeroed", "flipped"):  # only a look at every row can see it in the same boot
            report = store.verify("docs")
            assert not report.ok and "matrix" in report.problems[0]
            store.repair("docs")
        assert contents(store) == rows_of_first(5)
        assert store.search("docs", vector(2), 3).hits[0][2].id == "2-0"


def test_damage_behind_an_open_store_is_seen_when_it_is_read(folder: Path) -> None:
    with opened(folder) as store:
        assert store.count("docs") == 15
        journal = journal_of(folder)
        at = journal.read_bytes().index(b"2-1")
        with journal.open("r+b") as file:
            file.seek(at)
            file.write(b"X")
        with pytest.raises(Corrupt, match="damaged"):
            store.get("docs", ["2-1"])
        assert store.get("docs", ["1-1"])


# -- what comes from elsewhere ---------------------------------------------------------------------


class Evil:
    """Runs a command when unpickled the ordinary way."""

    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/store-was-here",)


class Remembering(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return "outside" if obj == "x" else None


def hostile() -> Iterator[tuple[str, bytes]]:
    import io

    yield "reduce", pickle.dumps({"k": Evil()})
    yield "reduce, protocol 0", pickle.dumps({"k": Evil()}, 0)
    yield "stack global", b"\x80\x04\x8c\x02os\x8c\x06system\x93."
    yield "global", b"cos\nsystem\n."
    yield "inst", b"(S'ls'\nios\nsystem\n."
    yield "obj", b"(cos\nsystem\nS'ls'\no."
    yield "newobj", b"\x80\x02cbuiltins\nobject\n)\x81."
    yield "ext", b"\x80\x02\x82\x01."
    yield "build", b"\x80\x02}}b."
    out = io.BytesIO()
    Remembering(out, 5).dump({"k": "x"})
    yield "persistent id", out.getvalue()
    yield "exception", pickle.dumps({"k": ValueError("x")})
    yield "set", pickle.dumps({"k": {1}})
    yield "tuple", pickle.dumps({"k": (1, 2)})
    yield "bytearray", pickle.dumps({"k": bytearray(b"x")}, 5)
    yield "memo bomb", b"Nr\xff\xff\xff\xff."
    yield "memo bomb, binput", b"\x80\x02N" + b"r\xf0\xff\xff\x0f" + b"."
    yield "huge string", b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x."
    yield "huge bytes", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x."
    yield "huge frame", b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"}."
    yield "huge integer", b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x."
    yield "refers to itself", b"\x80\x04}\x94\x8c\x01k\x94h\x00s."
    yield "laughs", b"\x80\x04]\x94" + b"(h\x00h\x00e\x94" * 40 + b"."
    yield "deep", b"\x80\x04" + b"](" * 100_000 + b"e" * 100_000 + b"."
    yield "deep, one by one", b"\x80\x05" + b"]" * 200_000 + b"a" * 199_999 + b"."
    key = b"\x8c\x01k"
    yield "deep objects", b"\x80\x05" + (b"}" + key) * 200_000 + b"N" + b"s" * 200_000 + b"."
    yield "a deep value", b"\x80\x05}(" + key + b"]" * 70 + b"a" * 69 + b"u."
    text = b"X" + struct.pack("<I", 1 << 20) + b"x" * (1 << 20) + b"\x94"
    yield "a text again and again", b"\x80\x05]" + text + b"a(" + b"h\x00" * 300 + b"e."
    yield "no end", b"\x80\x05}\x94"
    yield "empty", b""
    yield "not a pickle", b"\xff\xfe hello"
    yield "pops", b"\x80\x0400000."


HOSTILE = dict(hostile())


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match="not a backup"):
        check(HOSTILE[name])
    assert not Path("/tmp/store-was-here").exists()


@pytest.mark.parametrize("name", ["reduce", "stack global", "inst", "ext", "persistent id"])
def test_our_own_reader_runs_nothing_either(name: str) -> None:
    with pytest.raises(Corrupt):
        loads(HOSTILE[name])
    assert not Path("/tmp/store-was-here").exists()


def forged(backup: Path, target: Path, record: bytes) -> Path:
    shutil.copytree(backup, target)
    data = HEADER + encode_frame(0, 0, record)
    (target / COPY).write_bytes(data)
    note = loads(next(_pickles(target / NOTE)))
    payload = encode_record(pickle.dumps(note | {"length": len(data)}, 5))
    (target / NOTE).write_bytes(encode_frame(0, 0, payload))
    return target


def _pickles(path: Path) -> Iterator[bytes]:
    from store.frames import records

    data = path.read_bytes()
    frame = read_frame(lambda n, at: data[at : at + n], 0, None)
    assert frame is not None
    return (pickled for _, pickled, _ in records(frame))


def test_a_forged_backup_is_refused_whole(folder: Path, tmp_path: Path) -> None:
    with opened(folder) as store:
        store.backup("docs", tmp_path / "backup")
        before = sorted((folder / "c").iterdir())
        good = vector(1).tobytes()
        put_ = {"k": "put", "ids": ["a"], "t": [None], "m": [{}]}
        bad: list[tuple[dict[str, Any], bytes]] = [
            (put_ | {"ids": ["a", "b"]}, good),
            (put_ | {"ids": "a"}, good),
            (put_ | {"k": "run"}, good),
            (put_, good[:-4]),
            (put_, bytes(32)),
            (put_ | {"ids": ["x" * 600]}, good),
            (put_ | {"m": [{"k": "x" * 70_000}]}, good),
            (put_ | {"m": [7]}, good),
            ({"k": "del", "ids": [5]}, b""),
        ]
        for i, (record, raw) in enumerate(bad):
            source = forged(
                tmp_path / "backup",
                tmp_path / f"forged{i}",
                encode_record(pickle.dumps(record, 5), raw),
            )
            with pytest.raises(ServiceError):
                store.restore(source, "new")
        for i, (name, pickled) in enumerate(HOSTILE.items()):
            source = forged(tmp_path / "backup", tmp_path / f"evil{i}", encode_record(pickled))
            with pytest.raises(Invalid, match="not a backup"):
                store.restore(source, f"new{name[:2].strip()}")
        for name in (NOTE, COPY):
            source = shutil.copytree(tmp_path / "backup", tmp_path / f"flipped-{name}")
            data = bytearray((source / name).read_bytes())
            data[len(data) // 2] ^= 1
            (source / name).write_bytes(data)
            with pytest.raises(Corrupt):
                store.restore(source, "new")
        assert [info.name for info in store.collections()] == ["docs"]
        assert sorted((folder / "c").iterdir()) == before
    assert not Path("/tmp/store-was-here").exists()


BOMB = """
import pickle, resource, sys
from tests.store.test_damage import HOSTILE
from store.unpickle import check
from errors import Invalid, TooLarge
from store.values import Place, brief, check_meta
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)
for name, data in HOSTILE.items():
    try:
        check(data)
    except Invalid:
        continue
    sys.exit(f"{name} passed")
again = ["x" * 60_000] * 100_000
try:
    check_meta({"z": again}, Place(0, "a"), 65_536)
    sys.exit("metadata passed")
except TooLarge:
    assert len(brief(again)) == len(brief({"k": again})) == 60
try:
    pickle.loads(HOSTILE["memo bomb"])
except MemoryError:
    print("the control ran out of memory")
"""


def test_memory_bombs_cost_no_memory() -> None:
    """Under a limit on memory; the control, an ordinary unpickler, runs out of it."""
    done = subprocess.run(
        [sys.executable, "-c", BOMB],
        cwd=ROOT,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "ran out of memory" in done.stdout


# -- the system's refusals -------------------------------------------------------------------------


class FailingSync(FS):
    failing = False

    def sync(self, fd: int) -> None:
        if self.failing:
            raise OSError(5, "Input/output error")
        super().sync(fd)


def test_a_failed_sync_is_final_for_the_process(tmp_path: Path) -> None:
    fs = FailingSync()
    with FileStore(tmp_path / "s", fs=fs) as store:
        store.create("docs", 8)
        store.create("other", 8)
        put(store, ["before"], 1)
        fs.failing = True
        with pytest.raises(Unavailable, match="not known"):
            put(store, ["lost"], 2)
        fs.failing = False  # the kernel says so once, and then would say that all is well
        for _ in range(2):
            with pytest.raises(Unavailable, match="not known"):
                put(store, ["after"], 3)
        assert store.get("docs", ["before"])  # reading goes on
        assert store.stats("docs")["poisoned"] is True
        assert not store.verify("other").problems
        store.upsert("other", [Item("a", vector(1))])
    with FileStore(tmp_path / "s") as again:
        put(again, ["after"], 3)
        assert set(contents(again)) in ({"before", "after"}, {"before", "lost", "after"})


def fill(store: FileStore) -> set[str]:
    """Write until the disk is full; return what was acknowledged."""
    acked: set[str] = set()
    for i in range(10_000):
        ids = [f"{i}-{j}" for j in range(20)]
        try:
            put(store, ids, i)
        except Full:
            return acked
        acked |= set(ids)
    raise AssertionError("the disk did not get full")


def check_full(store: FileStore) -> None:
    acked = fill(store)
    assert len(acked) > 1000 and set(contents(store)) == acked
    with pytest.raises(Full):
        store.compact("docs")
    assert set(contents(store)) == acked
    gone = [f"0-{j}" for j in range(20)]
    try:
        store.delete("docs", gone)
        acked -= set(gone)
    except Full:
        pass
    assert set(contents(store)) == acked


@contextmanager
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], object]]]:
    """Mount a file system of 2 MB; give its folder and what makes it larger."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    larger = [*mount[:3], "-o", "remount,size=8m", "tmpfs", str(small)]
    try:
        yield small, lambda: subprocess.run(larger, check=True)
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


@pytest.mark.fault("Process and machine")
def test_a_full_disk_refuses_and_loses_nothing(tmp_path: Path) -> None:
    """The disk is full -> the store refuses and loses nothing.

    On a real small file system. The test below does the like where none can be mounted.
    """
    with small_disk(tmp_path) as (small, make_larger):
        with opened(small / "s") as store:
            store.create("docs", 8)
            check_full(store)
        with opened(small / "s") as again:
            assert again.verify("docs").ok
            ids = [record.id for record in again.scroll("docs", limit=1000).records]
            make_larger()
            assert again.delete("docs", ids) == len(ids)
            assert again.compact("docs").ok
            put(again, ["again"], 1)


def test_a_pickle_written_in_place_is_lost_on_a_full_disk(tmp_path: Path) -> None:
    """The control: what a service without a journal does on the same disk."""
    with small_disk(tmp_path) as (small, _):
        file, rows, written = small / "rows.pickle", {}, 0
        with pytest.raises(OSError, match="No space"):
            for written in range(10_000):
                rows[str(written)] = np.full(8192, written, np.float32)
                file.write_bytes(pickle.dumps(rows))
        assert written > 10
        with pytest.raises((EOFError, pickle.UnpicklingError)):
            pickle.loads(file.read_bytes())


def test_a_limit_on_the_size_of_files_refuses_and_loses_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(tmp_path / "s") as store:
        store.create("docs", 8)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_200_000, before[1]))
        try:
            acked = fill(store)
            assert set(contents(store)) == acked and len(acked) > 100
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        put(store, ["after"], 1)
        assert set(contents(store)) == acked | {"after"}


def test_folders_of_others_and_network_disks_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = "\n".join(
        [
            "1 0 0:1 / / rw - ext4 /dev/vda rw",
            "2 1 0:2 / /mnt/nas rw,relatime shared:1 - nfs4 nas:/x rw",
            "3 1 0:3 / /mnt/with\\040space rw - cifs //nas/x rw",
        ]
    )
    assert file_system(Path("/mnt/nas/store"), mounts) == "nfs4"
    assert file_system(Path("/mnt/with space/store"), mounts) == "cifs"
    assert file_system(Path("/mnt/nasty"), mounts) == file_system(Path("/"), mounts) == "ext4"
    monkeypatch.setattr("store.locks.file_system", lambda path: "nfs4")
    with pytest.raises(Unavailable, match="nfs4"):
        FileStore(tmp_path / "s")
    monkeypatch.undo()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(Unavailable, match="another user"):
        FileStore(tmp_path / "s")


def test_files_are_private(folder: Path) -> None:
    for path in folder.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
