"""What the machine tells of the workers and of its GPUs, as Prometheus collects it.

Read from /proc and NVIDIA's library whenever it is asked for. Knows nothing of the service.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Processes(Collector):
    """Memory, CPU, files and threads of this process and of the workers beside it."""

    def collect(self) -> Iterator[Metric]:
        """Read them now."""
        workers = [_facts(pid) for pid in _workers()]
        for name in ("memory_bytes", "open_files", "threads"):
            text = f"{name.replace('_', ' ').capitalize()} of all workers."
            value = sum(facts.get(name, 0.0) for facts in workers)
            yield GaugeMetricFamily(f"embedding_process_{name}", text, value)
        started = max((facts.get("started", 0.0) for facts in workers), default=0.0)
        text = "When the youngest worker started, in seconds since 1970."
        yield GaugeMetricFamily("embedding_process_start_time_seconds", text, _booted() + started)
        text = "Time on the CPU of all workers."
        yield CounterMetricFamily("embedding_process_cpu_seconds", text, _cpu_seconds())


def _cpu_seconds() -> float:
    """Return what the workers used, those that have ended too: it never becomes less."""
    while True:
        ended = _ended_cpu_seconds()
        living = sum(_facts(pid).get("cpu_seconds", 0.0) for pid in _workers())
        if _ended_cpu_seconds() == ended:  # else one ended meanwhile: counted twice, or not at all
            return ended + living


def _ended_cpu_seconds() -> float:
    shared = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return _facts(os.getppid()).get("ended_cpu_seconds", 0.0) if shared else 0.0


def _workers() -> list[int]:
    """Return the pids of the workers, where several share a directory of numbers; else ours."""
    if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        return [os.getpid()]
    try:
        parent = os.getppid()
        return [int(p) for p in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    except OSError:
        return [os.getpid()]


def _booted() -> float:
    """Return when the machine started, in seconds since 1970."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith("btime")))
    except (OSError, StopIteration, ValueError):
        return 0.0


def _facts(pid: int) -> dict[str, float]:
    """Read one process's numbers from /proc (proc(5)); nothing where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return {
            "memory_bytes": float(int(stat[21]) * os.sysconf("SC_PAGE_SIZE")),
            "cpu_seconds": (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK"),
            "ended_cpu_seconds": (int(stat[13]) + int(stat[14])) / os.sysconf("SC_CLK_TCK"),
            "threads": float(stat[17]),
            "started": int(stat[19]) / os.sysconf("SC_CLK_TCK"),  # since the machine did
            "open_files": float(len(os.listdir(f"/proc/{pid}/fd"))),
        }
    except (OSError, ValueError, IndexError):
        return {}


class Gpus(Collector):
    """Memory and use of each GPU, through NVIDIA's management library where there is one."""

    _lock = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """Ask for them now."""
        used = GaugeMetricFamily("embedding_gpu_memory_used_bytes", "In use.", labels=["gpu"])
        total = GaugeMetricFamily("embedding_gpu_memory_bytes", "There is.", labels=["gpu"])
        busy = GaugeMetricFamily("embedding_gpu_utilization_ratio", "Time busy.", labels=["gpu"])
        with self._lock:
            for index, (memory, size, share) in enumerate(_gpus()):
                for family, value in ((used, memory), (total, size), (busy, share)):
                    if value is not None:
                        family.add_metric([str(index)], value)
        yield from (used, total, busy)


def _gpus() -> list[tuple[float | None, float | None, float | None]]:
    """Return (bytes used, bytes there are, share of time busy) of each GPU.

    None is what one cannot tell: a part of a GPU (MIG) knows its memory but not its use.
    """
    try:
        import pynvml
    except ImportError:
        return []
    rows = []
    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle, used, size, busy = pynvml.nvmlDeviceGetHandleByIndex(index), None, None, None
            with contextlib.suppress(pynvml.NVMLError):
                memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
                used, size = float(memory.used), float(memory.total)
            with contextlib.suppress(pynvml.NVMLError):
                busy = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
            rows.append((used, size, busy))
    return rows
