"""Files that are not what they seem: refused by file and line, in one line, before any request."""

import json
import random
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.clients.command import embed, rejects
from tools.output import write_rejects
from tools.records import Stop
from tools.rows import Refused, Row, Source

NOBODY = "http://127.0.0.1:9"  # a request would fail the run with another message


def rows(path: Path, **options: Any) -> list[Row]:
    return list(Source(path, metadata=True, **options).rows())


def said_of(path: Path, *words: object) -> str:
    """Return what a run says of a file for which no service is needed."""
    done = embed(NOBODY, path, *(words or ["--store", "c"]))
    assert done.code == 1 and done.said.count("\n") == 1, done.said
    assert done.said.startswith(f"embed_file.py: {path}")
    return done.said


ENCODED = {
    "cp1252": (
        "caf\xe9".encode("cp1252"),
        "line 3 is not UTF-8 (byte 0xe9): save the file as UTF-8",
    ),
    "cut": ("caf\xe9".encode()[:-1], "line 3 is not UTF-8 (byte 0xc3)"),
    "a surrogate": (b"\xed\xa0\xbd", "line 3 is not UTF-8 (byte 0xed)"),
    "NUL": (b"a\0b", "line 3 has a NUL character in its text"),
}


@pytest.mark.fault("Files")
@pytest.mark.parametrize("kind", ["csv", "txt", "jsonl"])
@pytest.mark.parametrize("name", ENCODED)
def test_text_in_another_encoding_is_told_by_its_line(tmp_path: Path, kind: str, name: str) -> None:
    """A file in cp1252, Latin-1 or UTF-16, a NUL -> the error names the line and the remedy, before
    any request.
    """
    word, wanted = ENCODED[name]
    before, around = {
        "csv": (b"text\nfine\n", b"%s\n"),
        "txt": (b"fine\nfine\n", b"%s\n"),
        "jsonl": (b'"fine"\n"fine"\n', b'"%s"\n'),
    }[kind]
    if (kind, name) == ("jsonl", "NUL"):
        word = b"a\\u0000b"
    source = tmp_path / f"rows.{kind}"
    source.write_bytes(before + around % word + around % b"fine")
    assert wanted in said_of(source)
    refused: list[Refused] = []
    assert len(list(Source(source, metadata=True).rows(refused.append))) == 3 - (kind == "csv")
    assert [out.line for out in refused] == [3]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("kind", ["csv", "txt", "jsonl"])
def test_utf16_is_told_as_what_it_is(tmp_path: Path, kind: str, encoding: str) -> None:
    source = tmp_path / f"rows.{kind}"
    source.write_bytes('text\n"caf\xe9"\n'.encode(encoding))
    for words in ([], ["--store", "c", "--on-error", "skip"]):
        assert "is UTF-16, or no text at all: save the file as UTF-8" in said_of(source, *words)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_what_editors_write_is_read(tmp_path: Path, mark: str, end: str) -> None:
    lines = [" id , text ", "", 'a,"red, ""apple"""', " ,", f'b,"two{end}lines"', ",last", ""]
    source = tmp_path / "rows.csv"
    source.write_bytes((mark + end.join(lines)).encode())
    assert rows(source) == [
        Row(0, 'red, "apple"', "a"), Row(1, f"two{end}lines", "b"), Row(2, "last", None),
    ]  # fmt: skip


BROKEN = {
    'text\nfine\n"never closed\nmore\nand more\n': "line 3 opens a quote that is never closed",
    'id,text\n1,"fine\nlines"\n2,"open\n3,"yo"\n': "line 4 opens a quote that is not closed",
    'text,x\n"fine\nlines","open\nmore\n': "line 3 opens a quote that is never closed",
    'text\n"said"so\n': "line 2 opens a quote that is not closed",
    '"text\nfine\n': "line 1 opens a quote that is never closed",
    "id,text\n1,a,b\n": "line 2 has another number of cells than the header: 3, not 2",
    "id,text\n1,a\n2\n": "line 3 has another number of cells than the header: 1, not 2",
    "text,id,text\na,b,c\n": "line 1 names the column 'text' twice",
    "id;text\n1;a\n": "its cells seem to be separated by ';', and must be by commas",
    "id\ttext\n1\ta\n": "its cells seem to be separated by a tab",
    "id,words\n1,a\n": "has no column of text, content, sentence",
    "id,text\n1,a\n2,\n": "line 3 has no text in 'text'",
}


