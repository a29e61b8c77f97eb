"""`embed` with standard input and output, a dry run, a rejects file, and an answer as JSON."""

import json
from pathlib import Path

import numpy as np
import pytest
import requests

from tests.cli.conftest import run


def test_texts_of_standard_input_become_json_lines(at: str, empty: Path) -> None:
    done = run("embed", "-", "--quiet", stdin="one\ntwo\n")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["text"] for row in rows] == ["one", "two"] and len(rows[0]["embedding"]) == 8
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [('{"body": "a"}\n{"body": "b"}\n', []), ("body,n\na,1\nb,2\n", ["--format", "csv"])],
)
def test_rows_of_standard_input_go_into_a_file(
    at: str, empty: Path, text: str, kind: list[str]
) -> None:
    done = run("embed", "-", "out.npy", "--field", "body", *kind, "--json", "--quiet", stdin=text)
    assert done.code == 0, done.err
    assert np.load(empty / "out.npy").shape == (2, 8)
    assert (
        done.json["rows"] == 2 and done.json["output"] == "out.npy" and done.json["left_out"] == 0
    )
    assert [path.name for path in empty.iterdir()] == ["out.npy"]


def test_the_same_standard_input_twice_is_the_same_records(at: str, empty: Path) -> None:
    def stored(text: str) -> int:
        assert run("embed", "-", "--store", "piped", "--quiet", stdin=text).code == 0
        return int(requests.get(f"{at}/collections/piped", timeout=60).json()["count"])

    try:
        assert [stored("a\nb\n"), stored("a\nb\n"), stored("c\n")] == [2, 2, 3]
    finally:
        requests.delete(f"{at}/collections/piped", timeout=60)


def test_a_dry_run_tells_all_and_sends_nothing(empty: Path) -> None:
    rows = empty / "rows.jsonl"
    rows.write_text('{"id": 7, "text": "a", "n": 1}\n{"no": 1}\n{"text": "b"}\n')
    words = ("--store", "docs", "--dry-run", "--url", "http://127.0.0.1:9")
    stops = run("embed", rows, *words)
    assert stops.code == 1 and f"{rows}: line 2 has no text" in stops.err
    done = run("embed", rows, *words, "--on-error", "skip")
    assert done.code == 3 and "2 rows would go to collection docs" in done.out
    assert "id '7'" in done.out and "{'n': 1}" in done.out and "line 2 has no text" in done.out
    facts = run("embed", rows, *words, "--on-error", "skip", "--json").json
    assert facts["first"]["metadata"] == {"n": 1} and facts["rejects"][0]["line"] == 2
    assert [path.name for path in empty.iterdir()] == ["rows.jsonl"]


def test_rows_left_out_go_into_the_file_that_is_named(at: str, empty: Path) -> None:
    (empty / "rows.jsonl").write_text('{"text": "a"}\n[1]\n')
    done = run("embed", "rows.jsonl", "out.npy", "--on-error", "skip", "--rejects", "bad.jsonl",
               "--json", "--quiet")  # fmt: skip
    assert done.code == 3 and done.json["rejects"] == "bad.jsonl" and done.json["left_out"] == 1
    (reject,) = map(json.loads, (empty / "bad.jsonl").read_text().splitlines())
    assert reject["line"] == 2 and reject["file"] == "rows.jsonl"


def test_a_bad_row_of_standard_input_is_named(at: str, empty: Path) -> None:
    done = run("embed", "-", "--quiet", stdin='{"text": "a"}\n[1]\n')
    assert done.code == 1 and "standard input: line 2 is neither" in done.err and not done.out
    skipped = run("embed", "-", "--quiet", "--on-error", "skip", stdin='{"text": "a"}\n[1]\n')
    assert skipped.code == 3 and len(skipped.out.splitlines()) == 1
    assert [path.name for path in empty.iterdir()] == ["standard-input.jsonl.rejects.jsonl"]


def test_mistakes_are_told_before_anything_else(empty: Path) -> None:
    missing = run("embed", "none.txt")
    assert missing.code == 2 and "'none.txt' does not exist" in missing.err
    (empty / "a.txt").write_text("a\n")
    assert "give an output file" in run("embed", "a.txt").err
    both = run("embed", "a.txt", "-", "--json")
    assert both.code == 2 and "leave one out" in both.err
