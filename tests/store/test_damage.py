"""Files that were cut, flipped, removed or forged: named, mended where possible, never believed."""

import hashlib
import json
import os
import pickle
import random
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import orjson
import pytest

from errors import Corrupt, Full, Invalid, ServiceError, Unavailable
from store import Item, Record, sqlite_version
from store.__main__ import main
from store.backup import COPY, NOTE
from store.base import PARTS
from store.file import FileStore
from store.local_disk import file_system
from store.matrix import HEAD_BYTES
from store.records import encoded, numbered
from store.unpickle import check, dumps, loads
from tests.store.faults import ROOT, contents, opened, put, vector

LONG = bool(os.environ.get("STORE_LONG"))


@pytest.fixture
def folder(memory_path: Path) -> Path:
    """A closed store: five writes of three rows, each acknowledged."""
    with opened(memory_path / "store") as store:
        store.create("docs", 8)
        for seed in range(5):
            put(store, [f"{seed}-{i}" for i in range(3)], seed)
    return memory_path / "store"


ROWS = {f"{seed}-{i}": (str(seed), seed + i) for seed in range(5) for i in range(3)}
TEXTS = {id_: text for id_, (text, _) in ROWS.items()}


def records_of(folder: Path) -> Path:
    (path,) = (folder / "c").glob("*/records.db")
    return path


def spoil(path: Path, at: int, with_: bytes = b"") -> None:
    data = bytearray(path.read_bytes())
    data[at : at + max(1, len(with_))] = with_ or bytes([data[at] ^ 0x41])
    path.write_bytes(data)


def test_sqlite_has_no_race_between_checkpoints() -> None:
    """Before 3.51.3 several connections in WAL mode may damage a file."""
    assert tuple(map(int, sqlite_version().split("."))) >= (3, 51, 3)


def right(store: FileStore) -> int:
    """Read all in every way; return how many records are missing. The rest must be right."""
    answers: list[Sequence[Record]] = [
        store.scroll("docs", limit=100).records,
        store.get("docs", list(ROWS)),
        store.search("docs", vector(1), 100, include=PARTS).hits[0],
    ]
    for record in [each for answer in answers for each in answer]:
        text, seed = ROWS[record.id]
        assert record.text == text and record.vector is not None
        assert (record.vector == vector(seed)).all()
    return len(ROWS) - min(store.count("docs"), *map(len, answers))


@pytest.mark.fault("The store")
def test_a_flipped_byte_is_found_and_never_read(folder: Path) -> None:
    """A byte of the records is flipped -> what is read is right, or refused with the file's name;
    if a record is missing, `verify` says so.
    """
    path = records_of(folder)
    whole = path.read_bytes()
    used = [at for at in range(len(whole)) if whole[at]]
    refused = 0
    for at in used if LONG else random.Random(4).sample(used, 300):
        spoil(path, at)
        try:
            with opened(folder, fsync="never") as store:
                try:
                    missing = right(store)
                except ServiceError as exc:
                    assert isinstance(exc, Corrupt) and str(path) in exc.message, at
                    refused += 1
                    missing = 0
                assert not missing or not store.verify("docs").ok, at
        finally:
            for file in path.parent.glob("records.db*"):
                file.unlink()
            path.write_bytes(whole)
    assert refused > 50


