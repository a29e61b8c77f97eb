"""What gunicorn's master keeps for its workers: the metrics' directory, GPUs and failed starts.

The configuration file is executed again on every SIGHUP, an imported module is not: so what
outlives a reload is here. Run as a program it lists the GPUs.
"""

import contextlib
import fcntl
import functools
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

MULTIPROC = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client reads it
DIR_PREFIX = "embedding-metrics-"
METRICS_FILE = re.compile(r"(counter|gauge_\w+|histogram|summary)_\d+\.db")  # prometheus_client's
# A directory so new may not be locked yet by the service that made it.
NEW_S = 60.0
# A worker's files take 0.4 MB, twice that during a reload.
METRICS_ROOM = 16 << 20
LONGEST_PAUSE_S = 60

_metrics_dir: Path | None = None
_settled = mmap.mmap(-1, 1)  # shared with the worker forked next, which writes 1 once it has loaded
_failed = 0  # workers in a row that died before


# ---- the metrics' directory


def make_metrics_dir(folder: Path | None) -> None:
    """Make an empty directory where the workers count, in `folder` if it is given and usable.

    It outlives each worker: what a worker counted just before it died is kept, also where there is
    one worker only. If no directory can be made each worker counts for itself.
    """
    global _metrics_dir
    os.environ.pop(MULTIPROC, None)  # of the process that started this one, and not ours to empty
    if folder and not _has_room(folder):
        log.error("METRICS_DIR %s is full or cannot be written; another place is used", folder)
        folder = None
    try:
        root = Path(folder or _memory_disk() or tempfile.gettempdir())
        _remove_orphans(root)
        _metrics_dir = Path(tempfile.mkdtemp(prefix=DIR_PREFIX, dir=root)).absolute()
        with contextlib.suppress(OSError):  # on a disk without locks orphans stay
            _lock(_metrics_dir)  # until the last process that has it open ends
    except OSError as exc:
        log.error("no directory for the metrics (%s): each worker counts for itself", exc.strerror)
        return
    os.environ[MULTIPROC] = str(_metrics_dir)


def remove_metrics_dir() -> None:
    """Remove the directory of `make_metrics_dir`."""
    if _metrics_dir is not None:
        with contextlib.suppress(OSError):
            _remove(_metrics_dir)


def _remove_orphans(root: Path) -> None:
    """Remove the directories of services that were killed: no process holds their locks."""
    for folder in root.glob(f"{DIR_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, not a directory, in use, or just gone
            held = _lock(folder)
            try:
                if time.time() - os.fstat(held).st_mtime > NEW_S:
                    _remove(folder)
            finally:
                os.close(held)


def _lock(folder: Path) -> int:
    """Lock a directory; return the descriptor that holds the lock. Raises OSError."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        raise
    return held


def _remove(folder: Path) -> None:
    """Remove a directory of metrics. Raises OSError if it holds anything else, which stays."""
    for file in folder.iterdir():
        if METRICS_FILE.fullmatch(file.name):
            file.unlink()
    folder.rmdir()


def _memory_disk() -> Path | None:
    shm = Path("/dev/shm")  # mkdtemp makes the directory in it  # nosec B108
    return shm if shm.is_dir() and _has_room(shm) else None


def _has_room(folder: Path) -> bool:
    """Return whether the files fit: they are mapped, so a full disk would kill the workers."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(folder).free >= METRICS_ROOM and os.access(folder, os.W_OK)
    except OSError:
        return False


def choose_slot(taken: Iterable[int | None]) -> int:
    """Return the lowest number that no living worker has; the metrics' files are named by it.

    So a new worker counts on from a dead one, and the directory does not grow with each.
    """
    used = set(taken)
    return next(slot for slot in itertools.count() if slot not in used)


def count_as(slot: int) -> None:
    """Have this process count as a slot. Call it before any metric is made."""
    if os.environ.get(MULTIPROC):
        values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]


def end_slot(slot: int) -> None:
    """Remove a dead worker's gauges from the sums; its counters stay."""
    if os.environ.get(MULTIPROC):
        mark_process_dead(slot)  # type: ignore[no-untyped-call]


# ---- reloads and failed starts


def reload_if(check: Callable[[], object], reload: Callable[[], None]) -> Callable[[], None]:
    """Return a reload that only logs the reason where `check` raises SystemExit.

    gunicorn reads its configuration again on SIGHUP, and a mistake in it would end the service.
    """

    def checked() -> None:
        try:
            check()
        except SystemExit as exc:
            log.error("not reloaded, the workers serve as before. %s", exc)
        else:
            reload()

    return checked


def prepare_worker(worker: Any) -> None:
    """Give the worker that is forked next a byte to note that it has loaded."""
    global _settled, _failed
    if _settled[0]:  # the one before it, which still lives during a reload
        _failed = 0
    worker.settled = _settled = mmap.mmap(-1, 1)


def settle() -> None:
    """Note, in a worker, that its models are loaded or cannot be."""
    _settled[0] = 1


def bury(worker: Any) -> None:
    """Note, in the master, whether a dead worker had come that far."""
    global _failed
    settled = getattr(worker, "settled", None)
    _failed = 0 if settled is None or settled[0] else _failed + 1


def pause_s() -> float:
    """Return the seconds that a worker waits before it loads: more after each failure in a row.

    Of a model too large for the machine the kernel kills one worker after the other.
    """
    return min(2.0**_failed, LONGEST_PAUSE_S) if _failed else 0.0


# ---- GPUs


def is_pinned(device: str, models: Iterable[Any]) -> bool:
    """Return whether each worker shall see one GPU only.

    Not where a device is named by its number or a model has several. `models` are configured ones.
    """
    models = list(models)
    named = {device, *(model.device or device for model in models)}
    several = any(model.devices for model in models)
    return named <= {"auto", "cuda", "cpu"} and named != {"cpu"} and not several


def choose_gpu(taken: Iterable[str | None]) -> str | None:
    """Return the GPU that the fewest living workers have; None where there is no GPU."""
    used = list(taken)
    return min(gpus(), key=used.count, default=None)


@functools.cache
def gpus() -> list[str]:
    """Return the names of the GPUs, as CUDA_VISIBLE_DEVICES takes them.

    Another process lists them: what a driver's library starts does not survive a fork.
    """
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [gpu for gpu in given.split(",") if gpu.strip()]
    command = [sys.executable, "-m", "server.master"]
    root = Path(__file__).parent.parent
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split() if done.returncode == 0 else []


def list_gpus() -> list[str]:
    """Return the GPUs' ids by NVML; of a GPU that is partitioned (MIG) those of its parts."""
    import pynvml

    names: list[str] = []
    try:
        pynvml.nvmlInit()
        for index in range(pynvml.nvmlDeviceGetCount()):
            gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
            partitioned = False
            with contextlib.suppress(pynvml.NVMLError):  # most GPUs cannot be partitioned
                partitioned = bool(pynvml.nvmlDeviceGetMigMode(gpu)[0])
            if not partitioned:
                names.append(str(pynvml.nvmlDeviceGetUUID(gpu)))
                continue
            for part in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
                with contextlib.suppress(pynvml.NVMLError):  # not every possible part exists
                    handle = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, part)
                    names.append(str(pynvml.nvmlDeviceGetUUID(handle)))
    except pynvml.NVMLError as exc:  # no driver, no GPU
        log.debug("no GPU is listed: %s", exc)
    return names


if __name__ == "__main__":
    print("\n".join(list_gpus()))
