"""Streams the texts of a JSONL, CSV, TXT or Parquet file of any size, and what belongs to them.

The console reads files by the same rules (static/js/rows.js).
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.columns import decoded, parquet_columns, parquet_records
from tools.limits import Unfit, check_stored, unnamable
from tools.records import Record, Stop, csv_columns, csv_records, lines_of, separator_of

ENDINGS = (".jsonl", ".ndjson", ".csv", ".txt", ".parquet")
# Where the text is looked for, in this order, if nobody says where it is.
TEXT_FIELDS = ("text", "content", "sentence", "document", "body", "abstract", "question")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_LARGEST = 2**53 - 1  # whole numbers beyond are not all told apart in JSON
_HALF_PAIR = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Row:
    """One text of the input, with its id and what else the input says of it, if it does."""

    index: int  # its place among the rows, those that are refused counted
    text: str
    id: str | None
    metadata: dict[str, Any] = field(default_factory=dict)
    line: int = field(default=0, compare=False)  # in the file; in Parquet the row, from 1


@dataclass(frozen=True)
class Refused:
    """A row that is left out: what the input has there, and why it cannot be taken."""

    index: int
    line: int
    reason: str
    content: Any


class Source:
    """A file of texts. Raises Stop if it cannot be read at all."""

    def __init__(
        self,
        path: Path,
        text_field: str | None = None,
        id_field: str | None = None,
        *,
        metadata: bool = False,
        text_columns: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.blank = 0  # lines without anything in them, as the last complete reading found
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
        """Stream the rows; `refused` is given those that cannot be taken, else they raise Stop."""
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
        """Raise Stop if the file is another one than before: what is done would not fit it."""
        if self._changed() != self._stamp:
            raise Stop(f"{self.path}: was changed while it was read; run the command again")

    def _changed(self) -> tuple[int, int]:
        stat = self.path.stat()
        return stat.st_size, stat.st_mtime_ns

    def stop(self, out: Refused) -> Stop:
        """Return what ends a run at a row that cannot be taken."""
        return Stop(
            f"{self.path}: {self.place(out.line)} {out.reason}; mend it, or leave such rows out "
            "with --on-error skip"
        )

    def place(self, line: int) -> str:
        """Name a place in the file."""
        return f"{'row' if self._kind == '.parquet' else 'line'} {line}"

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
        own = (
            self._text,
            self._id,
            *([""] if csv else []),
        )  # a CSV's column without a name is none
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
        """Return the columns of a CSV in which every cell that is not empty is a plain number."""
        maybe = {*self._names} - {"", self._text, self._id, *self._text_columns}
        seen: set[str] = set()
        for record in csv_records(self.path) if maybe else ():
            if maybe and isinstance(record.content, dict):
                filled = [name for name in maybe if record.content[name]]
                seen.update(filled)
                maybe.difference_update(n for n in filled if number(record.content[n]) is None)
        return maybe & seen

    def _row(self, index: int, record: Record) -> Row:
        """Return a record as a row. Raises Unfit."""
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
        id_ = _id(content.get(self._id))
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
        """Return a record's other fields; those of an object in `metadata` count as its own."""
        numbers = self._numbers or ()
        rest = {
            name: number(value) if name in numbers else self._plain(value, name)
            for name, value in content.items()
            if name not in (self._text, self._id) and not (name in numbers and value == "")
        }
        self._sound("".join(rest), "name of a field")
        inner = rest.get("metadata")
        if not isinstance(inner, dict):
            return rest
        return {**{name: value for name, value in rest.items() if name != "metadata"}, **inner}

    def _plain(self, value: Any, name: str) -> Any:
        """Return a value as JSON can carry it: times and decimals as text, NaN as null."""
        if isinstance(value, dict):
            return {
                self._sound(str(key), f"field {name!r}"): self._plain(part, name)
                for key, part in value.items()
            }
        if isinstance(value, list | tuple):
            return [self._plain(part, name) for part in value]
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if isinstance(value, bytes):
            value = decoded(value) or value.hex()
        if value is None or isinstance(value, int):
            return value
        return self._sound(str(value), f"field {name!r}")

    def _sound(self, text: str, what: str) -> str:
        """Return a text that can be sent, and stored if it is to be. Raises Unfit."""
        if not text.isascii() and _HALF_PAIR.search(text):
            raise Unfit(f"has half a surrogate pair in its {what}")
        if self._metadata and "\0" in text:
            raise Unfit(f"has a NUL character in its {what}")
        return text


def number(cell: str) -> int | float | None:
    """Return the number that a cell plainly is, or None: `007`, `+1` and card numbers are none."""
    if not _NUMBER.fullmatch(cell):
        return None
    value = float(cell)
    if abs(value) > _LARGEST:
        return None
    return int(value) if value.is_integer() else value


def _id(value: Any) -> str | None:
    """Return an id as text; None where there is none. Raises Unfit."""
    if isinstance(value, dict) and list(value) == ["$oid"]:  # as MongoDB exports it
        value = value["$oid"]
    if isinstance(value, bytes):
        value = decoded(value) or value.hex()
    if isinstance(value, bool | list | dict) or value in (math.inf, -math.inf):
        raise Unfit("has an id that is no id: give a string or a whole number")
    if isinstance(value, float):
        value = int(value) if value.is_integer() else None if math.isnan(value) else value
    return None if value is None or not str(value).strip() else str(value)
