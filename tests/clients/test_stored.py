"""What `embed_file.py --store` stores of a file: every field, each row once, no other file's."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
import requests

from tests.clients.command import embed
from tools.records import Stop
from tools.rows import Row, Source

NAME = "fields"


@pytest.fixture
def kept(fake_url: str) -> Iterator[str]:
    yield f"{fake_url}/collections/{NAME}"
    requests.delete(f"{fake_url}/collections/{NAME}", timeout=60)


def store(url: str, source: Path, *words: str) -> int:
    return embed(url, source, "--store", NAME, *words).code


def rows(path: Path, metadata: bool = True) -> list[Row]:
    return list(Source(path, metadata=metadata).rows())


FILES = {
    "rows.csv": 'id,text,topic,year\na,"red, apple",fruit,2021\n',
    "rows.jsonl": '{"id": "a", "text": "red, apple", "topic": "fruit", "year": 2021}\n',
    "inner.jsonl": '{"id": "a", "text": "red, apple", "topic": "nuts", '
    '"metadata": {"topic": "fruit", "year": 2021}}\n',
}


@pytest.mark.parametrize("name", FILES)
def test_other_fields_become_metadata(fake_url: str, kept: str, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name])
    assert store(fake_url, tmp_path / name) == 0
    record = requests.get(f"{kept}/vectors/a", timeout=60).json()
    assert record["text"] == "red, apple"
    assert record["metadata"] == {"topic": "fruit", "year": 2021}


def test_fields_of_parquet_become_what_json_can_carry(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {"id": [1], "text": ["one"], "day": [date(2026, 11, 2)], "score": [0.5],
             "tags": [["a", "b"]]}  # fmt: skip
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    wanted = {"day": "2026-11-02", "score": 0.5, "tags": ["a", "b"]}
    assert rows(tmp_path / "rows.parquet") == [Row(0, "one", "1", wanted)]
    assert rows(tmp_path / "rows.parquet", metadata=False) == [Row(0, "one", "1")]
    pq.write_table(pa.table(table | {"score": [float("nan")]}), tmp_path / "rows.parquet")
    with pytest.raises(Stop, match="row 1 has nan in field 'score'"):
        rows(tmp_path / "rows.parquet")


def test_a_column_without_a_name_is_no_field(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(",text,topic\n0,one,a\n")  # as pandas writes its index
    assert rows(tmp_path / "rows.csv") == [Row(0, "one", None, {"topic": "a"})]


@pytest.mark.parametrize(
    ("name", "content"),
    [("rows.txt", "one\n\n  \ntwo\n\n"), ("rows.jsonl", '"one"\n\n \n{"text": "two"}\n\n')],
)
def test_blank_lines_are_left_out_and_counted(
    fake_url: str, tmp_path: Path, name: str, content: str
) -> None:
    source = tmp_path / name
    source.write_text(content)
    assert [row.text for row in rows(source)] == ["one", "two"]
    done = embed(fake_url, source, tmp_path / "out.npy")
    assert done.code == 0 and "3 blank lines left out" in done.said


def test_files_of_one_name_do_not_overwrite_each_other(
    fake_url: str, kept: str, tmp_path: Path
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "texts.txt").write_text(f"one of {folder}\ntwo of {folder}\n")
    for folder in ("a", "b", "a"):  # the same file again stores nothing twice
        assert store(fake_url, tmp_path / folder / "texts.txt") == 0
    assert requests.get(kept, timeout=60).json()["count"] == 4


def test_the_ids_may_start_as_asked(fake_url: str, kept: str, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("one\n")
    assert store(fake_url, tmp_path / "texts.txt", "--prefix", "mine") == 0
    assert requests.get(f"{kept}/vectors/mine-0", timeout=60).json()["text"] == "one"
