"""What gunicorn's master keeps between its workers.

The numbers, which GPU is whose, and how many workers in a row died while they loaded.

The configuration file is executed anew on every SIGHUP, an imported module is not: so what must
outlive a reload is here. Called by `gunicorn.conf.py` alone, and run by itself as a program that
lists the GPUs; knows nothing of the application.
"""

import contextlib
import fcntl
import itertools
import logging
import mmap
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prometheus_client import values
from prometheus_client.multiprocess import mark_process_dead

log = logging.getLogger("gunicorn.error")

_gpus: list[str] | None = None
_settled = mmap.mmap(-1, 1)  # shared with the worker forked next; it writes a 1 once it has loaded
_lost = 0  # workers in a row that died before
LONGEST_PAUSE_S = 60

_numbers: Path | None = None  # the directory that `share_numbers` made
NUMBERS_PREFIX = "embedding-metrics-"
NUMBERS_FILE = re.compile(r"(counter|gauge_\w+|histogram|summary)_\d+\.db")  # prometheus_client's
NEW_S = 60.0  # a folder so new may not have been locked yet by who made it
# A worker's numbers take 0.4 MB, twice that during a reload.
NUMBERS_ROOM = 16 << 20


def share_numbers(folder: Path | None) -> None:
    """Give the workers an empty directory for their metrics, one that outlives each of them.

    One worker needs it too: what it counted just before it died would never be seen otherwise, and
    during a reload two processes answer for one. Without a directory each worker counts for itself.
    It is a new one in `folder`, which may hold anything else, another service's too.
    """
    global _numbers
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # of whoever started us: not ours to empty
    if folder and not _has_room(folder):
        log.error("METRICS_DIR %s is full or cannot be written; another place is used", folder)
        folder = None
    try:
        root = Path(folder or _room() or tempfile.gettempdir())
        _remove_orphans(root)
        _numbers = Path(tempfile.mkdtemp(prefix=NUMBERS_PREFIX, dir=root)).absolute()
        with contextlib.suppress(OSError):  # a disk without locks: nobody removes what is left
            _lock(_numbers)  # until the last process that has it ends
    except OSError as exc:
        log.error("no directory for the metrics (%s): each worker counts for itself", exc.strerror)
        return
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(_numbers)


def _remove_orphans(root: Path) -> None:
    """Remove what services left behind that were killed: nobody holds the lock of it any more."""
    for folder in root.glob(f"{NUMBERS_PREFIX}*"):
        with contextlib.suppress(OSError):  # of another user, no folder, in use, or just gone
            held = _lock(folder)
            try:
                if time.time() - os.fstat(held).st_mtime > NEW_S:
                    _remove(folder)
            finally:
                os.close(held)


def _lock(folder: Path) -> int:
    """Lock a folder of numbers; return the descriptor that holds the lock. Raises OSError."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        raise
    return held


def _remove(folder: Path) -> None:
    """Remove a folder of numbers, unless something else lies in it."""
    for file in folder.iterdir():
        if NUMBERS_FILE.fullmatch(file.name):
            file.unlink()
    folder.rmdir()


def choose_slot(taken: Iterable[int | None]) -> int:
    """Return the lowest number that no living worker has; its metrics' files go by it.

    So a new worker counts on where a dead one ended, and the directory does not grow with each.
    """
    used = set(taken)
    return next(slot for slot in itertools.count() if slot not in used)


def count_as(slot: int) -> None:
    """Make this process's metrics those of a slot. Call it before any metric is made."""
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]


def end_slot(slot: int) -> None:
    """Take a dead worker's gauges out of the sums; its counters stay."""
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        mark_process_dead(slot)  # type: ignore[no-untyped-call]


def forget_numbers() -> None:
    """Remove the directory of `share_numbers`."""
    if _numbers is not None:
        with contextlib.suppress(OSError):
            _remove(_numbers)


