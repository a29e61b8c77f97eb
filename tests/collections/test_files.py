"""Files that are given to a collection: read as they are, stored by a job, nothing lost."""

import io
import json
import random
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from factory import create_app
from tests.collections.conftest import MODELS
from tools.records import open_text, read_array

TABLE = (
    "id,text,stars,ok,day,zip\na,one,4,true,2026-11-30,01234\nb,two,5.5,false,2026-12-01,99999\n"
)


@pytest.fixture
def docs(alone: Callable[..., FlaskClient]) -> FlaskClient:
    """A client of a service on files, with a collection `docs`."""
    return alone()


@pytest.fixture
def alone(config_of: Callable[..., Any]) -> Iterator[Callable[..., FlaskClient]]:
    """Make a service on files with settings of its own, and a collection `docs`."""
    with files_alone(config_of) as make:
        yield make


@contextmanager
def files_alone(config_of: Callable[..., Any]) -> Iterator[Callable[..., FlaskClient]]:
    made: list[Flask] = []

    def make(**settings: object) -> FlaskClient:
        made.append(create_app(config_of(MODELS, **settings), wait=True))
        client = made[-1].test_client()
        client.post("/collections", json={"name": "docs", "model": "small", "if_exists": "ok"})
        return client

    yield make
    for app in made:
        services = app.extensions["services"]
        services.loader.stop()
        until(lambda: not any(each.name.startswith("file-") for each in threading.enumerate()))
        app.extensions["throttle"].close()
        services.documents.store.close()


def until(true: Callable[[], object], limit_s: float = 90) -> None:
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.01)


def give(client: FlaskClient, name: str, content: str | bytes, **query: Any) -> Any:
    """Give a file; return the reply."""
    data = content if isinstance(content, bytes) else content.encode()
    return client.post(
        "/collections/docs/files", data=data, query_string={"filename": name, **query}
    )


def ended(client: FlaskClient, id_: str) -> dict[str, Any]:
    until(lambda: client.get(f"/jobs/{id_}").json["state"] in ("done", "failed"))
    return client.get(f"/jobs/{id_}").json


def stored(client: FlaskClient, name: str, content: str | bytes, **query: Any) -> dict[str, Any]:
    """Give a file and wait for its job, which must end well."""
    reply = give(client, name, content, **query)
    assert reply.status_code == 202, reply.text
    job = ended(client, reply.json["id"])
    assert job["state"] == "done", job
    return job


def records(client: FlaskClient) -> dict[str, dict[str, Any]]:
    reply = client.post(
        "/collections/docs/vectors/scroll", json={"limit": 1000, "include": ["text", "metadata"]}
    )
    return {row["id"]: row for row in reply.json["vectors"]}


def held(client: FlaskClient) -> list[tuple[str, dict[str, Any]]]:
    """Return the texts with their metadata, in the order of the texts."""
    found = records(client).values()
    return sorted(((row["text"], row["metadata"]) for row in found), key=lambda row: row[0])


def rejects(client: FlaskClient, id_: str) -> list[tuple[int, str]]:
    reply = client.get(f"/jobs/{id_}/rejects")
    assert reply.content_type == "application/jsonl"
    return [(out["line"], out["reason"]) for out in map(json.loads, reply.text.splitlines())]


def test_a_table_is_stored_with_its_types(client: FlaskClient) -> None:
    """On both stores."""
    docs = client
    assert docs.post("/collections", json={"name": "docs", "model": "small"}).status_code == 201
    job = stored(docs, "rows.csv", TABLE)
    assert (job["kind"], job["collection"], job["done"], job["total"]) == ("file", "docs", 2, 2)
    assert (job["file"]["stored"], job["file"]["rejected"]) == (2, 0)
    found = records(docs)
    assert found["a"]["metadata"] == {"stars": 4, "ok": True, "day": "2026-11-30", "zip": "01234"}
    assert found["b"]["metadata"]["stars"] == 5.5 and found["b"]["metadata"]["ok"] is False
    body = {"filter": {"stars": {"$gte": 5}}}
    assert docs.post("/collections/docs/vectors/count", json=body).json["count"] == 1
    folder = docs.application.extensions["services"].loader.spool.file(job["id"]).parent
    assert not folder.exists()


def parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.table({
        "text": ["one", None, "three"], "n": pa.array([1, 2, None], pa.int64()),
        "when": [date(2026, 11, 30), None, None], "tags": [["a", "b"], [], None],
        "geo.lat": [1.5, float("nan"), None], "ok": [True, False, None],
    }), out)  # fmt: skip
    return out.getvalue()


NOTHING: dict[str, Any] = {}
KINDS: dict[str, tuple[str, str | bytes, list[tuple[str, dict[str, Any]]], list[int]]] = {
    "quotes": (
        "a.csv",
        'text,n\n"said ""yes"", then\nleft",1\r\n漢字 😀,2\n',
        [('said "yes", then\nleft', {"n": 1}), ("漢字 😀", {"n": 2})],
        [],
    ),
    "a byte order mark": ("a.csv", "\ufefftext,n\nx,1\n".encode(), [("x", {"n": 1})], []),
    "semicolons": ("a.csv", "text;n\nx, y;1\nz;2\n", [("x, y", {"n": 1}), ("z", {"n": 2})], []),
    "decimal commas": ("a.csv", "text;n\nx;1,5\nz;2,5\n",
        [("x", {"n": "1,5"}), ("z", {"n": "2,5"})], []),
    "bars": ("a.csv", "text|n\nx|1\n", [("x", {"n": 1})], []),
    "tabs": ("a.tsv", "text\tn\nx,\t1\n", [("x,", {"n": 1})], []),
    "Latin-1": ("a.csv", "text,n\ncaf\xe9 cr\xe8me,1\n".encode("latin-1"),
        [("café crème", {"n": 1})], []),
    "UTF-16": ("a.csv", "text,n\né,1\n".encode("utf-16"), [("é", {"n": 1})], []),
    "UTF-16 without a mark": ("a.csv", "text,n\né,1\n".encode("utf-16-le"), [("é", {"n": 1})], []),
    "ragged rows": ("a.csv", "text,n\nx,1\ny\nz,2,3\nw,4\n",
        [("w", {"n": 4}), ("x", {"n": 1})], [3, 4]),
    "NUL": ("a.csv", "text\nx\na\0b\ny\n", [("x", NOTHING), ("y", NOTHING)], [3]),
    "a damaged letter": ("a.csv", "text\né\nü\n".encode() + b"\xe9\nx\n",
                         [("x", NOTHING), ("é", NOTHING), ("ü", NOTHING)], [4]),
    "a quote that stays open": ("a.csv", 'text,n\nx,1\n"y,2\nz,3\n',
        [("x", {"n": 1}), ("z", {"n": 3})], [3]),
    "no text in a row": ("a.csv", "text,n\n,1\nx,2\n", [("x", {"n": 2})], [2]),
    "dots and twice": ("a.csv", "text,geo.lat,a,a\nx,1,2,3\n",
        [("x", {"geo_lat": 1, "a": 2, "a_2": 3})], []),
    "JSON in cells": ("a.csv", 'text,j\nx,"{""a"": [1]}"\ny,\n',
        [("x", {"j": {"a": [1]}}), ("y", NOTHING)], []),
    "lines of JSON": (
        "a.jsonl",
        '{"text": "x", "n": 1, "metadata": {"m": true}}\n\n'
        'nope\n"y"\n{"text": "z", "n": "q"}\n[1]\n',
        [("x", {"n": 1, "m": True}), ("y", NOTHING), ("z", {"n": "q"})],
        [3, 6],
    ),
    "an array": (
        "a.json",
        '[{"text": "x", "n": 1},\n {"text": "y", "deep": {"a": [null]}},\n 5,\n "z"]',
        [("x", {"n": 1}), ("y", {"deep": {"a": [None]}}), ("z", NOTHING)],
        [3],
    ),
    "an array that is cut": ("a.json", '[{"text": "x"},\n{"text": "y"', [("x", NOTHING)], [2]),
    "a text a line": ("a.txt", "one\r\n\n two\n", [(" two", NOTHING), ("one", NOTHING)], []),
    "Parquet": (
        "a.parquet",
        parquet(),
        [
            ("one", {"n": 1, "when": "2026-11-30", "tags": ["a", "b"], "geo_lat": 1.5, "ok": True}),
            ("three", {"n": None, "when": None, "tags": None, "geo_lat": None, "ok": None}),
        ],
        [2],
    ),
    "an unknown ending": ("a.dat", "text|n\nx|1\n", [("x", {"n": 1})], []),
}  # fmt: skip


