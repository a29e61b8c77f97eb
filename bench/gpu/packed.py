"""A folder made by `python -m bench.gpu pack`, opened with nothing but Python itself.

It holds `wheels/`, which are put on the import path, and `data.zip`: models, texts and the vectors
that the texts must have. Weights are bfloat16, their low and high bytes apart, since only the high
ones compress (to two fifths).
"""

import contextlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DATA = "data.zip"
HALVES = ".low", ".high"  # of the bytes of a `.safetensors` file


def put(archive: zipfile.ZipFile, file: Path, name: str) -> None:
    """Add a file to the archive, weights as two halves."""
    if file.suffix != ".safetensors":
        archive.write(file, name)
        return
    whole = file.read_bytes()
    for first, half in enumerate(HALVES):
        archive.writestr(name + half, whole[first::2])


def get(archive: zipfile.ZipFile, folder: Path) -> None:
    """Write all files of the archive into a folder, weights whole again."""
    for name in archive.namelist():
        target = folder / name.removesuffix(HALVES[0])
        if name.endswith(HALVES[1]):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        first = archive.read(name)
        if target.name != Path(name).name:
            second = archive.read(f"{name.removesuffix(HALVES[0])}{HALVES[1]}")
            whole = bytearray(len(first) + len(second))
            whole[0::2], whole[1::2] = first, second
            first = bytes(whole)
        target.write_bytes(first)


def open_pack(pack: Path, folder: Path) -> tuple[Path, Path | None]:
    """Unpack into `folder`; return the data, and what to put on the import path, if anything.

    Raises OSError or zipfile.BadZipFile for a pack that is not whole.
    """
    data, site = folder / "data", folder / "site"
    with zipfile.ZipFile(pack / DATA) as archive:
        get(archive, data)
    wheels = sorted((pack / "wheels").glob("*.whl"))
    for wheel in wheels:  # none has files outside of its packages but gunicorn's scripts
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    return data, site if wheels else None


@contextlib.contextmanager
def scratch(parent: Path, prefix: str) -> Iterator[Path]:
    """Give a new folder while it is used, and remove those of processes that were killed.

    Its name is the prefix and this process's id.
    """
    for left in parent.glob(f"{prefix}[0-9]*-*"):
        pid = left.name.removeprefix(prefix).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=parent))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def is_whole(pack: Path) -> bool:
    """Return whether a folder holds a pack whose archive is not cut off."""
    return zipfile.is_zipfile(pack / DATA)


def cases(data: Path) -> list[dict[str, Any]]:
    """Return what must be right: a model's folder, texts, and the file of their vectors."""
    found: list[dict[str, Any]] = json.loads((data / "cases.json").read_text(encoding="utf-8"))
    return found
