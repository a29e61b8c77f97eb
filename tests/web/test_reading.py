"""The console reads a file as `embed_file.py` does: the same rows, refusals and lines."""

import base64
import hashlib
import json
import random
import re
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from documents import UNSAFE
from store import Limits
from store.values import MAX_INT, MAX_JSON_DEPTH, MAX_KEYS
from tools import rows as limits
from tools.records import Stop
from tools.rows import Source

READ = """async (files) => {
    const { rowsOf } = await import("/static/js/rows.js");
    const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    return files.map(([name, content]) => {
        try {
            const rows = rowsOf(name, bytes(content));
            return JSON.stringify(rows.map((row) => [row.line, row.text, row.id, row.metadata]));
        } catch (error) {
            return error.message;
        }
    });
}"""
TABLE = "id,text,year\na,one,2020\n,two,\n"
ACCEPTED: dict[str, str | bytes] = {
    "plain.csv": TABLE,
    "bom.csv": b"\xef\xbb\xbf" + TABLE.encode(),
    "crlf.csv": TABLE.replace("\n", "\r\n"),
    "cr.csv": TABLE.replace("\n", "\r"),
    "no-end.csv": TABLE.rstrip(),
    "quotes.csv": 'text,"a ""b"""\n"one\n\n""two"", three\r\n",x"y\n\nfour,"5"\n',
    "blank.csv": "\n , \n text , id,\n,,\none,1,\n\n ,,\ntwo,2,x\n",
    "numbers.csv": "text,a,b,c,d,e,f\nx,1,1.0,-0,5e0,,007\ny,,2.50,1E-7,4.25,,8\n",
    "numbers-none.csv": "text,a,b,c,d,e,f,g\nx,+1,1_0,NaN, 1,9007199254740992,1e400,١\n",
    "largest.csv": "text,a,b\nx,9007199254740991,-9007199254740991\n",
    "names.csv": "question,body,content\nq,b,c\n",
    "metadata.csv": 'text,metadata,__proto__,constructor\nx,"{""a"": 1}",p,c\n',
    "one-column.csv": "text\na;b\n",
    "unicode.csv": "text,größe\n漢字 😀\u2028\x85é,1\n",
    "plain.jsonl": '{"id": 7, "text": "one", "n": 9007199254740993, "f": 1.5}\n\n"two"\n',
    "inner.jsonl": '{"text": "a", "x": 1, "metadata": {"x": 2, "y": null}}\r\n{"text": "b", '
    '"metadata": "m"}\n{"text": "c", "metadata": [1]}\n{"text": "d", "metadata": null}\n',
    "ids.jsonl": "".join(
        f'{{"text": "t", "id": {id_}}}\n'
        for id_ in ('"a"', "12", "3.0", "1.5", "9007199254740993", "null", '""', '" "',
                    '{"$oid": "65f"}', "1e20", "-0",
                    "1.5e-7", "0.00001", "0.0001", "-2.5e-10", "1.25E-12", "5e-324", "NaN", "1e21")
    ),
    "large.jsonl": '{"text": "a", "a": 1e20, "b": [1e19, 9.3e18, -1e300], "c": 1e400, "d": 1e5}\n',
    "nan.jsonl": '{"text": "NaN and Infinity", "a": NaN, "b": [-Infinity, "NaN"], "c": "\\"NaN"}\n',
    "content.ndjson": '{"content": "one", "abstract": "two"}\n{"content": "three"}\n',
    "plain.txt": "  one  \r\n\r\ttwo\u2028three\n \x85\x1c \n\ufeff\nlast",
    "UPPER.TXT": "one\n",
}  # fmt: skip
REFUSED: dict[str, str | bytes] = {
    "semicolon.csv": TABLE.replace(",", ";"),
    "tab.csv": TABLE.replace(",", "\t"),
    "bar.csv": TABLE.replace(",", "|"),
    "quoted-semicolon.csv": '"id";"text"\n"1";"x"\n',
    "no-text.csv": "a,b\n1,2\n",
    "capital.csv": "Text\none\n",
    "twice.csv": "text,a,a\nx,1,2\n",
    "short.csv": "text,a\nx,1\n\n\ny\n",
    "long.csv": 'text,a\n"x\ny",1\nz,2,3\n',
    "open.csv": 'text,a\nx,1\ny,"2\nz,3\n',
    "open-last.csv": 'text,a\nx,1\ny,"',
    "closed.csv": 'text,a\n"x"y,1\n',
    "empty-text.csv": 'text,a\nx,1\n" ",2\n',
    "latin1.csv": "text\ncafe\ncafé\n".encode("latin-1"),
    "cp1252.csv": "text\n“quoted”\n".encode("cp1252"),
    "gbk.csv": "text\n汉字\n".encode("gbk"),
    "utf16.csv": TABLE.encode("utf-16"),
    "utf16-be.csv": b"\xfe\xff" + TABLE.encode("utf-16-be"),
    "utf16-bare.csv": TABLE.encode("utf-16-le"),
    "utf32.txt": TABLE.encode("utf-32"),
    "nul.csv": b"text\none\nt\0wo\n",
    "cut.txt": "one\ncafé".encode()[:-1],
    "surrogate.txt": b"one\n\xed\xa0\x80\n",
    "sheet.csv": b"PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00!\x00[Content_Types].xml",
    "letter.txt": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
    "packed.jsonl": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\x56",
    "array.jsonl": '[{"text": "one"}]\n',
    "pretty.jsonl": '[\n  {"text": "one"}\n]\n',
    "broken.jsonl": '{"text": "one"}\n{"text": "two"\n',
    "number.jsonl": '{"text": "one"}\n5\n',
    "no-string.jsonl": '{"text": "one"}\n{"text": 5}\n',
    "no-text.jsonl": '{"a": 1}\n',
    "second.jsonl": '{"text": "one"}\n{"content": "two"}\n',
    "blank.jsonl": '{"text": "one"}\n{"text": " "}\n',
    "blank-string.jsonl": '"one"\n"  "\n',
    "no-string-at-all.jsonl": '"one"\n""\n',
    "infinite-id.jsonl": '{"text": "one"}\n{"text": "two", "id": Infinity}\n',
    "huge-id.jsonl": '{"text": "one", "id": -1e400}\n',
    "control-id.jsonl": '{"text": "one", "id": "a\\u0001"}\n',
    "keys.jsonl": json.dumps({"text": "one"} | {f"k{i}": i for i in range(MAX_KEYS + 1)}) + "\n",
    "inner-keys.jsonl": json.dumps({"text": "one", "m": [dict.fromkeys(map(str, range(1001)))]}),
    "columns.csv": ",".join(["text", *(f"c{i}" for i in range(1100))]) + "\n" + "1," * 1100 + "1\n",
    "dots.csv": "text,geo.lat\none,1\n",
    "dollar.csv": "text,$x\none,1\n",
    "beyond.jsonl": f'{{"text": "one", "n": {MAX_INT + 1}}}\n',
    "long-text.jsonl": json.dumps({"text": "é" * (1 << 19) + "e"}) + "\n",
    "much.jsonl": json.dumps({"text": "one", "m": "é" * 33_000}) + "\n",
    "true-id.jsonl": '{"text": "one", "id": true}\n',
    "list-id.jsonl": '{"text": "one", "id": [1]}\n',
    "half.jsonl": '{"text": "one"}\n{"text": "x\\ud83d"}\n',
    "half-key.jsonl": '{"text": "one", "a\\udc00": 1}\n',
    "nul.jsonl": '{"text": "one"}\n{"text": "two", "a": ["\\u0000"]}\n',
    "rows.xlsx": b"PK\x03\x04\x14\x00",
    "rows.json": '[{"text": "one"}]',
    "csv": TABLE,
    "x.constructor": TABLE,
}  # fmt: skip
EMPTY: dict[str, str | bytes] = {
    "empty.csv": "",
    "bom.txt": b"\xef\xbb\xbf",
    "header.csv": "id,text\n",
    "blank.jsonl": " \n",
}


