"""The page of faults says what the tests say, and nothing else."""

from pathlib import Path

import pytest

from tests import reliability

MARKED = '''
@pytest.mark.fault("{group}")
def test_something() -> None:
    """{docstring}"""
'''


def rows_of(group: str, docstring: str) -> list[reliability.Row]:
    """Return the rows of a file with one marked test."""
    source = MARKED.format(group=group, docstring=docstring)
    return list(reliability.rows_of(source, Path("test_file.py")))


def test_the_page_has_the_rows_that_the_tests_docstrings_give() -> None:
    now = reliability.PAGE.read_text()
    assert now == reliability.page(now), "run: python -m tests.reliability"


def test_every_group_of_the_page_has_rows() -> None:
    assert {row.group for row in reliability.rows()} == set(reliability.GROUPS)


def test_a_marked_test_is_a_row() -> None:
    (row,) = rows_of("Redis", "It is away -> it is\n    left alone.\n\n    More.\n    ")
    assert row == ("Redis", "It is away", "it is left alone", "test_file.py::test_something")


@pytest.mark.parametrize(
    ("group", "docstring"), [("Redis", "It is away."), ("Rodis", "It is away -> nothing.")]
)
def test_a_marked_test_without_an_outcome_or_a_known_group_is_refused(
    group: str, docstring: str
) -> None:
    with pytest.raises(ValueError, match="test_something: give a docstring"):
        rows_of(group, docstring)


def test_tests_of_one_fault_share_a_line_of_the_table() -> None:
    (first,), (second,) = rows_of("Redis", "It is away -> a."), rows_of("Redis", "It is away -> b.")
    table = reliability.table("Redis", [first, second])
    assert table.endswith(
        "|---|---|---|\n"
        "| It is away | a; b | `test_file.py::test_something`, `test_file.py::test_something` |\n"
    )
