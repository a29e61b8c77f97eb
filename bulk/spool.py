"""Keeps finished vectors beside the output until all are there, so that a kill costs nothing.

The spool's length is the progress: rows lie in input order, and a torn last row is cut off.
"""

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bulk.rows import Row, Stop, pyarrow_parquet


class Spool:
    """Vectors in input order beside the output: `OUT.part` and what they are, `OUT.part.json`."""

    def __init__(self, output: Path, identity: dict[str, Any]) -> None:
        self._data = output.with_name(output.name + ".part")
        self._facts = output.with_name(output.name + ".part.json")
        self._identity = identity
        self.dim = 0
        self.done = 0
        if self._facts.exists():
            facts = json.loads(self._facts.read_text())
            if facts["identity"] != identity:
                raise Stop(
                    f"{self._data} belongs to another input or model; "
                    "delete it (and its .json) to start again"
                )
            self.dim = facts["dim"]
            self.done = self._data.stat().st_size // (4 * self.dim) if self._data.exists() else 0
            if self._data.exists():
                os.truncate(self._data, self.done * 4 * self.dim)  # a torn last row

    def append(self, vectors: NDArray[np.float32]) -> None:
        """Add rows, durably."""
        if not self.dim:
            self.dim = vectors.shape[1]
            _replace(self._facts, json.dumps({"identity": self._identity, "dim": self.dim}))
        if vectors.shape[1] != self.dim:
            raise Stop(f"the service changed its model: {vectors.shape[1]} dimensions, not before")
        with self._data.open("ab") as file:
            file.write(vectors.astype("<f4").tobytes())
            file.flush()
            os.fsync(file.fileno())
        self.done += len(vectors)

    def vectors(self) -> NDArray[np.float32]:
        """Return all rows (n, d), mapped from the file."""
        if not self.done:
            return np.zeros((0, self.dim), np.float32)
        return np.memmap(self._data, "<f4", "r", shape=(self.done, self.dim))

    def remove(self) -> None:
        """Delete the spool, after the output is written."""
        self._data.unlink(missing_ok=True)
        self._facts.unlink(missing_ok=True)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class Counter:
    """How many rows are stored already, for `--store`: a small file beside the input."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self._path = path
        self._identity = identity
        known = json.loads(path.read_text()) if path.exists() else {}
        self.done: int = known["done"] if known.get("identity") == identity else 0

    def add(self, count: int) -> None:
        """Note `count` more rows, durably."""
        self.done += count
        _replace(self._path, json.dumps({"identity": self._identity, "done": self.done}))

    def remove(self) -> None:
        """Forget the progress, after the last row."""
        self._path.unlink(missing_ok=True)


def write_output(output: Path, rows: Iterator[Row], spool: Spool) -> None:
    """Write the finished vectors as `.npy`, `.jsonl` or `.parquet`, in one step."""
    temporary = output.with_name(output.name + ".tmp")
    vectors = spool.vectors()
    if output.suffix == ".npy":
        with temporary.open("wb") as file:
            np.save(file, vectors)
    elif output.suffix == ".parquet":
        _write_parquet(temporary, rows, vectors)
    else:
        with temporary.open("w", encoding="utf-8") as file:
            for row, vector in zip(rows, vectors, strict=True):
                record = {"id": row.id if row.id is not None else row.index, "text": row.text}
                line = json.dumps({**record, "embedding": vector.tolist()}, ensure_ascii=False)
                file.write(line + "\n")
    os.replace(temporary, output)


def _write_parquet(path: Path, rows: Iterator[Row], vectors: NDArray[np.float32]) -> None:
    import pyarrow as pa

    parquet = pyarrow_parquet()
    kind = pa.list_(pa.float32(), vectors.shape[1])
    schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("embedding", kind)])
    with parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, len(vectors), 10_000):
            part = list(itertools.islice(rows, 10_000))
            flat = pa.array(np.asarray(vectors[start : start + 10_000]).ravel())
            ids = [row.id if row.id is not None else str(row.index) for row in part]
            columns = [ids, [row.text for row in part]]
            arrays = [pa.array(column, pa.string()) for column in columns]
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=kind))
            writer.write_table(pa.table(arrays, schema=schema))
