"""What gunicorn's master keeps for its workers: their folders, GPUs and failed starts.

The configuration file is executed again on every SIGHUP, an imported module is not: so what
outlives a reload is here. Run as a program it lists the GPUs.
"""

import contextlib
import functools
import itertools
import logging
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prometheus_client import values
from prometheus_client.multiprocess import mark_process_dead

from observability.machine import has_nvidia
from server import peers
from server.folders import OwnFolder

log = logging.getLogger("gunicorn.error")

MULTIPROC = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client reads it
# What the workers are told, and the model process by them; no settings, hence the underscore.
RUN_DIR = "_EMBEDDING_RUN_DIR"
GPUS = "_EMBEDDING_GPUS"  # the GPUs there are, as CUDA_VISIBLE_DEVICES names them
DIVIDED = "_EMBEDDING_DIVIDED"  # the variables that hold a worker's share of the cores
RUN_ROOTS = ("/dev/shm",)  # after the folder for temporary files  # nosec B108
LONGEST_ROOT = 40  # bytes: a socket's address has at most 107 on Linux, 103 elsewhere
# A worker's files take 0.4 MB, twice that during a reload.
METRICS_ROOM = 16 << 20
LONGEST_PAUSE_S = 60

_metrics = OwnFolder(
    "embedding-metrics-", r"(counter|gauge_\w+|histogram|summary)_\d+\.db|history\.\w+"
)
_run = OwnFolder("embedding-run-", r"[\w-]+\.(sock|lock|starts|\d+)|slot-\d+")
_settled = mmap.mmap(-1, 1)  # shared with the worker forked next, which writes 1 once it has loaded
_failed = 0  # workers in a row that died before


# ---- folders


def make_run_dir() -> None:
    """Make the folder where the model processes of this service listen, and name it in RUN_DIR.

    Where none can be made RUN_DIR is unset, and each worker holds its own models.
    """
    os.environ.pop(RUN_DIR, None)  # of the process that started this one
    reason = "the folder for temporary files has too long a name"
    roots: tuple[str, ...] = RUN_ROOTS
    with contextlib.suppress(FileNotFoundError):  # all of the disk is read-only
        roots = (tempfile.gettempdir(), *RUN_ROOTS)
    for root in roots:
        if len(os.fsencode(root)) <= LONGEST_ROOT:
            try:
                os.environ[RUN_DIR] = str(_run.make(Path(root)))
                return
            except OSError as exc:
                reason = str(exc.strerror)
    log.error("no folder for the model process (%s): each worker holds its own models", reason)


def make_metrics_dir(folder: Path | None) -> None:
    """Make an empty directory where the workers count, in `folder` if it is given and usable.

    It outlives each worker: what a worker counted just before it died is kept, also where there is
    one worker only. If no directory can be made each worker counts for itself.
    """
    os.environ.pop(MULTIPROC, None)  # of the process that started this one, and not ours to empty
    if folder and not _has_room(folder):
        log.error("METRICS_DIR %s is full or cannot be written; another place is used", folder)
        folder = None
    try:
        root = Path(folder or _memory_disk() or tempfile.gettempdir())
        os.environ[MULTIPROC] = str(_metrics.make(root))
    except OSError as exc:
        log.error("no directory for the metrics (%s): each worker counts for itself", exc.strerror)


def remove_dirs() -> None:
    """Remove both directories. A model process without its folder ends with its last caller.

    One that is stopped, or does not end, is killed: it would keep its device's memory.
    """
    _metrics.remove()
    left = peers.listeners(Path(os.environ[RUN_DIR])) if RUN_DIR in os.environ else []
    _run.remove()
    peers.see_end(left)


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


def default_workers(model_process: str, device: str, models: Iterable[Any]) -> int:
    """Return how many workers serve where neither `-w` nor MAX_WORKERS says it.

    Beside the model process of a GPU as many as keep it busy, half the cores and at most 8; else 1.
    """
    beside = model_process != "off" and uses_gpus(device, models)
    return max(1, min(8, cores() // 2)) if beside else 1


def uses_gpus(device: str, models: Iterable[Any]) -> bool:
    """Return whether there is a GPU that a model may run on. `models` are configured ones."""
    wanted = {device, *(at for model in models for at in (model.device, *model.devices) if at)}
    may = any(at.startswith(("cuda", "auto")) for at in wanted)
    return may and has_nvidia() and bool(gpus())


def divide_cores(among: int) -> None:
    """Give a worker's libraries its share of the cores, before any of them is loaded.

    What the operator has set stays. A model process takes all cores, whatever its worker has.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    ours = [name for name in names if name not in os.environ]
    share = str(max(1, cores() // max(1, among)))
    os.environ.update(dict.fromkeys(ours, share), **{DIVIDED: ",".join(ours)})


def shares_models(wanted: str, workers: int) -> bool:
    """Return whether a model process holds the models: `wanted` is on, off or auto.

    Without a folder for its socket none does.
    """
    several = wanted == "auto" and workers > 1
    return RUN_DIR in os.environ and (several or wanted == "on")


def cores() -> int:
    """Return how many cores this process may use."""
    has_affinity = hasattr(os, "sched_getaffinity")  # not on macOS
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


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
