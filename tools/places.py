"""Where the files of a run lie, and that they take no other file's place."""

import os
import re
import sys
from pathlib import Path

from tools.columns import pyarrow_parquet
from tools.records import Stop

_COLLECTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


def beside(path: Path, ending: str) -> Path:
    """Return the path of a file that belongs to another."""
    return path.with_name(path.name + ending)


def base_of(source: Path, output: str | None, collection: str | None) -> Path:
    """Return what the names of all files that a run writes begin with. Raises Stop."""
    base = _output(Path(output)) if output else _progress(source, collection or "")
    for ending in ("", ".tmp", ".part", ".rejects.jsonl"):
        written = beside(base, ending)
        if written.exists() and written.samefile(source):
            raise Stop(f"{source}: this run would write over it; give another name")
    return base


def _output(path: Path) -> Path:
    if path.suffix == ".parquet":
        pyarrow_parquet()
    if not path.parent.is_dir():
        raise Stop(f"{path}: there is no folder {path.parent}")
    if path.is_dir():
        raise Stop(f"{path}: is a folder")
    return path


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