def by_the_page(page: Page, files: dict[str, str | bytes]) -> list[Any]:
    """What the console makes of files: a list of rows, or why it refuses."""
    given = [[name, base64.b64encode(_bytes(content)).decode()] for name, content in files.items()]
    return [json.loads(it) if it.startswith("[") else it for it in page.evaluate(READ, given)]


def by_the_command(folder: Path, name: str, content: str | bytes) -> Any:
    """The same of `embed_file.py --store`."""
    (folder / name).write_bytes(_bytes(content))
    try:
        rows = list(Source(folder / name, metadata=True).rows())
    except Stop as exc:
        return str(exc)
    return [[row.line, row.text, row.id, row.metadata] for row in rows]


def _bytes(content: str | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.encode()


def test_files_that_are_right_make_the_same_rows(page: Page, tmp_path: Path) -> None:
    for (name, content), read in zip(ACCEPTED.items(), by_the_page(page, ACCEPTED), strict=True):
        assert read == by_the_command(tmp_path, name, content), name


def test_files_that_are_wrong_are_refused_by_both_at_the_same_line(
    page: Page, tmp_path: Path
) -> None:
    for (name, content), read in zip(REFUSED.items(), by_the_page(page, REFUSED), strict=True):
        told = by_the_command(tmp_path, name, content)
        assert isinstance(read, str) and read.startswith(f"Nothing of {name} is stored: "), name
        assert isinstance(told, str), name
        here, there = (re.search(r"\bline \d+", text) for text in (read, told))
        assert here is None or there is None or here[0] == there[0], (name, read, told)


def test_a_file_without_a_row_is_refused(page: Page) -> None:
    for read in by_the_page(page, EMPTY):
        assert read.endswith("there is no text in it.")


def test_tables_of_any_cells_make_the_same_rows(page: Page, tmp_path: Path) -> None:
    chance = random.Random(5)
    cells = ["", " ", "1", "2.50", "-0", "1e5", "007", "x", '"q"', '""', '"a,b"', '"a\nb"', '"3"',
             "é", "+1", '"', 'a"b', "9007199254740993", ";", "\t4", "5.", "true"]  # fmt: skip
    files: dict[str, str | bytes] = {}
    for i in range(400):
        width, end = chance.randint(1, 4), chance.choice(["\n", "\r\n", "\r"])
        plain = cells if i % 2 else [cell for cell in cells if cell != '"']
        lines = [",".join(["text", "a", "b", "c"][:width])]
        for _ in range(chance.randint(1, 5)):
            count = width if chance.random() < 0.97 else width % 4 + 1
            lines.append(",".join([f"t{chance.random()}", *chance.choices(plain, k=count - 1)]))
        files[f"{i}.csv"] = end.join(lines) + chance.choice(["", end])
    same = 0
    for (name, content), read in zip(files.items(), by_the_page(page, files), strict=True):
        told = by_the_command(tmp_path, name, content)
        assert isinstance(read, str) == isinstance(told, str), (content, read, told)
        if isinstance(read, list):
            assert read == told, content
            same += 1
    assert 100 < same < 390  # both kinds were there


def test_what_the_service_would_refuse_is_refused_before(page: Page) -> None:
    deep = "[" * MAX_JSON_DEPTH + "]" * MAX_JSON_DEPTH
    wrong = {
        "beyond 64 bits": f'"a": {MAX_INT + 1}', "deeper than": f'"a": {deep}',
        "bytes beside": f'"a": "{"é" * (Limits.metadata_bytes // 2)}"',
        "characters": f'"id": "{"i" * (Limits.id_chars + 1)}"', "between slashes": '"id": "a/../b"',
        "control character": '"id": "a\\nb"', "no filter could": '"a": [{"b.c": 1}]',
    }  # fmt: skip
    files: dict[str, str | bytes] = {
        f"{i}.jsonl": f'{{"text": "x", {part}}}' for i, part in enumerate(wrong.values())
    }
    for why, read in zip(wrong, by_the_page(page, files), strict=True):
        assert isinstance(read, str) and why in read and "line 1" in read
    right: dict[str, str | bytes] = {
        "int.jsonl": f'{{"text": "x", "a": [{MAX_INT}, -{MAX_INT}], "id": "{"i" * 512}"}}',
        "deep.jsonl": f'{{"text": "x", "a": {deep[1:-1]}}}',
        "long.txt": "é" * (Limits.text_bytes // 2),
        "longer.txt": "é" * (Limits.text_bytes // 2) + "e",
    }
    *fine, refused = by_the_page(page, right)
    assert fine[0][0][3]["a"] == [MAX_INT, -MAX_INT]
    assert not any(isinstance(read, str) for read in fine) and "split it" in refused


def test_made_ids_are_those_of_the_same_file_and_no_others(page: Page) -> None:
    made = page.evaluate(
        """async (texts) => {
            const { idsFor, sha256 } = await import("/static/js/ids.js");
            const ids = (name, rows) => rows.map(idsFor(name));
            const row = (text, topic, id = null) => ({ text, id, metadata: { topic } });
            const rows = [row("a", 1), row("a", 1), row("a", 2), row("b", 1), row("a", 1, "mine")];
            return [ids("x.csv", rows), ids("x.csv", rows), ids("y.csv", rows), texts.map(sha256)];
        }""",
        texts := ["é" * (i % 5) + "x" * i for i in range(140)],
    )
    first, again, elsewhere, digests = made
    assert first == again and first[4] == "mine"
    assert len({*first, *elsewhere}) == 9
    assert digests == [hashlib.sha256(text.encode()).hexdigest() for text in texts]


def test_the_limits_of_the_command_are_the_services() -> None:
    own = limits.MOST_ID, limits.MOST_TEXT, limits.MOST_METADATA
    assert own == (Limits.id_chars, Limits.text_bytes, Limits.metadata_bytes)
    assert (limits.MOST_KEYS, limits.MOST_DEPTH, limits.MOST_INT) == (
        MAX_KEYS, MAX_JSON_DEPTH, MAX_INT,
    )  # fmt: skip
    assert limits.UNSAFE.pattern == UNSAFE.pattern