@pytest.mark.fault("Files")
def test_every_kind_of_file_is_stored_and_a_bad_row_ends_none(
    alone: Callable[..., FlaskClient],
) -> None:
    """A file of any kind, delimiter and encoding, with rows that cannot be stored -> all others are
    stored; each of these is told with its line and the reason.
    """
    client = alone()
    for name, (called, content, wanted, wrong) in KINDS.items():
        job = stored(client, called, content)
        assert held(client) == wanted, name
        out = rejects(client, job["id"])
        assert [line for line, _ in out] == wrong and all(reason for _, reason in out), name
        assert job["file"]["rejected"] == len(wrong), name
        client.delete("/collections/docs")
        client.post("/collections", json={"name": "docs", "model": "small"})


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        packed.writestr("a.csv", TABLE)
    return out.getvalue()


REFUSED: dict[str, tuple[str, str | bytes, str]] = {
    "nothing": ("a.csv", b"", "a.csv is empty"),
    "an archive": ("a.csv", archive(), "a.csv: is a ZIP archive or an Office document"),
    "a PDF": ("a.txt", b"%PDF-1.7\n", "is a PDF"),
    "bytes": ("a.csv", bytes(range(256)) * 8 + bytes(4000), "it is no text"),
    "no text column": ("a.csv", "a,b\nx y,1\nz,2\n", "no column is called text"),
    "a broken header": ("a.csv", 'text,"n\nx,1\n', "line 1 opens a quote that is never closed"),
    "Parquet that is none": ("a.parquet", "text\nx\n", "a.parquet: is no Parquet file"),
    "a column that is not there": ("a.csv", "a,b\nx,1\n", "has no column 'q' (it has: a, b)"),
}


@pytest.mark.fault("Files")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_table_is_refused_and_not_kept(docs: FlaskClient, name: str) -> None:
    """An empty file, a ZIP archive named .csv, a PDF, bytes -> 422 says what it is; nothing is
    kept.
    """
    called, content, told = REFUSED[name]
    query = {"text": "q"} if "not there" in name else {}
    reply = give(docs, called, content, **query)
    assert reply.status_code == 422 and told in reply.json["error"], reply.text
    loader = docs.application.extensions["services"].loader
    assert docs.get("/jobs").json == {"jobs": []}
    assert not list(loader.spool.file("x").parent.parent.glob("*/"))


def test_an_array_is_read_in_pieces_as_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.records.PIECE", 5)
    chance = random.Random(7)
    words = ["", "a", '"quoted"', "\\", "[{", "}],", "é漢😀", "line\nfeed"]

    def value(depth: int) -> Any:
        kinds = [chance.choice(words), chance.randrange(10**20), -1.5e-7, True, None]
        if depth < 3:
            kinds += [{w: value(depth + 1) for w in chance.choices(words, k=3)},
                      [value(depth + 1) for _ in range(chance.randrange(3))]]  # fmt: skip
        return chance.choice(kinds)

    for i in range(60):
        rows = [{"text": chance.choice(words), "v": value(0)} for _ in range(chance.randrange(6))]
        path = tmp_path / f"{i}.json"
        text = json.dumps(rows, indent=chance.choice([None, 1]), ensure_ascii=i % 2 == 0)
        path.write_text(chance.choice(["", " \n"]) + text + chance.choice(["", "\n"]))
        with open_text(path) as file:
            assert [record.content for record in read_array(file)] == rows
        path.write_text(text[:-1])
        with open_text(path) as file:
            *whole, last = read_array(file)
        assert [record.content for record in whole] == rows and last.problem


def test_two_hundred_columns_are_stored(docs: FlaskClient) -> None:
    names = [f"c{i}" for i in range(199)]
    rows = "".join(f"text {j}," + ",".join(str(i + j) for i in range(199)) + "\n" for j in range(3))
    stored(docs, "wide.csv", "text," + ",".join(names) + "\n" + rows)
    assert len(held(docs)[2][1]) == 199 and held(docs)[2][1]["c198"] == 200


