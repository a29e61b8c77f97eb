"""`--on-error`: a row that cannot be taken ends the run by its line, or is left out and told."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests

from tests.clients.command import embed, rejects
from tests.clients.gate import REFUSED, Gate

NAME = "left-out"


@pytest.fixture
def kept(fake_url: str) -> Iterator[str]:
    yield f"{fake_url}/collections/{NAME}"
    requests.delete(f"{fake_url}/collections/{NAME}", timeout=60)


def objects(path: Path, rows: list[object]) -> Path:
    """Write a JSONL file; a string is a line as it stands."""
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def good(count: int, start: int = 0) -> list[object]:
    return [{"id": f"g{i}", "text": f"text {i}"} for i in range(start, start + count)]


BAD: list[tuple[object, str]] = [
    ("{", "is not JSON"),
    ("[1]", "is neither an object nor a string"),
    ({"id": "x", "texts": "no"}, "has no text in 'text'"),
    ({"id": "x", "text": 3}, "has no text in 'text'"),
    ({"id": "x", "text": "half \ud83d"}, "half a surrogate pair in its text"),
    ({"id": "\ude00", "text": "half"}, "half a surrogate pair in its id"),
    ({"id": True, "text": "no id"}, "has an id that is no id"),
    ({"id": ["x"], "text": "no id"}, "has an id that is no id"),
    ("[" * 100_000, "is nested too deeply"),
    ('{"text": ' + "9" * 5000 + "}", "is not JSON"),
]


@pytest.mark.fault("Files")
def test_one_row_never_ends_a_file(fake_url: str, tmp_path: Path) -> None:
    """A row is not JSON, has no text, or has half a surrogate pair -> the error names its line
    before anything is sent; with `--on-error skip` all others are embedded, the row is kept in a
    file, exit code 3.
    """
    rows: list[object] = []
    for i, (bad, _) in enumerate(BAD):
        rows += [*good(20, 20 * i), bad]
    source, out = objects(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl"
    stopped = embed("http://127.0.0.1:9", source, out)
    assert stopped.code == 1 and f"{source}: line 21 is not JSON" in stopped.said

    done = embed(fake_url, source, out, "--on-error", "skip")
    assert done.code == 3
    assert f"{len(BAD)} of the rows left out: {out}.rejects.jsonl" in done.said
    ids = [json.loads(line)["id"] for line in out.read_text().splitlines()]
    assert ids == [f"g{i}" for i in range(20 * len(BAD))]
    told = rejects(tmp_path / "out.jsonl.rejects.jsonl")
    assert [line for line, _ in told] == [21 * (i + 1) for i in range(len(BAD))]
    for (_, reason), (_, wanted) in zip(told, BAD, strict=True):
        assert wanted in reason


@pytest.mark.fault("Files")
def test_a_row_that_the_service_refuses_is_found_in_its_batch(
    fake_url: str, kept: str, tmp_path: Path
) -> None:
    """The service refuses one text of a batch, wherever the error puts it -> the error names its
    line in the file, or it alone is skipped.
    """
    rows = good(60)
    for i in range(3):
        rows.insert(7 + 15 * i, {"text": REFUSED})
    source = objects(tmp_path / "rows.jsonl", rows)
    words = (source, "--store", NAME, "--batch", "32")
    with Gate(fake_url) as gate:
        stopped = embed(gate.url, *words)
        wanted = f"{source}: line 8 was refused: the service answered 422: a text is refused"
        assert stopped.code == 1 and wanted in stopped.said
        done = embed(gate.url, *words, "--on-error", "skip")
    assert done.code == 3, done.said
    assert requests.get(kept, timeout=60).json()["count"] == 60
    told = rejects(tmp_path / f"rows.jsonl.{NAME}.rejects.jsonl")
    assert [line for line, _ in told] == [8, 23, 38]


def test_a_refusal_that_is_no_rows_fault_ends_the_run(fake_url: str, tmp_path: Path) -> None:
    source = objects(tmp_path / "rows.jsonl", good(200))
    with Gate(fake_url) as gate:
        words = ("--on-error", "skip", "--model", "none", "--parallel", "1")
        done = embed(gate.url, source, tmp_path / "out.npy", *words)
        assert done.code == 1 and "available: fake" in done.said and "line" not in done.said
        assert gate.come < 4  # it is not halved, nor tried row by row


def test_what_was_left_out_can_be_mended_and_embedded(fake_url: str, tmp_path: Path) -> None:
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.npy"
    objects(source, [*good(5), {"id": "x", "text": None}, *good(5, 5)])
    assert embed(fake_url, source, out, "--on-error", "skip").code == 3
    row = json.loads((tmp_path / "out.npy.rejects.jsonl").read_text())
    assert row["row"] == {"id": "x", "text": None} and row["file"] == str(source)
    objects(source, [*good(5), {**row["row"], "text": "mended"}, *good(5, 5)])
    assert embed(fake_url, source, out, "--on-error", "skip").code == 0
    assert np.load(out).shape == (11, 8)
    assert not (tmp_path / "out.npy.rejects.jsonl").exists()  # it tells of this run


def test_a_run_that_stopped_at_a_row_goes_on_without_it(
    fake_url: str, kept: str, tmp_path: Path
) -> None:
    source = objects(tmp_path / "rows.jsonl", [*good(40), {"text": REFUSED}, *good(40, 40)])
    words = (source, "--store", NAME, "--batch", "8", "--parallel", "1")
    with Gate(fake_url) as gate:
        assert "line 41 was refused" in embed(gate.url, *words).said
        assert json.loads((tmp_path / f"rows.jsonl.{NAME}.part.json").read_text())["done"] == 40
        assert embed(gate.url, *words, "--on-error", "skip").code == 3
    assert requests.get(kept, timeout=60).json()["count"] == 80
    assert [path.name for path in tmp_path.iterdir() if ".part" in path.name] == []


@pytest.mark.fault("Files")
@pytest.mark.parametrize("words", [[], ["--store", "cut"]])
def test_texts_that_are_cut_are_told(fake_url: str, tmp_path: Path, words: list[str]) -> None:
    """Texts are longer than the model reads -> they are cut, and the end says how many."""
    rows: list[object] = [{"text": "w " * (100 if i % 100 == 5 else 5)} for i in range(300)]
    source = objects(tmp_path / "rows.jsonl", rows)
    done = embed(fake_url, source, *(words or [tmp_path / "out.npy"]))
    assert done.code == 0
    assert "3 of 300 texts were longer than the model takes and were cut" in done.said
    requests.delete(f"{fake_url}/collections/cut", timeout=60)


def test_nothing_is_said_of_cuts_where_there_are_none(fake_url: str, tmp_path: Path) -> None:
    done = embed(fake_url, objects(tmp_path / "rows.jsonl", good(3)), tmp_path / "out.npy")
    assert (done.code, done.said) == (0, "")


@pytest.mark.fault("Files")
@pytest.mark.parametrize("heavy", [0, 1, 2])
def test_the_last_of_two_equal_ids_is_kept(
    fake_url: str, kept: str, tmp_path: Path, heavy: int
) -> None:
    """An id comes twice in a file, in one batch or in two sent at once -> the last row is stored;
    the end says how many were replaced.
    """
    rows = [{"id": f"r{i}", "text": f"row {i}"} for i in range(130)]
    for i, number in ((0, 5), (64, 5), (129, 5), (1, 7), (2, 7)):
        rows[i] = {"id": f"same{number}", "text": f"row {i}"}
    for i in range(heavy * 64, heavy * 64 + 64):  # this batch takes the longest
        if i < 130:
            rows[i]["text"] += " long" * 5000
    source = objects(tmp_path / "rows.jsonl", list(rows))
    done = embed(fake_url, source, "--store", NAME)
    assert done.code == 0
    assert "3 of the rows left out: a later one has the same id" in done.said
    assert requests.get(kept, timeout=60).json()["count"] == 127
    for id_, wanted in (("same5", "row 129"), ("same7", "row 2")):
        text = requests.get(f"{kept}/vectors/{id_}", timeout=60).json()["text"]
        assert text.startswith(wanted)


def test_the_last_of_two_equal_ids_that_can_be_stored_is_kept(
    fake_url: str, kept: str, tmp_path: Path
) -> None:
    """The last row of an id has too long a text, metadata or keys -> it is left out, and the one
    before it is stored.
    """
    unfit: list[tuple[dict[str, object], str]] = [
        ({"text": "a" * (1 << 20) + "b"}, "longer than"),
        ({"note": "\xe9" * 33_000}, "metadata of"),
        ({"n": 2**63}, "beyond 64 bits"),
        ({"m": [{"a.b": 1}]}, "names a field 'a.b'"),
        ({"m": {str(i): i for i in range(1001)}}, "over 1000 keys"),
        ({"m": json.loads("[" * 32 + "]" * 32)}, "deeper than 32"),
    ]
    ids = range(len(unfit))
    rows: list[object] = [{"id": f"r{i}", "text": "fine"} for i in ids]
    rows += [{"text": "later", "id": f"r{i}", **unfit[i][0]} for i in ids]
    source = objects(tmp_path / "rows.jsonl", rows)
    done = embed(fake_url, source, "--store", NAME, "--on-error", "skip")
    assert done.code == 3 and requests.get(kept, timeout=60).json()["count"] == len(unfit)
    told = rejects(tmp_path / f"rows.jsonl.{NAME}.rejects.jsonl")
    for (_, reason), (_, wanted) in zip(told, unfit, strict=True):
        assert wanted in reason


def test_an_id_that_is_made_is_told_from_one_that_is_given(
    fake_url: str, kept: str, tmp_path: Path
) -> None:
    rows: list[object] = ['"first"', {"text": "second"}, {"id": "mine-0", "text": "third"}]
    source = objects(tmp_path / "rows.jsonl", rows)
    done = embed(fake_url, source, "--store", NAME, "--prefix", "mine")
    assert "1 of the rows left out" in done.said
    assert requests.get(kept, timeout=60).json()["count"] == 2
    assert requests.get(f"{kept}/vectors/mine-0", timeout=60).json()["text"] == "third"
