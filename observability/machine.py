"""Metrics of the workers' processes and of the GPUs, read when Prometheus asks."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

# What a driver shows: its device, on Linux and (dxg) under Windows, and its own folder. All stay
# when a GPU is lost.
NVIDIA = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/proc/driver/nvidia")


def has_nvidia() -> bool:
    """Return whether this machine shows an NVIDIA device or its driver, working or not."""
    return any(map(os.path.exists, NVIDIA))


class Processes(Collector):
    """Memory, CPU, files and threads of all workers."""

    def collect(self) -> Iterator[Metric]:
        """Read /proc."""
        workers = [facts_of(pid) for pid in _workers()]
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
    """Return the CPU time of all workers, dead ones too: it never decreases."""
    while True:
        ended = _ended_cpu_seconds()
        living = sum(facts_of(pid).get("cpu_seconds", 0.0) for pid in _workers())
        if _ended_cpu_seconds() == ended:  # else one ended meanwhile: counted twice, or not at all
            return ended + living


def _ended_cpu_seconds() -> float:
    shared = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return facts_of(os.getppid()).get("ended_cpu_seconds", 0.0) if shared else 0.0


def _workers() -> list[int]:
    """Return the pids of the workers that share the metrics' directory, else this process's."""
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


def facts_of(pid: int) -> dict[str, float]:
    """Return a process's numbers from /proc (see proc(5)); none if it is gone."""
    tick = os.sysconf("SC_CLK_TCK")
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return {
            "memory_bytes": float(int(stat[21]) * os.sysconf("SC_PAGE_SIZE")),
            "cpu_seconds": (int(stat[11]) + int(stat[12])) / tick,
            "ended_cpu_seconds": (int(stat[13]) + int(stat[14])) / tick,
            "threads": float(stat[17]),
            "started": int(stat[19]) / tick,  # since the machine did
            "open_files": float(len(os.listdir(f"/proc/{pid}/fd"))),
        }
    except (OSError, ValueError, IndexError):
        return {}


class Gpus(Collector):
    """Memory and use of each GPU, from NVIDIA's management library where it is installed."""

    _lock = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """Ask the library. A GPU's part (MIG) knows its memory, not its use."""
        used = GaugeMetricFamily("embedding_gpu_memory_used_bytes", "In use.", labels=["gpu"])
        total = GaugeMetricFamily("embedding_gpu_memory_bytes", "There is.", labels=["gpu"])
        busy = GaugeMetricFamily("embedding_gpu_utilization_ratio", "Time busy.", labels=["gpu"])
        with self._lock, contextlib.suppress(ImportError):
            import pynvml

            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlInit()
                for index in range(pynvml.nvmlDeviceGetCount()):
                    gpu, name = pynvml.nvmlDeviceGetHandleByIndex(index), [str(index)]
                    with contextlib.suppress(pynvml.NVMLError):
                        memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
                        used.add_metric(name, memory.used)
                        total.add_metric(name, memory.total)
                    with contextlib.suppress(pynvml.NVMLError):
                        share = pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100
                        busy.add_metric(name, share)
        yield from (used, total, busy)
