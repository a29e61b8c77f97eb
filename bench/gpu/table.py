"""The findings as tables in Markdown, one for each part and kind of finding."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def tables(results: Path) -> str:
    """Return all tables of a file of findings."""
    rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    parts = dict.fromkeys(row["part"] for row in rows)
    return "\n\n".join(_part(part, [row for row in rows if row["part"] == part]) for part in parts)


def _part(part: str, rows: list[Row]) -> str:
    kinds: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        kinds.setdefault(tuple(key for key in row if key != "part"), []).append(row)
    return "\n\n".join([f"## {part}", *(_table(keys, kind) for keys, kind in kinds.items())])


def _table(keys: Iterable[str], rows: list[Row]) -> str:
    head = f"| {' | '.join(keys)} |"
    lines = [f"| {' | '.join(_cell(row[key]) for key in keys)} |" for row in rows]
    return "\n".join([head, "|---" * len(list(keys)) + "|", *lines])


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"
    return "" if value is None else str(value).replace("|", "/").replace("\n", " ")
