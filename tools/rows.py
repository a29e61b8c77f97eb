"""Reads texts, ids and metadata from a JSONL, CSV, TXT or Parquet file of any size.

Files that are given to the service (`tools/reading.py`) are held to the same rules of a row.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.parquet import decoded, parquet_columns, parquet_records
from tools.records import Record, Stop, csv_columns, csv_records, lines_of, separator_of

ENDINGS = (".jsonl", ".ndjson", ".csv", ".txt", ".parquet")
# Fields searched for the text, in this order, when --field is not given.
TEXT_FIELDS = ("text", "content", "sentence", "document", "body", "abstract", "question")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_LARGEST = 2**53 - 1  # JSON readers cannot distinguish all larger whole numbers
_HALF_PAIR = re.compile("[\ud800-\udfff]")


# The service's own limits on what it stores (store/values.py, documents/), checked before anything
# is sent: a file is then refused where it is read, by line.
MOST_ID = 512  # characters
MOST_TEXT = 1 << 20  # bytes
MOST_METADATA = 64 << 10  # bytes of JSON
MOST_KEYS = 1000  # of one object
MOST_DEPTH = 32
MOST_INT = 2**63 - 1
# What clients resolve in a path, or drop.
UNSAFE = re.compile(r"(?:^|[/\\])\.\.?(?:[/\\]|\Z)|[\x00-\x1f\x7f-\x9f]")

NAMABLE = re.compile(r"[^.$][^.]{0,511}", re.DOTALL)


class Unfit(Exception):
    """A row cannot be used; the message continues after "line 7"."""


@dataclass(frozen=True)
class Row:
    """One text of the input, with its id and metadata, if any."""

    index: int  # position among all rows, refused ones included
    text: str
    id: str | None
    metadata: dict[str, Any] = field(default_factory=dict)
    line: int = field(default=0, compare=False)  # in the file; in Parquet the row, from 1


@dataclass(frozen=True)
class Refused:
    """A row that is left out: its content and the reason."""

    index: int
    line: int
    reason: str
    content: Any


class Source:
    """A file of texts. Raises Stop if it cannot be read."""

    def __init__(
        self, path: Path, text_field: str | None = None, id_field: str | None = None, *,
        metadata: bool = False, text_columns: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.path = path
        self.blank = 0  # blank lines found by the last complete reading
        self._kind = path.suffix.lower()
        self._text, self._id, self._metadata = text_field, id_field or "id", metadata
        if not path.exists():
            raise Stop(f"{path}: there is no such file")
        if not path.is_file():
            raise Stop(f"{path}: is no file")
        if self._kind not in ENDINGS:
            raise Stop(f"{path}: unknown ending; use .jsonl, .csv, .txt or .parquet")
        self._names: list[str] = []
        if self._kind in (".csv", ".parquet"):
            self._look_at_columns()
        asked = [*text_columns, *([id_field] if id_field and self._names else [])]
        if unknown := [name for name in asked if name not in self._names]:
            raise Stop(f"{path}: has no column {unknown[0]!r}{self._there()}")
        self._text_columns = text_columns
        self._stamp = self._changed()
        self._numbers: set[str] | None = None

    def rows(self, refused: Callable[[Refused], object] | None = None) -> Iterator[Row]:
        """Yield the rows. Unusable rows go to `refused`; without it the first one raises Stop."""
        index = blank = 0
        self._check_unchanged()
        for record in self._records():
            if record.content is None:
                blank += 1
                continue
            try:
                row = self._row(index, record)
            except Unfit as exc:
                out = Refused(index, record.line, str(exc), record.content)
                if refused is None:
                    raise self.stop(out) from None
                refused(out)
            else:
                yield row
            index += 1
        self._check_unchanged()
        self.blank = blank

    def _check_unchanged(self) -> None:
        """Raise Stop if the file changed: finished rows would not match it."""
        if self._changed() != self._stamp:
            raise Stop(f"{self.path}: was changed while it was read; run the command again")

    def _changed(self) -> tuple[int, int]:
        stat = self.path.stat()
        return stat.st_size, stat.st_mtime_ns

    def stop(self, out: Refused) -> Stop:
        """Return the Stop that ends a run at an unusable row."""
        place = "row" if self._kind == ".parquet" else "line"
        return Stop(
            f"{self.path}: {place} {out.line} {out.reason}; mend it, or leave such rows out with "
            "--on-error skip"
        )

    def _look_at_columns(self) -> None:
        csv = self._kind == ".csv"
        self._names = csv_columns(self.path) if csv else parquet_columns(self.path)
        if self._text is None:
            self._text = next((name for name in TEXT_FIELDS if name in self._names), None)
        if self._names and self._text not in self._names:
            wanted = repr(self._text) if self._text else "of " + ", ".join(TEXT_FIELDS)
            raise Stop(
                f"{self.path}: has no column {wanted}; name the text's with --field"
                f"{self._there()}{separator_of(self._names) if csv else ''}"
            )
        own = {self._text, self._id} | ({""} if csv else set())  # without a name it is no column
        fields = (name for name in self._names if name not in own)
        if self._metadata and (name := unnamable(fields)) is not None:
            raise Stop(
                f"{self.path}: has a column {name[:100]!r}, which no filter could name: rename it "
                "without dots, without a $ at its start, in 1 to 512 characters"
            )

    def _there(self) -> str:
        return f" (it has: {', '.join(self._names)[:300]})" if self._names else ""

    def _records(self) -> Iterator[Record]:
        if self._kind == ".csv":
            if self._metadata and self._numbers is None:
                self._numbers = self._number_columns()
            return csv_records(self.path)
        if self._kind == ".parquet":
            wanted = [n for n in self._names if self._metadata or n in (self._text, self._id)]
            return parquet_records(self.path, wanted)
        return lines_of(self.path, self._kind)

    def _number_columns(self) -> set[str]:
        """Return the CSV columns whose non-empty cells are all plain numbers."""
        maybe = {*self._names} - {"", self._text, self._id, *self._text_columns}
        seen: set[str] = set()
        for record in csv_records(self.path) if maybe else ():
            if maybe and isinstance(record.content, dict):
                filled = [name for name in maybe if record.content[name]]
                seen.update(filled)
                maybe.difference_update(n for n in filled if number(record.content[n]) is None)
        return maybe & seen

    def _row(self, index: int, record: Record) -> Row:
        content = record.content
        if record.problem:
            raise Unfit(record.problem)
        if isinstance(content, str):
            self._sound(content, "text")
            if self._metadata:
                if not content.strip():
                    raise Unfit("has no text in it")
                check_stored(None, content, {})
            return Row(index, content, None, line=record.line)
        if self._text is None:  # JSONL: the first object that has a text says in which field
            fields = (name for name in TEXT_FIELDS if isinstance(content.get(name), str))
            self._text = next(fields, None)
        text = content.get(self._text)
        if isinstance(text, bytes):
            text = decoded(text)
        if not isinstance(text, str) or (self._metadata and not text.strip()):
            names = ", ".join(map(str, content))[:200]
            raise Unfit(f"has no text in {self._text or 'text'!r} (it has: {names})")
        self._sound(text, "text")
        id_ = id_of(content.get(self._id))
        if id_ is not None:
            self._sound(id_, "id")
        rest: dict[str, Any] = {}
        try:
            if self._metadata:
                rest = self._rest(content)
                check_stored(id_, text, rest)
        except RecursionError:
            raise Unfit("is nested too deeply") from None
        return Row(index, text, id_, rest, record.line)

    def _rest(self, content: dict[str, Any]) -> dict[str, Any]:
        """Return a record's other fields, with those of an object in `metadata` merged in."""
        numbers = self._numbers or ()
        rest = {
            name: number(value) if name in numbers else plain(value, name)
            for name, value in content.items()
            if name not in (self._text, self._id) and not (name in numbers and value == "")
        }
        return merged(rest)

    def _sound(self, text: str, what: str) -> str:
        """Return a text if it can be sent and, where it is to be, stored. Raises Unfit."""
        return sound(text, what, stored=self._metadata)


