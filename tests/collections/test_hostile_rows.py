"""Files made to be misread: each row is stored as it is, or refused with the reason."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from documents import seen
from documents.seen import Seen
from documents.spool import Spool
from tools.layout import Layout, settled
from tools.parquet import PIECE
from tools.preview import Preview, preview
from tools.reading import Reader, rows_of
from tools.records import Stop
from tools.rows import MOST_KEYS, Refused, Row


def shown(folder: Path, name: str, content: str | bytes, **layout: Any) -> Preview:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return preview(path, name, Layout(**layout))


def read(folder: Path, name: str, content: str | bytes, **layout: Any) -> tuple[list[Row], Any]:
    """Return the rows of a file as its job reads them, and the lines and reasons of the others."""
    found = shown(folder, name, content, **layout)
    refused: list[Refused] = []
    kept = [row for _, _, row in rows_of(Reader(folder / name, found.layout), refused.append)]
    assert found.rows == [row for row in kept if row][: len(found.rows)]
    assert found.refused == len(refused)
    return [row for row in kept if row], [(out.line, out.reason) for out in refused]


ARRAYS = {
    "two arrays": '[{"text": "a"}]\n[{"text": "b"}]',
    "an object behind": '[{"text": "a"}]{"text": "b"}',
    "lines behind": '[{"text": "a"}]\n{"text": "b"}\n',
    "a comma": '[{"text": "a"}],\n["b"]',
    "pretty objects": '{\n  "text": "a"\n}\n{\n  "text": "b"\n}\n',
}


@pytest.mark.parametrize("name", ARRAYS)
def test_what_follows_an_array_is_read(tmp_path: Path, name: str) -> None:
    rows, refused = read(tmp_path, "a.json", ARRAYS[name])
    assert ([row.text for row in rows], refused) == (["a", "b"], [])


@pytest.mark.parametrize("rest", ["nope", "]", "5"])
def test_what_follows_an_array_and_is_no_row_is_refused_by_its_line(
    tmp_path: Path, rest: str
) -> None:
    rows, refused = read(tmp_path, "a.json", f'[{{"text": "a"}}]\n{rest}\n')
    assert len(rows) == 1 and [line for line, _ in refused] == [2]


def test_a_column_without_a_name_is_named_by_its_place(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, "a.csv", "text,column_2,,n,,\nx,a,b,1,,c\ny,d,,2,,\n")
    assert rows[0].metadata == {"column_2": "a", "column_3": "b", "n": 1, "column_6": "c"}
    assert rows[1].metadata == {"column_2": "d", "n": 2}
    rows, _ = read(tmp_path, "a.csv", ",text,column_1\n7,x,y\n")
    assert rows[0].metadata == {"column_1_2": 7, "column_1": "y"}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1e400"])
@pytest.mark.parametrize("types", [{}, {"n": "text"}, {"n": "number"}, {"n": "json"}])
def test_a_number_that_json_has_not_is_refused(
    tmp_path: Path, number: str, types: dict[str, Any]
) -> None:
    for value in (number, f"[{number}]", f'{{"a": {number}}}'):
        content = f'{{"text": "a", "n": {value}}}\n{{"text": "b", "n": 1}}\n'
        rows, refused = read(tmp_path, "a.jsonl", content, types=types)
        assert len(rows) == 1 and "no number that JSON has" in refused[0][1]


def test_a_number_that_json_has_not_is_refused_in_cells_and_columns(tmp_path: Path) -> None:
    _, refused = read(tmp_path, "a.csv", 'text,n\nx,"[NaN]"\ny,[1]\n', types={"n": "json"})
    assert [line for line, _ in refused] == [2]
    rows, refused = read(tmp_path, "a.parquet", parquet(tmp_path, n=[1.5, float("nan"), None]))
    assert [row.metadata["n"] for row in rows] == [1.5, None] and refused[0][0] == 2


def parquet(folder: Path, **columns: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    longest = max(map(len, columns.values()))
    table = {"text": [f"t{i}" for i in range(longest)]} | columns
    pq.write_table(pa.table(table), folder / "made", compression="zstd")
    return (folder / "made").read_bytes()


@pytest.mark.parametrize("id_", ["1.5", "1e17", "NaN", "-9007199254740994.0", "true"])
def test_a_number_that_is_not_whole_is_no_id(tmp_path: Path, id_: str) -> None:
    content = f'{{"id": {id_}, "text": "a"}}\n{{"id": 1.0, "text": "b"}}\n'
    rows, refused = read(tmp_path, "a.jsonl", content)
    assert [row.id for row in rows] == ["1"]
    assert refused == [(1, "has an id that is no id: give a string or a whole number")]


def test_the_first_row_of_a_lone_column_is_not_taken_for_its_name(tmp_path: Path) -> None:
    one = shown(tmp_path, "a.csv", "apple\npear\n")
    assert one.layout.header and not one.sure and "header" in one.warnings[0]
    for content, layout in (
        ("apple\npear\n", {"header": False}), ("apple\npear\n", {"header": True}),
        ("text\npear\n", {}), ("apple\npear\n", {"text": ("apple",)}),
        ("One text, it is.\nAnother.\n", {"delimiter": ";"}),
    ):  # fmt: skip
        assert shown(tmp_path, "a.csv", content, **layout).sure, (content, layout)


@pytest.mark.parametrize(
    "content",
    [b"\x89PNG\r\n\x1a\n" + b"\n" * 99, b"\xff\xd8\xff\xe0 JFIF", bytes(range(1, 256)) * 9,
     random.Random(3).randbytes(5000)],
    ids=["PNG", "JPEG", "bytes", "random"],
)  # fmt: skip
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(Stop, match="is an image|it is no text"):
        shown(tmp_path, "a.txt", content)


@pytest.mark.parametrize(
    ("text", "encoding", "likely"),
    [("Über die größte Straße läuft ein Bär", "cp1252", True),
     ("un caf\xe9 cr\xe8me, s'il vous pla\xeet", "cp1252", True),
     ("a fine text, all ASCII", "ascii", True), ("漢字 in UTF-8", "utf-8", True),
     ("Съешь же ещё этих мягких французских булок", "cp1251", False),
     ("吾輩は猫である。名前はまだ無い。", "shift-jis", False),
     ("some words in English beside: Москва, Россия, Казань", "koi8-r", False),
     ("天地玄黃，宇宙洪荒。", "big5", False)],
)  # fmt: skip
def test_an_unlikely_encoding_is_told(
    tmp_path: Path, text: str, encoding: str, likely: bool
) -> None:
    content = f"{text}\n".encode(encoding) * 9
    found = shown(tmp_path, "a.txt", content)
    assert found.readable == likely and bool(found.warnings) != likely
    assert shown(tmp_path, "a.txt", content, encoding="latin-1").readable


def test_utf16_without_a_mark_needs_its_order(tmp_path: Path) -> None:
    content = "text\nfine\n".encode("utf-16-le")
    with pytest.raises(Stop, match="choose utf-16-le or utf-16-be"):
        shown(tmp_path, "a.csv", content, encoding="utf-16")
    assert shown(tmp_path, "a.csv", content, encoding="utf-16-le").rows


def test_what_is_no_date_is_no_date(tmp_path: Path) -> None:
    good = ["2026-11-30", "2026-02-28 23:59", "2026-11-30T01:02:03.5Z"]
    bad = ["2026-02-30", "2026-13-01", "2026-11-30 25:00", "soon", "20261130"]
    content = "text,d\n" + "".join(f"t{i},{day}\n" for i, day in enumerate(good + bad))
    rows, refused = read(tmp_path, "a.csv", content, types={"d": "date"})
    assert [row.metadata["d"] for row in rows] == good
    assert refused[0] == (5, "has no date in 'd' ('2026-02-30')") and len(refused) == len(bad)
    assert shown(tmp_path, "a.csv", content).layout.types["d"] == "text"
    content = '{"text": "a", "d": 5}\n{"text": "b", "d": "2026-11-30"}\n'
    assert read(tmp_path, "a.jsonl", content, types={"d": "date"})[1][0][0] == 1


def test_a_text_that_parquet_has_once_is_not_unpacked_for_every_row(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    long = pa.array(["x" * (PIECE + 1), "short"]).dictionary_encode()
    table = pa.table({"text": long.take(pa.array([0] * 3000 + [1])), "n": list(range(3001))})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    pa.default_memory_pool().release_unused()
    before = pa.total_allocated_bytes()
    found = preview(tmp_path / "a.parquet", "a.parquet", Layout())
    assert (found.read, found.refused, [row.text for row in found.rows]) == (3001, 3000, ["short"])
    assert found.problems[0].reason == "holds over 8 MB: take columns out"
    assert pa.default_memory_pool().max_memory() - before < 300 << 20


def test_nested_texts_of_parquet_are_bounded_too(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    lists = [["x" * 200_000] * 1000, ["y"], None]
    table = pa.table({"text": ["a", "b", "c"], "l": lists, "s": [{"a": "q"}, None, {"a": None}],
                      "m": pa.array([[("k", "v")], [], None], pa.map_(pa.string(), pa.string())),
                      })  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    rows, refused = read(tmp_path, "a.parquet", (tmp_path / "a.parquet").read_bytes())
    assert refused == [(1, "holds over 8 MB: take columns out")]
    assert rows[0].metadata == {"l": ["y"], "s": None, "m": {}}
    assert rows[1].metadata == {"l": None, "s": {"a": None}, "m": None}


def test_parquet_that_unpacks_to_too_much_is_refused_unread(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"text": ["x" * (140 << 20)]})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd", use_dictionary=False,
                   write_statistics=False)  # fmt: skip
    with pytest.raises(Stop, match="the limit is 134217728: write it in smaller groups of rows"):
        preview(tmp_path / "a.parquet", "a.parquet", Layout())
    wide = pa.table({f"c{i}": ["x"] for i in range(10_001)})
    pq.write_table(wide, tmp_path / "a.parquet")
    with pytest.raises(Stop, match="has 10001 columns; at most 10000"):
        preview(tmp_path / "a.parquet", "a.parquet", Layout())


@pytest.mark.parametrize("key", ["k{}", "a.{}", "$"])
def test_many_keys_are_told_and_may_be_left_out(tmp_path: Path, key: str) -> None:
    keys = {("$" * i if key == "$" else key.format(i)): 1 for i in range(2000)}
    line = json.dumps({"text": "a"} | keys)
    _, refused = read(tmp_path, "a.jsonl", line)
    assert refused == [(1, f"has an object of over {MOST_KEYS} keys: take fields out")]
    rows, _ = read(tmp_path, "a.jsonl", line, metadata=())
    assert len(rows) == 1


def test_a_row_costs_no_more_than_its_keys(tmp_path: Path) -> None:
    """Were each name compared with all before it, these would take 10^10 steps."""
    many = {f"k{i}": 1 for i in range(200_000)}
    _, refused = read(tmp_path, "a.jsonl", json.dumps({"text": "a"} | many) + '\n"b"\n')
    assert refused[0][1].startswith("has over 10000 keys")
    (tmp_path / "a.csv").write_text("a," * 150_000 + "text\n" + "1," * 150_000 + "x\n")
    reader = Reader(tmp_path / "a.csv", Layout("csv", "utf-8", ",", True, ("text",), metadata=()))
    (found,) = [row for _, _, row in rows_of(reader, list[Refused]().append)]
    assert found and found.text == "x" and reader.columns[149_999] == "a_150000"


def test_a_preview_ends_with_its_request(tmp_path: Path) -> None:
    class Over(Exception):
        pass

    left = iter(range(50))

    def check() -> None:
        if next(left, None) is None:
            raise Over

    (tmp_path / "a.txt").write_text("row\n" * 1000)
    with pytest.raises(Over):
        preview(tmp_path / "a.txt", "a.txt", Layout(), check)


def test_what_is_rejected_is_kept_as_strict_json(tmp_path: Path) -> None:
    import orjson

    spool = Spool(tmp_path)
    (tmp_path / "job").mkdir()
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    rows = [{"n": float("nan"), "m": [float("-inf")]}, {"n": 10**30, "m": 2**64 - 1},
            {"n": 10**5000}, deep, {"t": "\ud800"}, {"t": "w" * 60_000},
            {"t": "w" * 70_000}]  # fmt: skip
    spool.reject("job", [(1, "why", row) for row in rows])
    kept = [orjson.loads(line)["row"] for line in spool.rejects("job").read_bytes().splitlines()]
    assert kept[0] == {"n": "nan", "m": ["-inf"]} and kept[1] == {
        "n": "1" + "0" * 30,
        "m": 2**64 - 1,
    }
    assert kept[2]["n"].startswith("0x") and len(kept[5]["t"]) == 60_000
    assert len(kept[6]["t"]) == 1003


def test_a_row_that_is_nested_too_deeply_ends_no_file(tmp_path: Path) -> None:
    for depth in (40, 300, 600, 900, 3000):
        line = f'{{"text": "a", "d": {"[" * depth}{"]" * depth}}}\n'
        rows, refused = read(tmp_path, "a.jsonl", line + '"b"\n')
        assert [row.text for row in rows] == ["b"] and len(refused) == 1


def test_the_layout_is_settled_alike_each_time(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,n\nx,1\n")
    once = settled(tmp_path / "a.csv", "a.csv", Layout())
    assert settled(tmp_path / "a.csv", "a.csv", once) == once


def test_keys_are_counted_in_little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "MERGED", 10)
    counted = Seen()
    keys = [(i * 7919 % 97).to_bytes(8, "big") for i in range(400)]
    known: dict[bytes, int] = {}
    for key in keys:
        assert counted.add(key) == known.get(key, 0)
        known[key] = known.get(key, 0) + 1
