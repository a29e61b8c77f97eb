"""docs/clients.md and these tests are in step: each row has its tests, each test its row."""

import ast
import re
from pathlib import Path

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "clients.md").read_text()
CELLS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines()]
ROWS = [cells for cells in CELLS if len(cells) == 5 and "test_" in cells[4]]
HERE = Path(__file__)
TESTS = {
    f"{path.name}::{node.name}"
    for path in sorted(HERE.parent.glob("test_*.py"))
    if path != HERE
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
}


def named(row: list[str]) -> list[str]:
    """Return what the last column of a row names."""
    return re.findall(r"`([^`]+)`", row[4])


def under(name: str) -> set[str]:
    """Return the tests that a name stands for: those of a file, or with this beginning."""
    return {test for test in TESTS if test.startswith(name)}


def test_each_row_names_tests_that_are_here() -> None:
    assert (
        len(ROWS) == sum(len(cells) == 5 for cells in CELLS) - 4
    )  # two tables have two lines more
    for row in ROWS:
        assert all(under(name) for name in named(row)), row


def test_each_test_has_its_row() -> None:
    told = {test for row in ROWS for name in named(row) for test in under(name)}
    assert TESTS - told == set()
