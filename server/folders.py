"""A folder that a service makes for itself at its start and removes at its end.

No other service uses it. What a killed service left is removed by the next one that starts.
"""

import contextlib
import fcntl
import os
import re
import tempfile
import time
from pathlib import Path

# A folder so new may not be locked yet by the service that made it.
NEW_S = 60.0


class OwnFolder:
    """A new folder, mode 0700, whose name begins with `prefix`.

    Only what `files` matches by its name is ever removed from it.
    """

    def __init__(self, prefix: str, files: str) -> None:
        self._prefix, self._files = prefix, re.compile(files)
        self._path: Path | None = None

    def make(self, root: Path) -> Path:
        """Return the new folder's absolute path, in `root`. Raises OSError.

        It is locked until the last process ends that was forked from this one.
        """
        self._remove_orphans(root)
        self._path = Path(tempfile.mkdtemp(prefix=self._prefix, dir=root)).absolute()
        with contextlib.suppress(OSError):  # on a disk without locks orphans stay
            _lock(self._path)
        return self._path

    def remove(self) -> None:
        """Remove the folder, unless it holds what is not ours."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._remove(self._path)

    def _remove_orphans(self, root: Path) -> None:
        """Remove the folders of services that were killed: no process holds their locks."""
        for folder in root.glob(f"{self._prefix}*"):
            with contextlib.suppress(OSError):  # another user's, no folder, in use, or just gone
                held = _lock(folder)
                try:
                    found = os.fstat(held)
                    if found.st_uid == os.geteuid() and time.time() - found.st_mtime > NEW_S:
                        self._remove(folder)
                finally:
                    os.close(held)

    def _remove(self, folder: Path) -> None:
        """Remove a folder. Raises OSError if it holds anything else, which stays."""
        for file in folder.iterdir():
            if self._files.fullmatch(file.name):
                file.unlink()
        folder.rmdir()


def _lock(folder: Path) -> int:
    """Lock a folder; return the descriptor that holds the lock. Raises OSError."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        raise
    return held
