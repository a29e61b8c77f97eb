"""Numbers in a CSV stay numbers: by column, over the whole file, without a loss."""

import json
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from tests.clients.command import embed
from tools.records import Stop
from tools.rows import Source, number


def column(folder: Path, cells: list[str], *, text: tuple[str, ...] = ()) -> list[object]:
    """Return what becomes of a CSV's column `x`, None where there is nothing."""
    source = folder / "rows.csv"
    quoted = ('"' + cell.replace('"', '""') + '"' for cell in cells)
    source.write_text("text,x\n" + "".join(f"t,{cell}\n" for cell in quoted))
    rows = Source(source, metadata=True, text_columns=text).rows()
    return [row.metadata.get("x") for row in rows]


NUMBERS = {
    "5": 5, "-3": -3, "0": 0, "4.50": 4.5, "5.0": 5, "1e5": 100_000, "1E-7": 1e-7, "-0": 0,
    "9007199254740991": 2**53 - 1, "0.1": 0.1, "1e-400": 0,
}  # fmt: skip
NONE = [
    "007", "+1", " 1", "1 ", ".5", "5.", "1,5", "1_000", "0x1F", "NaN", "inf", "true", "NA", "-",
    "e5", "\u0661", "\uff11", "9007199254740992", "-9007199254740993", "1e400", "9" * 400, "1e16",
    "1\n", " ",
]  # fmt: skip


def test_a_column_of_numbers_is_stored_as_numbers(tmp_path: Path) -> None:
    found = column(tmp_path, [*NUMBERS, ""])
    assert found == [*NUMBERS.values(), None]
    assert [type(value) for value in found[:-1]] == [type(value) for value in NUMBERS.values()]


@pytest.mark.parametrize("cell", NONE)
def test_one_cell_that_is_no_number_makes_its_column_text(tmp_path: Path, cell: str) -> None:
    assert column(tmp_path, ["5", cell, "", "0.5"]) == ["5", cell, "", "0.5"]


def test_a_column_without_a_cell_is_text(tmp_path: Path) -> None:
    assert column(tmp_path, ["", ""]) == ["", ""]


def test_rows_that_are_left_out_count_for_their_columns(tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_text("text,x\na,5\n,no\n")
    rows = list(Source(source, metadata=True).rows(lambda out: None))
    assert [row.metadata for row in rows] == [{"x": "5"}]


def test_a_column_may_be_kept_as_text(tmp_path: Path) -> None:
    assert column(tmp_path, ["90210", "1.10"], text=("x",)) == ["90210", "1.10"]
    with pytest.raises(Stop, match="has no column 'zip'"):
        column(tmp_path, ["1"], text=("zip",))


@given(
    st.one_of(st.integers().map(str), st.floats().map(repr), st.text("0123456789.-+eE", max_size=8))
)
def test_a_number_is_one_for_json_too_and_the_same(cell: str) -> None:
    value = number(cell)
    try:
        as_json = json.loads(cell)
    except ValueError:
        assert value is None
    else:
        assert value is None or value == as_json
        assert value is not None or not abs(as_json) <= 2**53 - 1


@pytest.mark.fault("Files")
def test_numbers_of_a_csv_are_found_by_their_size(fake_url: str, tmp_path: Path) -> None:
    """A column of a CSV holds numbers only -> they are stored as numbers, which filters compare;
    other columns stay text, as written.
    """
    source = tmp_path / "rows.csv"
    source.write_text(
        "text,stars,zip,code\n" + "".join(f"t{i},{i % 5},0{i},{i}\n" for i in range(100))
    )
    url = f"{fake_url}/collections/stars"
    try:
        assert embed(fake_url, source, "--store", "stars", "--text-columns", "code, ").code == 0
        for filter_, wanted in (
            ({"stars": {"$gte": 3}}, 40), ({"stars": "3"}, 0), ({"zip": "07"}, 1),
            ({"code": "7"}, 1),
        ):  # fmt: skip
            reply = requests.post(f"{url}/vectors/count", json={"filter": filter_}, timeout=60)
            assert reply.json()["count"] == wanted
    finally:
        requests.delete(url, timeout=60)