def test_a_flipped_byte_goes_unseen_without_checksums(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: SQLite alone does not notice a flipped bit of a vector."""
    monkeypatch.setattr("store.records.zlib.crc32", lambda *_: 0)
    path = records_of(folder)
    with apsw.Connection(str(path)) as connection:
        connection.execute("UPDATE records SET vector_crc = 0, payload_crc = 0")
        connection.execute("UPDATE state SET crc = 0")
    connection.close()
    raw = vector(6).tobytes()
    path.write_bytes(path.read_bytes().replace(raw, raw[:2] + b"X" + raw[3:]))
    with opened(folder) as store, pytest.raises(AssertionError):
        right(store)


def test_damage_in_an_open_store_is_seen_when_it_is_read(folder: Path) -> None:
    with opened(folder) as store:
        assert store.count("docs") == 15
        path = records_of(folder)
        at = path.read_bytes().index(vector(6).tobytes())  # of 4-2
        with path.open("r+b") as file:
            file.seek(at)
            file.write(b"X")
        with opened(folder) as other:  # which has no copy of the page in memory
            with pytest.raises(Corrupt, match="damaged"):
                other.get("docs", ["4-2"])
            assert other.get("docs", ["1-1"])
            assert other.get("docs", ["4-2"], ["text"])[0].text == "4"


def test_repair_saves_all_but_the_damaged_record_and_keeps_the_evidence(folder: Path) -> None:
    path = records_of(folder)
    spoil(path, path.read_bytes().index(vector(6).tobytes()))
    broken = path.read_bytes()
    with opened(folder) as store, opened(folder) as other:
        assert other.count("docs") == 15
        report = store.verify("docs")
        assert not report.ok and "4-2" in report.problems[0] and str(path) in report.problems[0]
        [*_, said] = store.repair("docs").problems
        left = {id_: text for id_, text in TEXTS.items() if id_ != "4-2"}
        for each in (store, other):
            assert contents(each) == left and each.verify("docs").ok
        put(other, ["next"], 9)
        assert store.get("docs", ["next"])
        assert store.repair("docs").problems == () and store.names() == ["docs"]
        assert store.orphans() == []
    (kept,) = (folder / "damaged").glob("*/records.db")
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.read_bytes() == broken and str(kept.parent) in said


@pytest.mark.parametrize("page", [0, 1, 2, 3, 4, 5, 6])
def test_repair_steps_over_damaged_pages(memory_path: Path, page: int) -> None:
    with opened(memory_path / "s") as store:
        store.create("docs", 8)
        put(store, [f"k{i:03}" for i in range(900)], 1)
    path = records_of(memory_path / "s")
    size = 8192
    assert path.stat().st_size > 12 * size
    pages = path.stat().st_size // size
    spoil(path, (page if page < 4 else pages * (page - 3) // 4) * size, b"\xff" * size)
    with opened(memory_path / "s") as store:
        report = store.repair("docs")
        assert report.problems
        assert store.verify("docs").ok
        found = store.scroll("docs", limit=1000).records
        assert len(found) == report.rows and all(record.text == "1" for record in found)
        assert report.rows > 600 or page < 4
        put(store, ["next"], 1)


def test_a_missing_or_emptied_file_is_named(folder: Path) -> None:
    path = records_of(folder)
    for harm in (lambda: path.write_bytes(b""), lambda: path.write_bytes(b"?" * 9000), path.unlink):
        harm()
        with opened(folder) as store:
            with pytest.raises(Corrupt) as refused:
                store.count("docs")
            assert str(path) in refused.value.message
            assert not store.verify("docs").ok
            with pytest.raises(Corrupt):
                put(store, ["next"], 1)


@pytest.mark.parametrize("harm", ["removed", "emptied", "cut", "zeroed", "flipped"])
@pytest.mark.parametrize("compacted", [False, True])
def test_the_matrix_is_made_again(
    folder: Path, harm: str, compacted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = dict(TEXTS)
    if compacted:  # so that places differ from rows
        with opened(folder) as store:
            store.delete("docs", ["0-0", "3-1"])
            store.compact("docs")
            put(store, ["0-0"], 0)
            del rows["3-1"]
    (matrix,) = (folder / "c").glob("*/matrix.*")
    whole = matrix.read_bytes()
    new = {"emptied": b"", "cut": whole[:100], "zeroed": bytes(len(whole))}
    new |= {"removed": b"", "flipped": whole[:HEAD_BYTES] + b"\x99" + whole[HEAD_BYTES + 1 :]}
    matrix.write_bytes(new[harm])
    if harm == "removed":
        matrix.unlink()
    with opened(folder) as store:
        if harm in ("zeroed", "flipped"):  # only a look at every row can see it in the same boot
            report = store.verify("docs")
            assert not report.ok and "matrix" in report.problems[0]
            with monkeypatch.context() as patched:
                patched.setattr("store.derived.boot_id", lambda: "another boot")
                with opened(folder) as later:
                    assert later.verify("docs").ok
            matrix.write_bytes(new[harm])
            assert "again" in store.repair("docs").problems[0]
        assert contents(store) == rows and store.verify("docs").ok
        assert store.search("docs", vector(2), 3).hits[0][2].id == "2-0"


@pytest.mark.parametrize("head", [b"\x20", b"\xff" * 8, b"\x7f" * 8, bytes(8)])
def test_a_damaged_head_of_the_matrix_costs_nothing(folder: Path, head: bytes) -> None:
    (matrix,) = (folder / "c").glob("*/matrix.*")
    matrix.write_bytes(head + matrix.read_bytes()[len(head) :])
    with opened(folder) as store:
        assert contents(store) == TEXTS
        put(store, ["new"], 9)
        assert contents(store) == TEXTS | {"new": "9"} and store.verify("docs").ok


@pytest.mark.parametrize("compacted", [False, True])
def test_a_damaged_vector_is_never_ranked(folder: Path, compacted: bool) -> None:
    """The matrix is made again without it: a search that would rank it is refused, by its name."""
    path = records_of(folder)
    spoil(path, path.read_bytes().index(vector(6).tobytes()) + 3)  # of 4-2
    (matrix,) = path.parent.glob("matrix.*")
    matrix.unlink()
    with opened(folder) as store, opened(folder) as other:
        assert store.count("docs") == 15
        if compacted:
            store.delete("docs", ["0-0", "0-1"])
            store.compact("docs")
        with opened(folder) as later:
            for each in (store, other, later):
                for query in (vector(6), -vector(6)):
                    with pytest.raises(Corrupt, match="'4-2'") as refused:
                        each.search("docs", query, 1)
                    assert str(path) in refused.value.message
                assert each.get("docs", ["1-1"]) and not each.verify("docs").ok
                assert len(each.search("docs", vector(6), 20, without="4-2").hits[0]) >= 12
        with pytest.raises(Corrupt, match="'4-2'"):
            other.get("docs", ["4-2"])
        put(other, ["4-2"], 6)  # written again, it is whole
        for each in (store, other):
            assert each.search("docs", vector(6), 1).hits[0][0].id == "4-2"
            assert each.verify("docs").ok


def test_the_file_of_another_collection_is_not_believed(folder: Path) -> None:
    path = records_of(folder)
    with opened(folder) as store:
        store.create("other", 8)
        store.upsert("other", [Item("x", vector(9), "of the other")])
        uuid = store.info("other").uuid
    shutil.copy(folder / "c" / uuid / "records.db", path)
    with opened(folder) as store:
        for call in (
            lambda: store.search("docs", vector(9)),
            lambda: store.get("docs", ["x"]),
            lambda: put(store, ["new"], 1),
            lambda: store.repair("docs"),  # which would save records that are not its own
        ):
            with pytest.raises(Corrupt, match="another collection") as refused:
                call()
            assert str(path) in refused.value.message
        assert "another collection" in store.verify("docs").problems[0]
        assert store.verify("other").ok and store.names() == ["docs", "other"]


@pytest.mark.parametrize(
    "change",
    ["dim = 16", "metric = 'dot'", "generation = 7", "first = first - 1", "kept = x'01'",
     "kept = zeroblob(0)", "uuid = 'another'", "lost = zeroblob(8)"],
)  # fmt: skip
def test_a_damaged_state_is_not_believed(folder: Path, change: str) -> None:
    with opened(folder) as store:
        store.delete("docs", ["0-0", "1-1"])
        store.compact("docs")
        put(store, ["new"], 7)
    path = records_of(folder)
    with apsw.Connection(str(path)) as connection:
        connection.execute(f"UPDATE state SET {change}")
    connection.close()
    with opened(folder) as store:
        for call in (
            lambda: store.search("docs", vector(7)),
            lambda: store.get("docs", ["new"]),
            lambda: put(store, ["next"], 1),
        ):
            with pytest.raises(Corrupt) as refused:
                call()
            assert str(path) in refused.value.message
        assert not store.verify("docs").ok
        assert store.repair("docs").rows == 14
        assert store.verify("docs").ok and store.get("docs", ["new"])
        assert store.search("docs", vector(7), 1).hits[0][0].id == "new"


def test_a_catalogue_that_says_otherwise_is_not_believed(folder: Path) -> None:
    with apsw.Connection(str(folder / "catalog.db")) as connection:
        connection.execute("UPDATE emb_collections SET dim = 4")
    connection.close()
    with opened(folder) as store:
        for call in (
            lambda: store.search("docs", vector(1)[:4]),
            lambda: store.upsert("docs", [Item("new", vector(1)[:4])]),
        ):
            with pytest.raises(Corrupt, match="not what the catalogue says"):
                call()


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE records SET row = 300 WHERE row = 4",
        "UPDATE records SET row = 1099511627776 WHERE row = 14",
        "INSERT INTO deaths VALUES (50, 3)",
        "INSERT INTO deaths VALUES (50, 1099511627776)",
        "UPDATE records SET id = 'moved' WHERE row = 4",
        "UPDATE records SET id = CAST(x'ff' AS TEXT) WHERE row = 4",
        "UPDATE records SET vector = (SELECT vector FROM records WHERE row = 5), "
        "vector_crc = (SELECT vector_crc FROM records WHERE row = 5) WHERE row = 4",
        "DROP TRIGGER died; DELETE FROM records WHERE row = 4",
        "DELETE FROM state",
        "UPDATE loose SET vector = NULL WHERE row = 4",
        "UPDATE loose SET payload = NULL WHERE row = 4",
        "UPDATE loose SET id = NULL WHERE row = 4",
        "UPDATE loose SET id = x'31' WHERE row = 4",
        "INSERT INTO loosely VALUES (50, NULL)",
    ],
)
def test_rows_that_do_not_agree_are_refused_and_named(folder: Path, harm: str) -> None:
    """Every answer is right or `Corrupt`, whatever SQLite reads from a damaged page."""
    path = records_of(folder)
    with apsw.Connection(str(path)) as connection:
        schema = "UPDATE sqlite_schema SET sql = replace(sql, 'NOT NULL', '')"
        if "loose" in harm:  # as a damaged page may have it
            harm = harm.replace("loosely", "deaths").replace("loose", "records")
            connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute(
                f"{schema}; UPDATE sqlite_schema SET sql = replace(sql, 'STRICT', '')"
            )
    connection.close()
    connection = apsw.Connection(str(path))
    connection.execute(harm)
    connection.close()
    with opened(folder) as store:
        refused = 0
        for read in (
            lambda: store.scroll("docs", limit=100).records,
            lambda: store.get("docs", list(ROWS)),
            lambda: store.search("docs", vector(1), 100, include=PARTS).hits[0],
            lambda: store.scroll("docs", limit=100, filter={"k": {"$exists": False}}).records,
        ):
            try:
                for record in read():
                    text, seed = ROWS[record.id]
                    assert record.text == text and np.array_equal(record.vector, vector(seed))  # type: ignore[arg-type]
            except Corrupt as exc:
                assert str(path) in exc.message
                refused += 1
        report = store.verify("docs")
        assert refused and not report.ok
        assert all(str(path) in each or "matrix" in each for each in report.problems)
        assert store.repair("docs").rows >= 13 and store.verify("docs").ok
        assert right(store) <= 2


def test_one_damaged_collection_hides_no_other(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(folder) as store:
        for name in ("a-lost", "zoo"):
            store.create(name, 8)
        shutil.rmtree(folder / "c" / store.info("a-lost").uuid)
    path = records_of_docs = next(
        each for each in (folder / "c").glob("*/records.db") if b"0-0" in each.read_bytes()
    )
    path.write_bytes(b"?" * 9000)
    with opened(folder) as store:
        lost, docs, zoo = store.collections()
        assert "missing" in (lost.damage or "") and str(records_of_docs) in (docs.damage or "")
        assert zoo.damage is None
        with pytest.raises(Corrupt):
            store.info("docs")
    for command in ("list", "verify"):
        with pytest.raises(SystemExit) as ended:
            main(["--dir", str(folder), command])
        said = capsys.readouterr()
        assert ended.value.code == 1 and "zoo" in said.out, said
        assert str(path) in said.out + said.err and "missing" in said.out + said.err


@pytest.mark.fault("The store")
def test_a_matrix_ahead_of_the_records_is_not_believed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power fails, and the matrix has rows that the records lost -> they are never found."""
    path = records_of(folder)
    before = path.read_bytes()
    with opened(folder) as store:
        put(store, ["lost", "0-0"], 50)
    path.write_bytes(before)
    monkeypatch.setattr("store.derived.boot_id", lambda: "another boot")
    with opened(folder) as store:
        assert contents(store) == TEXTS
        assert store.search("docs", vector(0), 1).hits[0][0].id == "0-0"
        put(store, ["other"], 70)
        assert store.search("docs", vector(50), 1).hits[0][0].score < 0.99
        assert store.search("docs", vector(70), 1).hits[0][0].id == "other"


SHARED = [
    b'{"lang": "de", "parts": [{"lang": "x"}, {"lang": "y"}]}',
    b'{"owner": "bob", "tags": [{"owner": "z"}], "lang": "en", "x": {"lang": 1}}',
    b'{"zz": {"q": 1}, "q": {"zz": "de"}, "lang": "fr", "w": {"lang": "bob"}}',
]


@pytest.mark.parametrize("decode", [json.loads, orjson.loads])
def test_a_payload_means_the_same_after_any_other(
    folder: Path, decode: Callable[[bytes], dict[str, Any]]
) -> None:
    """Keys and strings that repeat in a record are references in its pickle, to its own strings."""
    rows = {f"m{i}": decode(text) for i, text in enumerate(SHARED * 3)}
    word, part = "a word", [1, 2]
    rows["same"] = {word: word, "twice": [word, word], "list": part, "again": part}
    with opened(folder) as store:
        store.upsert("docs", [Item(id_, vector(1), None, each) for id_, each in rows.items()])

        def matching(field: str, value: object) -> set[str]:
            page = store.scroll("docs", limit=100, filter={field: value})
            return {record.id for record in page.records}

        for field in ("lang", "owner", "x.lang", "q.zz", "w.lang", "zz.q", "w.zz", word, "q.lang"):
            wanted: dict[object, set[str]] = {}
            for id_, each in rows.items():
                value: Any = each
                for key in field.split("."):
                    value = value.get(key) if isinstance(value, dict) else None
                if value is not None:
                    wanted.setdefault(value, set()).add(id_)
            for value in ("de", "en", "fr", "bob", 1, word, "q", "lang"):
                assert matching(field, value) == wanted.get(value, set()), (field, value)
        assert store.delete("docs", filter={"w.lang": "bob"}) == 3
        assert matching("lang", "fr") == set() and len(matching("lang", "de")) == 3


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

    yield "reduce", pickle.dumps([None, {"k": Evil()}])
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


def forged(backup: Path, target: Path, change: Callable[[apsw.Connection], object]) -> Path:
    """Copy a backup, change its records, and make its note agree."""
    shutil.copytree(backup, target)
    with apsw.Connection(str(target / COPY)) as connection:
        change(connection)
    connection.close()
    data = (target / COPY).read_bytes()
    note = json.loads((target / NOTE).read_bytes())
    note |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (target / NOTE).write_text(json.dumps(note))
    return target


def instead(id_: str, payload: bytes, raw: bytes) -> Callable[[apsw.Connection], object]:
    """Return what makes another of the first record, with checksums that agree."""
    values = numbered(0, encoded(id_, payload, raw))[1:]
    sql = "UPDATE records SET id = ?, payload = ?, payload_crc = ?, vector = ?, vector_crc = ?"
    return lambda connection: connection.execute(f"{sql} WHERE row = 0", values)


def run(*statements: str) -> Callable[[apsw.Connection], object]:
    return lambda connection: connection.execute("; ".join(statements))


def test_a_forged_backup_is_refused_whole(folder: Path, tmp_path: Path) -> None:
    with opened(folder) as store:
        store.backup("docs", tmp_path / "backup")
        before = sorted((folder / "c").iterdir())
        good, plain = vector(1).tobytes(), dumps(None, {})
        bad: list[Callable[[apsw.Connection], object]] = [
            instead("a", plain, good[:-4]),
            instead("a", plain, bytes(32)),  # no direction
            instead("a", plain, b"\xff" * 32),  # no number
            instead("x" * 600, plain, good),
            instead("", plain, good),
            instead("a", dumps(None, {"k": "x" * 70_000}), good),
            instead("a", pickle.dumps([7, {}], 5), good),
            instead("a", pickle.dumps([None, 7], 5), good),
            instead("a", pickle.dumps({"k": "v"}, 5), good),
            run("DELETE FROM records WHERE row = 3"),
            run("UPDATE records SET payload_crc = 7 WHERE row = 2"),
            run("UPDATE records SET id = CAST(x'ff' AS TEXT) WHERE row = 2"),
            run("CREATE TABLE other (x)"),
            run("DROP TRIGGER died"),
            run("ALTER TABLE records RENAME TO r", "CREATE VIEW records AS SELECT * FROM r"),
        ]
        for i, change in enumerate(bad):
            with pytest.raises(ServiceError):
                store.restore(forged(tmp_path / "backup", tmp_path / f"forged{i}", change), "new")
        for i, pickled in enumerate(HOSTILE.values()):
            change = instead("a", pickled, good)
            with pytest.raises(Invalid, match="not a backup"):
                store.restore(forged(tmp_path / "backup", tmp_path / f"evil{i}", change), "new")
        for name in (NOTE, COPY):
            source = Path(shutil.copytree(tmp_path / "backup", tmp_path / f"flipped-{name}"))
            spoil(source / name, 0)
            with pytest.raises(Corrupt):
                store.restore(source, "new")
        assert store.names() == ["docs"] and sorted((folder / "c").iterdir()) == before
        unchanged = forged(tmp_path / "backup", tmp_path / "good", lambda _: None)
        assert store.restore(unchanged, "again").count == 15
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


FAIL = r"""
#include <errno.h>
#include <unistd.h>
#include <sys/syscall.h>
static int fails(void) { return access(FLAG, F_OK) == 0 ? (errno = EIO, 1) : 0; }
int fsync(int fd) { return fails() ? -1 : syscall(SYS_fsync, fd); }
int fdatasync(int fd) { return fails() ? -1 : syscall(SYS_fdatasync, fd); }
"""
FAILING = """
import sys
from pathlib import Path
from errors import Unavailable
from store import Item
from tests.store.faults import contents, opened, put, vector
flag, refused = Path(sys.argv[2]), 0
with opened(Path(sys.argv[1])) as store:
    for name in ("docs", "other"):
        store.create(name, 8)
    put(store, ["before"], 1)
    flag.touch()
    for i in range(3):  # the kernel reports it once, and then all seems well
        try:
            put(store, ["lost"], 2)
        except Unavailable as exc:
            assert "unknown" in exc.message, exc.message
            refused += 1
        flag.unlink(missing_ok=True)
    assert refused == 3
    assert store.get("docs", ["before"]) and store.count("docs") == 1  # reading goes on
    assert store.stats("docs")["poisoned"] is True and not store.verify("docs").ok
    store.upsert("other", [Item("a", vector(1))])
    assert store.verify("other").ok
with opened(Path(sys.argv[1])) as again:
    put(again, ["after"], 3)
    assert set(contents(again)) in ({"before", "after"}, {"before", "lost", "after"})
"""


def test_a_failed_sync_is_final_for_the_process(tmp_path: Path) -> None:
    """On a disk that fails once; every sync of the process goes through a library that says so."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    flag, source, library = tmp_path / "FLAG", tmp_path / "fail.c", tmp_path / "fail.so"
    source.write_text(FAIL.replace("FLAG", json.dumps(str(flag))))
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    done = subprocess.run(
        [sys.executable, "-c", FAILING, str(tmp_path / "s"), str(flag)],
        cwd=ROOT,
        env=os.environ | {"LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


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
    assert len(acked) > 500 and set(contents(store)) == acked
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
    monkeypatch.setattr("store.local_disk.file_system", lambda path: "nfs4")
    with pytest.raises(Unavailable, match="nfs4"):
        FileStore(tmp_path / "s")
    monkeypatch.undo()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(Unavailable, match="another user"):
        FileStore(tmp_path / "s")


def test_files_are_private(folder: Path) -> None:
    for path in folder.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
