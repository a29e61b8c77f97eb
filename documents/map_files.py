"""Parts of maps that are kept in files, so that who comes next need not wait for them.

    <folder>/<uuid of the collection>/<its state>/<part>.npz

All of it can be made again. So what cannot be read counts as missing, and what cannot be written is
not kept.
"""

import logging
import os
import re
import shutil
import time
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.local_disk import make_file, make_folders

log = logging.getLogger("store")

STATE = re.compile(r"([0-9a-f]{32})-([0-9a-f]{16})")
PART = re.compile(r"[a-z]+(\.\d+)?")
# The newest states of one collection that are kept, since writes go on while somebody looks at it,
# and of all: the largest takes 12 MB. After so long without being read one is removed.
OF_ONE, OF_ALL, KEPT_S = 3, 24, 7 * 86400
Arrays = Mapping[str, NDArray[Any]]


class MapFiles:
    """The kept parts of all maps, in a folder that is made when it is needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, state: str, part: str) -> Arrays | None:
        """Return a part of the map of a state, if it is kept."""
        path = self._path(state, part)
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                arrays = dict(file)
            os.utime(path.parent)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None
        return arrays

    def save(self, state: str, part: str, arrays: Arrays) -> None:
        """Keep a part, and remove what has become too much."""
        path = self._path(state, part)
        half = path.with_name(f"{part}.{os.getpid()}.{time.monotonic_ns()}")
        try:
            make_folders(path.parent)
            with os.fdopen(make_file(half), "wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            half.replace(path)
        except OSError as error:
            log.warning("a map could not be kept in %s: %s", self._folder, error.strerror)
            with suppress(OSError):
                half.unlink(missing_ok=True)
        self._prune()

    def forget(self, uuid: str) -> None:
        """Remove all of a collection."""
        shutil.rmtree(self._folder / uuid, ignore_errors=True)

    def _path(self, state: str, part: str) -> Path:
        found = STATE.fullmatch(state)
        assert found and PART.fullmatch(part), (state, part)
        return self._folder / found[1] / found[2] / f"{part}.npz"

    def _prune(self) -> None:
        used: list[tuple[float, Path]] = []
        for folder in self._folder.glob("*/*"):
            with suppress(OSError):  # another process removed it
                used.append((folder.stat().st_mtime, folder))
        of: dict[str, int] = {}
        for kept, (when, folder) in enumerate(sorted(used, reverse=True)):
            of[folder.parent.name] = of.get(folder.parent.name, 0) + 1
            old = time.time() - when > KEPT_S
            if kept >= OF_ALL or of[folder.parent.name] > OF_ONE or old:
                shutil.rmtree(folder, ignore_errors=True)
                with suppress(OSError):  # it has other states
                    folder.parent.rmdir()
