"""Shows what will be stored of a file: its columns, their types, its first rows, what is wrong."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from tools.layout import Layout, Type, is_date, settled, unlikely
from tools.reading import Reader, rows_of, written
from tools.records import Stop
from tools.rows import MOST_KEYS, TEXT_FIELDS, Refused, Row, number

# Of what is looked at to guess types: 1.5 s (one of 2 shared cores of an AMD EPYC, 2026-11-30).
CELLS = 400_000
SHOWN = 20  # rows, and problems
EXAMPLE = 80  # characters of a column's example
ID_NAMES = ("id", "_id")
ORDER: tuple[Type, ...] = ("boolean", "number", "date", "json", "text")  # the first that fits all


@dataclass
class Column:
    """A column as far as it was looked at. `cells` says that its values are texts to be read."""

    name: str
    cells: bool
    type: Type = "text"
    filled: int = 0  # rows that have a value in it
    example: str = ""
    letters: int = 0  # of its texts
    _fit: set[Type] = field(default_factory=lambda: {*ORDER})

    def look(self, value: Any) -> None:
        """Take a value into account."""
        if value is None or value == "":
            return
        if not self.filled:
            text = value if isinstance(value, str) else written(value)
            self.example = text[:EXAMPLE].encode(errors="replace").decode()
        self.filled += 1
        if isinstance(value, str):
            self.letters += len(value)
        if self._fit != {"text"} or not self.cells:
            self._fit &= _types_of(value, self.cells)

    def settle(self) -> None:
        """Decide the type. Values of several types, as JSON may have them, stay as they are."""
        if self.filled:
            self.type = next((each for each in ORDER if each in self._fit), "json")


def _types_of(value: Any, cells: bool) -> set[Type]:
    """Return what a value may be; the text of a cell may be all that it can be read as."""
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int | float):
        return {"number"}
    if isinstance(value, date | datetime | time):
        return {"date"}
    if isinstance(value, dict | list):
        return {"json"}
    fit: set[Type] = {"text"}
    if isinstance(value, str) and is_date(value):
        fit.add("date")
    elif cells and number(value) is not None:
        fit.add("number")
    elif cells and value.lower() in ("true", "false"):
        fit.add("boolean")
    elif cells and value[0] in "[{" and _is_json(value):
        fit.add("json")
    return fit


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


@dataclass(frozen=True)
class Preview:
    """What would be stored of a file, from as much of it as was looked at."""

    layout: Layout  # nothing in it is left to guess
    columns: list[Column]
    rows: list[Row]
    problems: list[Refused]
    read: int  # records looked at
    refused: int  # of these
    blank: int
    total: int  # records of the file; an estimate unless all were looked at
    complete: bool
    sure: bool  # whether the column of the text is known by its name, or was given
    readable: bool  # whether the encoding was given, or is likely
    warnings: list[str]  # what a person should look at


def preview(
    path: Path, name: str, layout: Layout, check: Callable[[], None] = lambda: None
) -> Preview:
    """Return how a file is read and what would be stored of it. Raises Stop, and what `check` does.

    `check` is called for every record, and ends the work when it has become useless.
    """
    given, layout = layout, settled(path, name, layout)
    guessed = given.encoding is None and layout.encoding == "windows-1252"
    warnings = []
    if guessed and unlikely(path):
        warnings.append("the encoding is a guess: look at the rows, and choose another if need be")
    readable = not warnings
    columns: dict[str, Column] = {}
    cells = 0
    first = Reader(path, layout)
    for record in first.records():
        check()
        content = record.content
        if isinstance(content, dict) and not record.problem:
            cells += len(content)
            for key, value in content.items():
                if key not in columns and len(columns) < MOST_KEYS:
                    columns[key] = Column(key, layout.kind == "csv")
                if key in columns:
                    columns[key].look(value)
        else:
            cells += 1
        if cells >= CELLS:
            break
    for column in columns.values():
        column.settle()
    for known in first.columns if layout.kind != "txt" else ():  # those without a row, too
        columns.setdefault(known, Column(known, layout.kind == "csv"))
    layout, sure = _chosen(layout, columns)
    lone = layout.kind == "csv" and len(columns) == 1 and next(iter(columns)).lower()
    # Nothing tells the name of a lone column from a text, but a name that is known.
    if lone and layout.header and given.header is None and lone not in TEXT_FIELDS:
        warnings.append("the first row is taken for a name: set header to false if it is a text")
        sure = bool(given.text)
    shown = _tried(path, layout, columns, check)
    return replace(shown, sure=sure, readable=readable, warnings=warnings)


def _chosen(layout: Layout, columns: dict[str, Column]) -> tuple[Layout, bool]:
    """Return a layout with its columns chosen; whether that of the text is sure. Raises Stop."""
    there = f" (it has: {', '.join(columns)[:300]})" if columns else ""
    for name in (*layout.text, *([layout.id] if layout.id else []), *(layout.metadata or ())):
        if layout.kind != "txt" and columns and name not in columns:
            raise Stop(f"has no column {name[:100]!r}{there}")
    text, sure = layout.text, True
    by_word = {name.lower(): name for name in reversed(columns)}
    if not text and columns:
        known = next((by_word[word] for word in TEXT_FIELDS if word in by_word), None)
        plain_text = [each for each in columns.values() if each.type == "text" and each.filled]
        longest = max(plain_text, key=lambda each: each.letters / each.filled, default=None)
        sure = known is not None or len(columns) == 1
        text = (known,) if known else (longest.name,) if longest else ()
    id_ = layout.id
    if id_ is None:
        id_ = next((by_word[word] for word in ID_NAMES if word in by_word), "")
        id_ = "" if id_ in text else id_
    types = dict(layout.types)
    if layout.kind == "csv":
        types = {each.name: each.type for each in columns.values()} | types
    for name, kind in layout.types.items():
        if name in columns:
            columns[name].type = kind
    return replace(layout, text=text, id=id_, types=types), sure


def _tried(
    path: Path, layout: Layout, columns: dict[str, Column], check: Callable[[], None]
) -> Preview:
    """Read the first records as they will be stored."""
    rows: list[Row] = []
    problems: list[Refused] = []
    read = refused = blank = cells = 0
    reader, complete = Reader(path, layout), True

    def note(out: Refused) -> None:
        nonlocal refused
        refused += 1
        if len(problems) < SHOWN:
            problems.append(replace(out, content=None))  # it may be large

    share = 0.0
    for _, record, row in rows_of(reader, note):
        check()
        read += 1
        blank += record.content is None
        cells += len(record.content) if isinstance(record.content, dict) else 1
        if row is not None and len(rows) < SHOWN:
            rows.append(row)
        if cells >= CELLS:
            complete, share = False, reader.share
            break
    total = read if complete else max(read, round(read / max(share, 1e-9)))
    return Preview(
        layout, list(columns.values()), rows, problems, read, refused, blank, total, complete,
        sure=True, readable=True, warnings=[],
    )  # fmt: skip