@pytest.mark.fault("Files")
def test_the_same_file_twice_is_the_same_records(docs: FlaskClient) -> None:
    """The same file is given twice, its rows without ids, some of them equal -> the same records;
    equal rows are each stored.
    """
    for count, content in ((3, "one\ntwo\none\n"), (3, "one\ntwo\none\n"), (4, "one\nnew\none\n")):
        stored(docs, "rows.txt", content)
        assert len(records(docs)) == count
    stored(docs, "renamed.txt", "two\n")
    assert len(records(docs)) == 4


def test_of_rows_with_equal_ids_the_last_stays_and_it_is_told(docs: FlaskClient) -> None:
    job = stored(docs, "rows.csv", "id,text\na,one\nb,two\na,three\n")
    assert job["file"]["repeated"] == 1
    assert {id_: row["text"] for id_, row in records(docs).items()} == {"a": "three", "b": "two"}


def test_a_file_is_shown_before_it_is_stored(docs: FlaskClient) -> None:
    job = give(docs, "rows.csv", "name;body;n\nx;some words here;1\ny;more;2\nz\n", start="false")
    assert job.status_code == 202 and job.json["state"] == "waiting"
    id_ = job.json["id"]
    shown = docs.post(f"/jobs/{id_}/preview", json={}).json
    assert shown["layout"] == {
        "kind": "csv", "encoding": "utf-8", "delimiter": ";", "header": True, "text": ["body"],
        "id": "", "metadata": None, "types": {"name": "text", "body": "text", "n": "number"},
    }  # fmt: skip
    assert [(c["name"], c["type"]) for c in shown["columns"]] == [
        ("name", "text"), ("body", "text"), ("n", "number"),
    ]  # fmt: skip
    assert shown["rows"][0] == {
        "line": 2, "id": None, "text": "some words here", "metadata": {"name": "x", "n": 1},
    }  # fmt: skip
    assert shown["problems"] == [
        {"line": 4, "reason": "has another number of cells than the header: 1, not 3"}
    ]
    assert (shown["total"], shown["rejected"], shown["complete"], shown["sure"]) == (
        3,
        1,
        True,
        True,
    )
    changed = {"text": ["name", "body"], "metadata": ["n"], "types": {"n": "text"}, "id": "name"}
    shown = docs.post(f"/jobs/{id_}/preview", json=changed).json
    assert shown["rows"][1] == {
        "line": 3, "id": "y", "text": "y\nmore", "metadata": {"n": "2"},
    }  # fmt: skip
    assert docs.post(f"/jobs/{id_}/start", json=changed).status_code == 202
    assert ended(docs, id_)["file"]["stored"] == 2
    assert held(docs) == [("x\nsome words here", {"n": "1"}), ("y\nmore", {"n": "2"})]
    assert docs.post(f"/jobs/{id_}/start", json={}).status_code == 409


def test_guesses_may_be_changed(docs: FlaskClient) -> None:
    given = "1;a,b\n2;c\n".encode("utf-16-le")
    id_ = give(docs, "rows.csv", given, start="false").json["id"]
    shown = docs.post(f"/jobs/{id_}/preview", json={"delimiter": ",", "header": False}).json
    assert [p["line"] for p in shown["problems"]] == [2]
    shown = docs.post(f"/jobs/{id_}/preview", json={"encoding": "latin-1"}).json
    assert shown["rejected"] == shown["read"] - shown["blank"] > 0
    shown = docs.post(f"/jobs/{id_}/preview", json={"kind": "txt"}).json
    assert [row["text"] for row in shown["rows"]] == ["1;a,b", "2;c"]
    for wrong in ({"encoding": "ebcdic"}, {"delimiter": "x"}, {"text": ["q"]}, {"kind": "parquet"},
                  {"types": {"a": "money"}}, {"kind": "xls"}):  # fmt: skip
        assert docs.post(f"/jobs/{id_}/preview", json=wrong).status_code == 422, wrong


