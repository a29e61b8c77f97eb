"""Streams texts out of JSONL, CSV, TXT and Parquet files of any size."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Stop(Exception):
    """The run cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Row:
    """One text of the input, with its id if the input has one."""

    index: int
    text: str
    id: str | None


# -- reading ---------------------------------------------------------------------------------------


def read_rows(path: Path, field: str, id_field: str) -> Iterator[Row]:
    """Stream the rows of a file by its ending. Raises Stop naming the line that cannot be read."""
    kind = path.suffix.lower()
    if kind not in (".jsonl", ".ndjson", ".csv", ".txt", ".parquet"):
        raise Stop(f"{path}: unknown ending; use .jsonl, .csv, .txt or .parquet")
    records = _parquet(path, field, id_field) if kind == ".parquet" else _lines(path, kind)
    for index, record in enumerate(records):
        text = record if isinstance(record, str) else record.get(field)
        if not isinstance(text, str):
            names = ", ".join(map(str, record)) if isinstance(record, dict) else ""
            raise Stop(f"{path}: row {index + 1} has no text in {field!r} (it has: {names})")
        given = record.get(id_field) if isinstance(record, dict) else None
        yield Row(index, text, None if given is None else str(given))


def _lines(path: Path, kind: str) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig", newline="" if kind == ".csv" else None) as file:
        if kind == ".txt":
            yield from (line.rstrip("\n") for line in file)
        elif kind == ".csv":
            csv.field_size_limit(1 << 30)
            yield from csv.DictReader(file)
        else:
            for number, line in enumerate(file, 1):
                try:
                    record = json.loads(line)
                except ValueError as exc:
                    raise Stop(f"{path}: line {number} is not JSON ({exc})") from exc
                if not isinstance(record, dict | str):
                    raise Stop(f"{path}: line {number} is neither an object nor a string")
                yield record


def _parquet(path: Path, field: str, id_field: str) -> Iterator[dict[str, Any]]:
    parquet = pyarrow_parquet()
    with parquet.ParquetFile(path) as file:
        columns = [name for name in (field, id_field) if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=1024, columns=columns):
            yield from batch.to_pylist()


def pyarrow_parquet() -> Any:
    """Import the optional reader of Parquet. Raises Stop."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise Stop("Parquet needs pyarrow: pip install pyarrow") from None
    return pyarrow.parquet