@pytest.mark.fault("Files")
@pytest.mark.parametrize("content", BROKEN)
def test_a_csv_that_is_none_is_told_by_its_line(tmp_path: Path, content: str) -> None:
    """A quote that is never closed, a row with other cells than the header, semicolons -> the error
    names the line, for a quote the one that opens it, before any request.
    """
    source = tmp_path / "rows.csv"
    source.write_text(content)
    assert BROKEN[content] in said_of(source)


def test_after_a_broken_line_of_a_csv_the_next_one_goes_on(fake_url: str, tmp_path: Path) -> None:
    source, out = tmp_path / "rows.csv", tmp_path / "out.jsonl"
    source.write_text('id,text\n1,one\n2,"open\n3,three\n4,"four\nlines"\n5,five,x\n6,"end\n')
    assert embed(fake_url, source, out, "--on-error", "skip").code == 3
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["1", "3", "4"]
    told = rejects(tmp_path / "out.jsonl.rejects.jsonl")
    assert [line for line, _ in told] == [3, 7, 8]


def test_a_text_is_looked_for_under_its_usual_names(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question,content,id\nwhy,because,a\n")
    assert rows(tmp_path / "rows.csv") == [Row(0, "because", "a", {"question": "why"})]
    assert rows(tmp_path / "rows.csv", text_field="question")[0].text == "why"
    (tmp_path / "rows.jsonl").write_text('{"body": "a"}\n{"text": "b", "body": "c"}\n')
    assert [row.text for row in rows(tmp_path / "rows.jsonl")] == ["a", "c"]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [('"a"', "a"), ("3", "3"), ("3.0", "3"), ("1.5", ""), ("NaN", ""), ("null", None), ("1e16", ""),
     ('""', None), ('" "', None), ('{"$oid": "65a"}', "65a"), ('" a"', " a"), ("0", "0"),
     ("1e400", ""), ("true", ""), ("[]", ""), ('{"a": 1}', "")],
)  # fmt: skip
def test_an_id_is_text_or_is_made_or_is_refused(
    tmp_path: Path, given: str, wanted: str | None
) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text(f'{{"id": {given}, "text": "t"}}\n')
    if wanted == "":
        with pytest.raises(Stop, match="line 1 has an id that is no id"):
            rows(source)
    else:
        assert rows(source) == [Row(0, "t", wanted)]


@pytest.mark.parametrize("id_", ["..", ".", "a/../b", "./a", "a/..", "../a", "i" * 513])
def test_an_id_that_cannot_be_stored_is_told_before_any_request(tmp_path: Path, id_: str) -> None:
    source = tmp_path / "rows.csv"
    source.write_text(f"id,text\n1,a\n{id_},b\n")
    assert "line 3 has an id that cannot be stored" in said_of(source)
    assert len(list(Source(source).rows())) == 2  # in a file of vectors it is an id as any other
    for fine in ("a..b", "a/.b", "...", ".a/b.", "a/b"):
        source.write_text(f"id,text\n{fine},a\n")
        assert rows(source)[0].id == fine


@pytest.mark.fault("Files")
def test_rows_without_an_id_get_one_and_blank_rows_are_none(fake_url: str, tmp_path: Path) -> None:
    """A CSV has empty id cells, and rows of commas only -> ids are made; such rows are skipped."""
    source, out = tmp_path / "rows.csv", tmp_path / "out.jsonl"
    source.write_text("id,text,x\n1,hello,\n,world,\n,,\n\n  , ,\n,again,\n")
    done = embed(fake_url, source, out)
    assert done.code == 0 and "3 blank lines left out" in done.said
    assert [row.id for row in rows(source)] == ["1", None, None]
    assert [row.index for row in rows(source)] == [0, 1, 2]


