"""Writes what a run comes to: the vectors in one file, the rows that were left out in another."""

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from tools.columns import pyarrow_parquet
from tools.rows import Refused, Row
from tools.spool import Spool


def write_output(output: Path, rows: Iterator[Row], spool: Spool) -> None:
    """Write the finished vectors as `.npy`, `.jsonl` or `.parquet`, in one step, durably."""
    write = {".npy": _write_npy, ".parquet": _write_parquet, ".jsonl": _write_jsonl}
    _in_one_step(output, lambda temporary: write[output.suffix](temporary, rows, spool))


def write_rejects(path: Path, source: Path, rejects: Iterable[Refused]) -> None:
    """Write rows that were left out to a JSONL file, each with its place and the reason."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="ascii") as file:
            for out in rejects:
                place = {"file": str(source), "line": out.line, "reason": out.reason}
                file.write(json.dumps({**place, "row": out.content}, default=str) + "\n")

    _in_one_step(path, write)


def _in_one_step(path: Path, write: Callable[[Path], None]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_npy(path: Path, rows: Iterator[Row], spool: Spool) -> None:
    shape = (spool.done, spool.dim)
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for block in spool.blocks():
            file.write(block.tobytes())


def _write_jsonl(path: Path, rows: Iterator[Row], spool: Spool) -> None:
    vectors = (vector for block in spool.blocks() for vector in block)
    with path.open("w", encoding="utf-8") as file:
        for row, vector in zip(rows, vectors, strict=True):
            record = {"id": row.id if row.id is not None else row.index, "text": row.text}
            line = json.dumps({**record, "embedding": vector.tolist()}, ensure_ascii=False)
            file.write(line + "\n")


def _write_parquet(path: Path, rows: Iterator[Row], spool: Spool) -> None:
    parquet = pyarrow_parquet()
    import pyarrow as pa

    kind = pa.list_(pa.float32(), spool.dim)
    schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("embedding", kind)])
    with parquet.ParquetWriter(path, schema) as writer:
        for block in spool.blocks():
            part = list(itertools.islice(rows, len(block)))
            ids = [row.id if row.id is not None else str(row.index) for row in part]
            columns = [ids, [row.text for row in part]]
            arrays = [pa.array(column, pa.string()) for column in columns]
            flat = pa.array(block.ravel())
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=kind))
            writer.write_table(pa.table(arrays, schema=schema))
