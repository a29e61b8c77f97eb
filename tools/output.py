"""The files that a run writes: vectors, rows that were left out, and their names."""

import itertools
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from tools.parquet import pyarrow_parquet
from tools.progress import Spool, write_atomically
from tools.records import Stop
from tools.rows import Refused, Row

_COLLECTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


def beside(path: Path, ending: str) -> Path:
    """Return `path` with `ending` appended to its name."""
    return path.with_name(path.name + ending)


def base_of(source: Path, output: Path | None, collection: str | None) -> Path:
    """Return the path that all files of a run begin with. Raises Stop if one would overwrite the
    input."""
    base = output or _progress(source, collection or "")
    if output and output.suffix == ".parquet":
        pyarrow_parquet()
    if not base.parent.is_dir():
        raise Stop(f"{base}: there is no folder {base.parent}")
    if output and output.is_dir():
        raise Stop(f"{output}: is a folder")
    for ending in ("", ".tmp", ".part", ".rejects.jsonl"):
        written = beside(base, ending)
        if written.exists() and written.samefile(source):
            raise Stop(f"{source}: this run would write over it; give another name")
    return base


def _progress(source: Path, collection: str) -> Path:
    if not _COLLECTION.fullmatch(collection):
        raise Stop(
            f"--store {collection}: a collection's name begins with a letter or digit and has "
            "letters, digits, '.', '_' and '-' only"
        )
    folder = source.parent
    if not os.access(folder, os.W_OK):
        print(f"{folder} is read-only: the progress is kept in this folder", file=sys.stderr)
        folder = Path()
        if not os.access(folder, os.W_OK):
            raise Stop("this folder is read-only too: run the command in one that is not")
    return folder / f"{source.name}.{collection}"


def write_output(output: Path, rows: Iterator[Row], spool: Spool) -> None:
    """Write the vectors as `.npy`, `.jsonl` or `.parquet`, atomically and durably."""
    write = {".npy": _write_npy, ".parquet": _write_parquet, ".jsonl": _write_jsonl}
    write_atomically(output, lambda temporary: write[output.suffix](temporary, rows, spool))


def write_rejects(path: Path, source: Path, rejects: Iterable[Refused]) -> None:
    """Write the rows that were left out to a JSONL file, each with its line and reason."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="ascii") as file:
            for out in rejects:
                place = {"file": str(source), "line": out.line, "reason": out.reason}
                file.write(json.dumps({**place, "row": out.content}, default=str) + "\n")

    write_atomically(path, write)


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
            record = {"id": row.index if row.id is None else row.id, "text": row.text,
                      "embedding": vector.tolist()}  # fmt: skip
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _write_parquet(path: Path, rows: Iterator[Row], spool: Spool) -> None:
    parquet = pyarrow_parquet()
    import pyarrow as pa

    kind = pa.list_(pa.float32(), spool.dim)
    schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("embedding", kind)])
    with parquet.ParquetWriter(path, schema) as writer:
        for block in spool.blocks():
            part = list(itertools.islice(rows, len(block)))
            ids = [str(row.index) if row.id is None else row.id for row in part]
            texts = [row.text for row in part]
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), type=kind)
            columns = [pa.array(ids, pa.string()), pa.array(texts, pa.string()), vectors]
            writer.write_table(pa.table(columns, schema=schema))
