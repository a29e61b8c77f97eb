"""Streams texts out of JSONL, CSV, TXT and Parquet files of any size."""

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Stop(Exception):
    """The run cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Row:
    """One text of the input, with its id and what else the input says of it, if it does."""

    index: int
    text: str
    id: str | None
    metadata: dict[str, Any] = field(default_factory=dict)


# -- reading ---------------------------------------------------------------------------------------


def read_rows(path: Path, text_field: str, id_field: str, metadata: bool = False) -> Iterator[Row]:
    """Stream the rows of a file by its ending; their other fields too if `metadata` is wanted.

    Blank lines of TXT and JSONL are no rows. Raises Stop naming the line that cannot be read.
    """
    kind = path.suffix.lower()
    if kind not in (".jsonl", ".ndjson", ".csv", ".txt", ".parquet"):
        raise Stop(f"{path}: unknown ending; use .jsonl, .csv, .txt or .parquet")
    columns = None if metadata else [text_field, id_field]
    records = _parquet(path, columns) if kind == ".parquet" else _lines(path, kind)
    for index, record in enumerate(records):
        if isinstance(record, str):
            yield Row(index, record, None)
            continue
        text, given = record.get(text_field), record.get(id_field)
        if not isinstance(text, str):
            names = ", ".join(map(str, record))
            raise Stop(f"{path}: row {index + 1} has no text in {text_field!r} (it has: {names})")
        rest = _metadata(record, text_field, id_field) if metadata else {}
        yield Row(index, text, None if given is None else str(given), rest)


def blank_lines(path: Path) -> int:
    """Return how many lines of a TXT or JSONL file are blank, and therefore no rows."""
    if path.suffix.lower() not in (".jsonl", ".ndjson", ".txt"):
        return 0
    with path.open(encoding="utf-8-sig") as file:
        return sum(not line.strip() for line in file)


def _metadata(record: dict[str, Any], text_field: str, id_field: str) -> dict[str, Any]:
    """Return a record's other fields; those of an object in `metadata` count as its own."""
    rest = {
        name: _plain(value)
        for name, value in record.items()
        if name is not None and name not in (text_field, id_field)  # None: cells beyond the header
    }
    inner = rest.get("metadata")
    if not isinstance(inner, dict):
        return rest
    return {**{name: value for name, value in rest.items() if name != "metadata"}, **inner}


def _plain(value: Any) -> Any:
    """Return a value as JSON can carry it: times and decimals as text, NaN as null."""
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def _lines(path: Path, kind: str) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig", newline="" if kind == ".csv" else None) as file:
        if kind == ".txt":
            yield from (line.rstrip("\n") for line in file if line.strip())
        elif kind == ".csv":
            csv.field_size_limit(1 << 30)
            yield from csv.DictReader(file)
        else:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except ValueError as exc:
                    raise Stop(f"{path}: line {number} is not JSON ({exc})") from exc
                if not isinstance(record, dict | str):
                    raise Stop(f"{path}: line {number} is neither an object nor a string")
                yield record


def _parquet(path: Path, wanted: list[str] | None) -> Iterator[dict[str, Any]]:
    """Stream records; of the `wanted` columns those that are there, or all."""
    parquet = pyarrow_parquet()
    with parquet.ParquetFile(path) as file:
        there = file.schema_arrow.names
        columns = [name for name in there if wanted is None or name in wanted]
        for batch in file.iter_batches(batch_size=1024, columns=columns):
            yield from batch.to_pylist()


def pyarrow_parquet() -> Any:
    """Import the optional reader of Parquet. Raises Stop."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise Stop("Parquet needs pyarrow: pip install pyarrow") from None
    return pyarrow.parquet