def parquet(path: Path, columns: dict[str, Any]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)
    return path.read_bytes()


@pytest.mark.fault("Files")
def test_a_parquet_file_that_is_none_is_told_in_one_line(tmp_path: Path) -> None:
    """A Parquet file is cut, empty or another kind of file -> one line names it; no traceback."""
    source = tmp_path / "rows.parquet"
    whole = parquet(source, {"text": [f"text {i}" for i in range(5000)]})
    hole = whole[:300] + bytes(20_000) + whole[20_300:]
    for content in (b"", b"PAR1", b"text\nno\n", whole[:-100], whole[100:], whole[:50], hole):
        source.write_bytes(content)
        assert "no Parquet file that can" in said_of(source) or "be read after row 0" in said_of(
            source
        )


def test_every_type_of_parquet_becomes_what_json_can_carry(tmp_path: Path) -> None:
    import pyarrow as pa

    ns = 1_700_000_000_123_456_789
    source = tmp_path / "rows.parquet"
    columns = {
        "id": pa.array([1.0, None]),  # as pandas has whole numbers where one is missing
        "text": pa.array([b"one", b"two"]),
        "fine": pa.array([ns, ns - 789], pa.timestamp("ns")),
        "day": pa.array([ns // 10**9 * 10**9] * 2, pa.timestamp("ns")),
        "far": pa.array([4 * 10**17] * 2, pa.timestamp("us")),
        "took": [timedelta(hours=1)] * 2,
        "price": [Decimal("1.10")] * 2,
        "raw": [b"\xff\0", b"text"],
        "when": [date(2026, 11, 2)] * 2,
        "inner": pa.array([{"t": [ns]}] * 2, pa.struct([("t", pa.list_(pa.timestamp("ns")))])),
        "map": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int32())),
    }
    parquet(source, columns)
    one, two = rows(source)
    assert (one.id, one.text, two.id) == ("1", "one", None)
    json.dumps(one.metadata, allow_nan=False)
    fine = "2023-11-14 22:13:20.123456"
    assert (one.metadata["fine"], two.metadata["fine"]) == (f"{fine}789", fine)
    assert one.metadata["day"] == "2023-11-14 22:13:20"
    assert one.metadata["far"].startswith("14645-")
    assert (one.metadata["price"], one.metadata["when"]) == ("1.10", "2026-11-02")
    assert (one.metadata["raw"], two.metadata["raw"]) == ("ff00", "text")
    assert one.metadata["inner"] == {"t": [f"{fine}789"]}
    assert one.metadata["map"] == {"a": 1}


PIECES = [
    b"id,text\n", b"a,hello\n", b'"', b",", b"\n", b"\r", b"\0", b"\xff", b"\\ud83d", b"[",
    b'{"text":"a"}\n', b'{"text":"b","id":1.5}\n', b'{"text":"b","x":[1e400,NaN]}\n', b";",
    b'{"text":"a","id":"\\ud800"}\n', b'{"text":"c","metadata":{"a":{"b":"\\u0000"}}}\n',
    b"\xef\xbb\xbf", b"9" * 5000, b"\xed\xa0\x80", b"[" * 4000, b'{"a":' * 300,
    b'{"text":"d","m":' + b"[" * 600 + b"]" * 600 + b"}\n", b'{"text":"k","":1,"a.b":2}\n',
]  # fmt: skip


