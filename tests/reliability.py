"""Writes the tables of docs/reliability.md: `python -m tests.reliability`.

A row is a test with the marker `fault("group")`; the first paragraph of its docstring is
`what breaks -> what happens`. Tests of one fault share a line of the table. The prose around the
tables is the page's own.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"
BEGIN = "<!-- made by `python -m tests.reliability` from the tests' docstrings -->\n"
END = "<!-- end of what is made -->\n"
# The groups in the order of the page, each with what it runs on.
GROUPS = {
    "Overload": "On a real gunicorn, except the batcher's own tests.",
    "Hostile clients": "One malicious client. On a real gunicorn where sockets matter.",
    "Malformed requests": "In process, on the real model where vectors matter.",
    "On the wire": "On a real gunicorn, behind a real nginx where one is named.",
    "Clients": "On a real gunicorn.",
    "Other origins": "In a real Chromium where a browser is named.",
    "Accounts": "In process, on a real gunicorn where there are several workers.",
    "Models and devices": "On the batcher and the health watch, unless a real gunicorn is named.",
    "Model process": "On a real gunicorn of two workers and their model process.",
    "Process and machine": "On a real gunicorn.",
    "Deployment": "The files in `deploy/` and the settings of the start.",
    "Redis": "A real Redis: stopped, killed and filled.",
    "The SQL database": "Real PostgreSQL and MariaDB: halted, frozen and killed.",
    "Providers": "A test provider that misbehaves over real sockets.",
    "The store": "On files and on a real PostgreSQL.",
    "Files": "`embed_file.py` against a real service.",
    "Console": "In a real Chromium.",
}


class Row(NamedTuple):
    """One fault: what breaks, what happens then, and the test that shows it."""

    group: str
    fault: str
    outcome: str
    test: str  # as pytest names it


def rows() -> list[Row]:
    """Return every marked test as a row, by file and line. Raises ValueError for one without."""
    files = sorted(TESTS.rglob("test_*.py"))
    return [row for file in files for row in rows_of(file.read_text(), file.relative_to(TESTS))]


def rows_of(source: str, file: Path) -> Iterator[Row]:
    """Yield the rows of one test file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            for group in filter(None, map(_group, node.decorator_list)):
                paragraph = (ast.get_docstring(node) or "").partition("\n\n")[0]
                fault, arrow, outcome = " ".join(paragraph.split()).partition(" -> ")
                if not arrow or group not in GROUPS:
                    raise ValueError(
                        f"{file}::{node.name}: give a docstring `fault -> what happens` and one of "
                        f"the groups {', '.join(GROUPS)}"
                    )
                yield Row(group, fault, outcome.removesuffix("."), f"{file}::{node.name}")


def _group(decorator: ast.expr) -> str | None:
    """Return the group that a decorator names, if it is the marker."""
    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.fault":
        return str(ast.literal_eval(decorator.args[0]))
    return None


def tables(found: list[Row]) -> str:
    """Return the tables of all groups in Markdown."""
    return "\n".join(table(group, [row for row in found if row.group == group]) for group in GROUPS)


def table(group: str, found: list[Row]) -> str:
    """Return the table of one group."""
    head = f"## {group}\n\n{GROUPS[group]}\n\n| fault | what happens | shown by |\n|---|---|---|\n"
    lines: dict[str, list[Row]] = {}
    for row in found:
        lines.setdefault(row.fault, []).append(row)
    for fault, same in lines.items():
        outcomes = "; ".join(row.outcome for row in same)
        cells = (fault, outcomes, ", ".join(f"`{row.test}`" for row in same))
        head += f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"
    return head


def page(now: str) -> str:
    """Return the page with its tables made again."""
    before, _, rest = now.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables(rows())}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