def test_what_an_encoding_does_not_have_is_shown_all_the_same(docs: FlaskClient) -> None:
    given = "text,gr\xf6\xdfe\nfine,1\ncaf\xe9,2\n".encode("latin-1")
    id_ = give(docs, "a.csv", given, start="false").json["id"]
    shown = docs.post(f"/jobs/{id_}/preview", json={"encoding": "utf-8"}).json
    assert [column["name"] for column in shown["columns"]] == ["text", "gr??e"]
    assert [problem["line"] for problem in shown["problems"]] == [3]
    assert docs.post(f"/jobs/{id_}/start", json={"encoding": "utf-8"}).status_code == 202
    ended(docs, id_)
    page = docs.get(f"/jobs/{id_}/rejects", headers={"Accept": "application/json"})
    assert page.json["rejects"][0]["row"] == {"text": "caf\\udce9", "gr??e": "2"}


def test_a_value_that_is_not_of_its_type_is_a_reject(docs: FlaskClient) -> None:
    id_ = give(docs, "a.csv", "text,n,b\nx,1,yes\ny,two,no\nz,3,maybe\n", start="false").json["id"]
    chosen = {"types": {"n": "number", "b": "boolean"}}
    docs.post(f"/jobs/{id_}/start", json=chosen)
    ended(docs, id_)
    assert held(docs) == [("x", {"n": 1, "b": True})]
    assert rejects(docs, id_) == [
        (3, "has no number in 'n' ('two')"), (4, "has no boolean in 'b' ('maybe')"),
    ]  # fmt: skip
    page = docs.get(f"/jobs/{id_}/rejects", headers={"Accept": "application/json"}).json
    assert page["next_offset"] is None
    assert page["rejects"][0]["row"] == {"text": "y", "n": "two", "b": "no"}


def test_large_numbers_are_stored_digit_by_digit(docs: FlaskClient) -> None:
    """JSON has no limit of 2^53; the cells of a CSV beyond it are texts, as card numbers are."""
    number = 2**53 + 1
    stored(docs, "a.jsonl", f'{{"text": "x", "n": {number}, "f": 1e20, "id": {number}}}\n')
    assert records(docs)[str(number)]["metadata"] == {"n": number, "f": 1e20}
    stored(docs, "a.csv", f"id,text,n\nc,y,{number}\n")
    assert records(docs)["c"]["metadata"] == {"n": str(number)}


def test_a_form_is_taken_as_the_file_itself(docs: FlaskClient) -> None:
    form = {"note": "x", "file": (io.BytesIO(TABLE.encode()), "mine.csv")}
    reply = docs.post("/collections/docs/files?filename=rows.csv", data=form)
    assert reply.status_code == 202, reply.text
    assert ended(docs, reply.json["id"])["file"]["stored"] == 2
    reply = docs.post(
        "/collections/docs/files", data={"note": "x"}, content_type="multipart/form-data"
    )
    assert reply.status_code == 400 and "the form has no file" in reply.json["error"]


def test_a_file_over_the_limit_is_refused(alone: Callable[..., FlaskClient]) -> None:
    client = alone(max_file_mb=1)
    content = b"x" * 99 + b"\n"
    assert give(client, "a.txt", content * 11_000).status_code == 413
    stream = io.BytesIO(content * 11_000)
    reply = client.post(
        "/collections/docs/files?filename=a.txt", input_stream=stream,
        headers={"Transfer-Encoding": "chunked"}, environ_overrides={"wsgi.input_terminated": True},
    )  # fmt: skip
    assert reply.status_code == 413, reply.text
    assert client.get("/jobs").json == {"jobs": []}
    assert give(client, "a.txt", content * 10).status_code == 202


def test_rows_that_the_model_refuses_are_rejects(alone: Callable[..., FlaskClient]) -> None:
    client = alone(truncate="error")
    long = "word " * 600
    job = stored(client, "a.txt", f"one\n{long}\ntwo\n{long}x\nthree\n")
    assert [text for text, _ in held(client)] == ["one", "three", "two"]
    assert [line for line, _ in rejects(client, job["id"])] == [2, 4]


def test_a_file_of_bad_rows_only_ends_well(docs: FlaskClient) -> None:
    job = stored(docs, "a.txt", "one \0 of them\n\nanother \0 of them\n")
    assert (job["file"]["stored"], job["file"]["rejected"], job["file"]["blank"]) == (0, 2, 1)


def test_what_the_model_cuts_is_told(docs: FlaskClient) -> None:
    assert stored(docs, "a.txt", f"one\n{'word ' * 600}\n")["file"]["truncated"] == 1