@pytest.mark.fault("Files")
@pytest.mark.parametrize("kind", ["csv", "jsonl", "txt", "parquet"])
def test_no_file_whatsoever_ends_in_a_traceback(tmp_path: Path, kind: str) -> None:
    """A file of any bytes -> its rows, or one line that names it."""
    chosen = random.Random(kind)
    source = tmp_path / f"rows.{kind}"
    whole = parquet(tmp_path / "p.parquet", {"text": ["a", "b"], "n": [[1], None], "id": [1, 2]})
    for _ in range(150):
        content = bytearray(b"".join(chosen.choices(PIECES, k=chosen.randrange(25))))
        if kind == "csv":
            content[:0] = b"text,x\n"
        if kind == "parquet":
            content = bytearray(whole)
            for _ in range(chosen.randrange(6)):
                content[chosen.randrange(len(content))] = chosen.randrange(256)
        source.write_bytes(content)
        refused: list[Refused] = []
        try:
            found = list(Source(source, metadata=True).rows(refused.append))
        except Stop as exc:
            assert str(exc).startswith(f"{source}: ") and "\n" not in str(exc)
            continue
        places = [row.index for row in found] + [out.index for out in refused]
        assert sorted(places) == list(range(len(places)))
        assert all(row.line > 0 for row in found) and all(out.reason for out in refused)
        json.dumps([row.metadata for row in found], allow_nan=False)


MAP_KEYS: dict[str, tuple[Any, Any, object]] = {
    "a date": (lambda pa: pa.date32(), date(2020, 1, 1), {"2020-01-01": "x"}),
    "bytes": (lambda pa: pa.binary(), b"\xff", {"ff": "x"}),
    "bytes of text": (lambda pa: pa.binary(), b"k", {"k": "x"}),
    "a number": (lambda pa: pa.int64(), 7, {"7": "x"}),
    "an object": (lambda pa: pa.struct([("a", pa.int32())]), {"a": 1}, [[{"a": 1}, "x"]]),
    "a list": (lambda pa: pa.list_(pa.int32()), [1], [[[1], "x"]]),
}


@pytest.mark.parametrize("name", MAP_KEYS)
def test_a_parquet_map_of_any_keys_is_read(tmp_path: Path, name: str) -> None:
    """A map of Parquet has dates, bytes, lists or objects as keys -> they become text, or pairs."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind, key, wanted = MAP_KEYS[name]
    maps = pa.array([[(key, "x")]] * 2, pa.map_(kind(pa), pa.string()))
    source = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["one", ""], "c": maps}), source)
    found: list[Refused] = []
    (row,) = Source(source, metadata=True).rows(found.append)
    assert row.metadata == {"c": wanted}
    write_rejects(tmp_path / "rejects", source, found)  # what is left out has such keys, too
    written = json.loads((tmp_path / "rejects").read_text())["row"]
    assert written == {"text": "", "c": wanted}


@pytest.mark.parametrize("name", ["geo.lat", "$x"])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_that_no_filter_could_name_is_told_first(
    tmp_path: Path, name: str, kind: str
) -> None:
    """A column of a CSV or Parquet file is `geo.lat` or `$x` -> refused by its name at the start,
    with a remedy, also with `--on-error skip`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = tmp_path / f"rows.{kind}"
    if kind == "csv":
        source.write_text(f"text,{name}\na,1\n")
    else:
        pq.write_table(pa.table({"text": ["a"], name: ["1"]}), source)
    said = said_of(source, "--store", "c", "--on-error", "skip")
    assert f"has a column {name!r}" in said and "rename it" in said
    assert [row.text for row in Source(source).rows()] == ["a"]  # embedded, it is no matter


@pytest.mark.parametrize("text", ["", "  ", "\u3000"])
def test_a_blank_string_of_jsonl_is_no_text_to_store(tmp_path: Path, text: str) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text('"one"\n' + json.dumps(text) + "\n")
    assert "line 2 has no text in it" in said_of(source)


def test_a_header_of_very_many_columns_is_read(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(200_000)]  # compared each with each they would take minutes
    source = tmp_path / "rows.csv"
    source.write_text("text," + ",".join(names) + "\na" + ",1" * len(names) + "\n")
    assert "has an object of over 1000 keys" in said_of(source)
