"""The page of faults: every one is on it once, and what it names as a proof is there."""

import ast
import re
from pathlib import Path

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text()
ROW = re.compile(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \| (.+) \|$", re.MULTILINE)
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")
FAULTS = 94


def names_in(file: Path) -> set[str]:
    """Return the names of the functions of a file."""
    tree = ast.parse(file.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def problems(page: str) -> list[str]:
    """Return what is wrong with the page."""
    rows = ROW.findall(page)
    numbers = sorted(int(number) for number, *_ in rows)
    found = [] if numbers == list(range(1, FAULTS + 1)) else [f"the numbers are {numbers}"]
    for number, _, _, proof in rows:
        named = NAMED.findall(proof)
        if ", ".join(f"`{file}::{test}`" for file, test in named) != proof:
            found.append(f"{number}: {proof} is no list of tests")
        for name, test in named:
            file = ROOT / "tests" / name
            if not file.is_file() or not test.startswith("test_") or test not in names_in(file):
                found.append(f"{number}: there is no {name}::{test}")
    return found


def test_every_fault_is_there_once_and_every_test_it_names_exists() -> None:
    assert not problems(PAGE)


def test_no_row_of_the_page_escapes_the_check() -> None:
    assert len(ROW.findall(PAGE)) == len(re.findall(r"^\| \d", PAGE, re.MULTILINE)) == FAULTS


def test_a_wrong_page_would_be_seen() -> None:
    """The control."""
    page = PAGE.replace("| 7 |", "| 8 |").replace(
        "::test_a_second_interrupt", "::test_no_interrupt"
    )
    assert [line.split(":")[0][:11] for line in problems(page)] == ["the numbers", "48"]
