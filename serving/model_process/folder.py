"""The folder where model processes are found: whose it is, and the version of what runs in it."""

import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import platform
import stat
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from errors import Unavailable

log = logging.getLogger("model_process")

ROOT = Path(__file__).parents[2]

# What decides vectors and what crosses between processes.
CODE = ("circuit_breaker.py", "errors.py", "cache", "config", "embedders", "observability",
        "server", "serving")  # fmt: skip
PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers", "onnxruntime", "numpy")
CHANGED = 75  # EX_TEMPFAIL of sysexits.h: the code is not that of whoever starts the process
FIRST_SLOT = 1000  # of the metrics' files, above those of workers
LONGEST_PATH = 100  # bytes of a socket's path: Linux takes 107, other systems 103


@functools.cache
def code_version() -> str:
    """Return twelve hex digits of this service's source and of the packages that run models."""
    digest = hashlib.sha256(platform.python_version().encode())
    for name in CODE:
        found = ROOT / name
        for path in sorted(found.rglob("*.py")) if found.is_dir() else [found]:
            digest.update(str(path.relative_to(ROOT)).encode())
            digest.update(path.read_bytes())
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            digest.update(f"{package}={version(package)}".encode())
    return digest.hexdigest()[:12]


def check(folder: Path) -> None:
    """Raise Unavailable unless the folder is this user's own, and nobody else may enter it."""
    try:
        found = folder.lstat()
    except OSError as exc:
        raise Unavailable(f"the run folder {folder} is not there ({exc.strerror})") from None
    problem = None
    if not stat.S_ISDIR(found.st_mode):
        problem = "is no folder"
    elif found.st_uid != os.geteuid():
        problem = f"belongs to user {found.st_uid}, not {os.geteuid()}"
    elif found.st_mode & 0o077:
        problem = f"has the mode {stat.S_IMODE(found.st_mode):04o}, not 0700"
    if problem:
        raise Unavailable(
            f"the run folder {folder} {problem}: no model process is trusted in it",
            short="the model process cannot be reached; the service's log says why",
        )


def socket_path(folder: Path, name: str) -> Path:
    """Return where the model process of this version listens. Raises Unavailable."""
    path = folder / f"{name}-{code_version()}.sock"
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise Unavailable(f"the run folder's path is too long for a socket: {folder}")
    return path


def starts_of(path: Path) -> Path:
    """Return the file that counts the starts of a socket's process that led to no loaded model."""
    return path.with_suffix(".starts")


def make_again(folder: Path) -> None:
    """Make a run folder that somebody removed. Raises OSError."""
    if not folder.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        log.warning("the run folder %s was removed; it is made again", folder)


def keep(folder: Path) -> int:
    """Lock a folder against other services that remove what nobody uses, while this one runs.

    Its service holds the lock already, unless the folder was made again. Raises OSError.
    """
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    with contextlib.suppress(OSError):
        fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return held  # the descriptor stays open


@contextlib.contextmanager
def locked(path: Path, wait_s: float) -> Iterator[int]:
    """Hold the lock of a file, which is made; yield its descriptor. Raises Unavailable.

    The system gives it up with the process that holds it.
    """
    held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        end = time.monotonic() + wait_s
        while not _try_lock(held):
            if time.monotonic() > end:
                raise Unavailable("another worker is starting the model process", retry_after_s=2)
            time.sleep(0.02)
        yield held
    finally:
        os.close(held)


def take_slot(folder: Path) -> int:
    """Return the lowest free number to count metrics as. It is this process's until it ends."""
    slot = FIRST_SLOT
    while True:
        path = folder / f"slot-{slot}"
        held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if _try_lock(held):
            return slot  # the descriptor stays open
        os.close(held)
        slot += 1


def _try_lock(held: int) -> bool:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