def merged(fields: dict[str, Any]) -> dict[str, Any]:
    """Return fields with those of an object in `metadata` merged in. Raises Unfit."""
    sound("".join(fields), "name of a field")
    inner = fields.get("metadata")
    if not isinstance(inner, dict):
        return fields
    return {**{name: value for name, value in fields.items() if name != "metadata"}, **inner}


def plain(value: Any, name: str) -> Any:
    """Return a value as JSON can hold it: times and decimals as text. Raises Unfit."""
    if isinstance(value, dict):
        what = f"field {name!r}"
        return {sound(str(key), what): plain(part, name) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part, name) for part in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Unfit(f"has {value} in field {name[:100]!r}, which is no number that JSON has")
        return value
    if isinstance(value, bytes):
        value = decoded(value) or value.hex()
    if value is None or isinstance(value, int):
        return value
    return sound(str(value), f"field {name!r}")


def sound(text: str, what: str, *, stored: bool = True) -> str:
    """Return a text if it can be sent and, where it is to be, stored. Raises Unfit."""
    if not text.isascii() and _HALF_PAIR.search(text):
        raise Unfit(f"has half a surrogate pair in its {what}")
    if stored and "\0" in text:
        raise Unfit(f"has a NUL character in its {what}")
    return text


def number(cell: str) -> int | float | None:
    """Return the number in a cell, or None; `007`, `+1` and card numbers are text."""
    if not _NUMBER.fullmatch(cell):
        return None
    value = float(cell)
    if abs(value) > _LARGEST:
        return None
    return int(value) if value.is_integer() else value