def _room() -> Path | None:
    """Return a memory file system with room for the numbers, if there is one."""
    shm = Path("/dev/shm")  # mkdtemp makes the folder in it  # nosec B108
    return shm if shm.is_dir() and _has_room(shm) else None


def _has_room(folder: Path) -> bool:
    """Tell whether the numbers fit into a folder: they are mapped, and a full disk kills."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(folder).free >= NUMBERS_ROOM and os.access(folder, os.W_OK)
    except OSError:
        return False


def prepare_worker(worker: Any) -> None:
    """Give the worker that is forked next a place to say that it has loaded."""
    global _settled, _lost
    if _settled[0]:  # the one before it: on a reload it still lives
        _lost = 0
    worker.settled = _settled = mmap.mmap(-1, 1)


def reload_if(check: Callable[[], object], reload: Callable[[], None]) -> Callable[[], None]:
    """Return a reload that does nothing but say why where `check` ends the process.

    gunicorn reads its configuration anew on SIGHUP, and a mistake in it would end the service.
    """

    def checked() -> None:
        try:
            check()
        except SystemExit as exc:
            log.error("not reloaded, the workers serve as before. %s", exc)
        else:
            reload()

    return checked


def settle() -> None:
    """Say, in a worker, that its models are loaded or cannot be."""
    _settled[0] = 1


def bury(worker: Any) -> None:
    """Note, in the master, whether a worker that ended had come that far."""
    global _lost
    settled = getattr(worker, "settled", None)
    _lost = 0 if settled is None or settled[0] else _lost + 1


def pause_s() -> float:
    """Return the seconds a worker should wait before it loads: longer after each that died so.

    A model too large for the machine gets its workers killed by the kernel one after the other.
    """
    return min(2.0**_lost, LONGEST_PAUSE_S) if _lost else 0.0


def gpus() -> list[str]:
    """Return the names of the GPUs there are, as CUDA_VISIBLE_DEVICES takes them."""
    global _gpus
    if _gpus is None:
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        _gpus = _counted() if given is None else [g for g in given.split(",") if g.strip()]
    return _gpus


def _counted() -> list[str]:
    """Ask the driver, in a process of its own: what a driver's library starts survives no fork."""
    command = [sys.executable, "-m", "server.arbiter"]
    root = Path(__file__).parent.parent
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split() if done.returncode == 0 else []


def _listed() -> list[str]:
    """Return the GPUs' names by NVML. Of one that is cut up (MIG) they are the slices'."""
    import pynvml

    names: list[str] = []
    try:
        pynvml.nvmlInit()
        for index in range(pynvml.nvmlDeviceGetCount()):
            gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
            names += _slices(pynvml, gpu) if _is_cut(pynvml, gpu) else [_name(pynvml, gpu)]
    except pynvml.NVMLError as exc:  # no driver, no GPU
        log.debug("no GPU is listed: %s", exc)
    return names


def _is_cut(nvml: Any, gpu: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(gpu)[0])
    except nvml.NVMLError:  # most GPUs cannot be cut up
        return False


def _slices(nvml: Any, gpu: Any) -> list[str]:
    names = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        with contextlib.suppress(nvml.NVMLError):  # not every possible slice is there
            names.append(_name(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index)))
    return names


def _name(nvml: Any, gpu: Any) -> str:
    return str(nvml.nvmlDeviceGetUUID(gpu))


def is_pinned(device: str, models: Iterable[Any]) -> bool:
    """Tell whether a worker shall see one GPU only.

    Not where a device is named by its number or models have several: they would not be there.
    `models` are the entries of the catalogue.
    """
    models = list(models)
    named = {device, *(model.device or device for model in models)}
    several = any(model.devices for model in models)
    return named <= {"auto", "cuda", "cpu"} and named != {"cpu"} and not several


def choose_gpu(taken: Iterable[str | None]) -> str | None:
    """Return the GPU that the fewest living workers have; None where there are none."""
    used = list(taken)
    return min(gpus(), key=used.count, default=None)


if __name__ == "__main__":
    print("\n".join(_listed()))