def id_of(value: Any) -> str | None:
    """Return an id as text, or None if there is none; 1, 1.0 and "1" are one. Raises Unfit."""
    if isinstance(value, dict) and list(value) == ["$oid"]:  # as MongoDB exports it
        value = value["$oid"]
    if isinstance(value, bytes):
        value = decoded(value) or value.hex()
    whole = not isinstance(value, float) or (value.is_integer() and abs(value) <= _LARGEST)
    if isinstance(value, bool | list | dict) or not whole:
        raise Unfit("has an id that is no id: give a string or a whole number")
    if isinstance(value, float):
        value = int(value)
    return None if value is None or not str(value).strip() else str(value)


def check_stored(id_: str | None, text: str, metadata: dict[str, Any]) -> None:
    """Raise Unfit if the service would not store this row."""
    if id_ is not None and (len(id_) > MOST_ID or UNSAFE.search(id_)):
        raise Unfit(
            f"has an id that cannot be stored: give at most {MOST_ID} characters, no control "
            "character, and no '.' or '..' as all of it or between slashes"
        )
    if len(text) * 4 > MOST_TEXT and len(text.encode()) > MOST_TEXT:
        raise Unfit(f"has a text that is longer than {MOST_TEXT} bytes: split it")
    if metadata:
        _check_value(metadata, 1)
        size = len(json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode())
        if size > MOST_METADATA:
            raise Unfit(f"has metadata of {size} bytes; at most {MOST_METADATA}: take fields out")


def unnamable(names: Iterable[str]) -> str | None:
    """Return the first field name that no filter could use, if any."""
    return next((name for name in names if not NAMABLE.fullmatch(name)), None)


def _check_value(value: Any, depth: int) -> None:
    if isinstance(value, int) and abs(value) > MOST_INT:
        raise Unfit("has a whole number beyond 64 bits: write it as a string")
    if not isinstance(value, dict | list):
        return
    if depth > MOST_DEPTH:
        raise Unfit(f"is nested deeper than {MOST_DEPTH} levels: flatten it")
    if isinstance(value, dict):
        if len(value) > MOST_KEYS:
            raise Unfit(f"has an object of over {MOST_KEYS} keys: take fields out")
        if (name := unnamable(value)) is not None:
            raise Unfit(
                f"names a field {name[:100]!r}, which no filter could: take out its dots, and a $ "
                "at its start; a name is not empty, and has at most 512 characters"
            )
    for part in value.values() if isinstance(value, dict) else value:
        _check_value(part, depth + 1)
