"""What gunicorn's master keeps between its workers: the metrics, and which GPU is whose.

The configuration file is executed anew on every SIGHUP, an imported module is not: so what must
outlive a reload is here. Called by `gunicorn.conf.py` alone; knows nothing of the application.
"""

import itertools
import logging
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import values
from prometheus_client.multiprocess import mark_process_dead

log = logging.getLogger("gunicorn.error")

_metrics_socket: socket.socket | None = None
_gpus: list[str] | None = None


def listen_for_metrics(host: str, port: int) -> None:
    """Open the metrics' port in the master. A taken port is an error line, not the end."""
    global _metrics_socket
    try:
        _metrics_socket = socket.create_server((host, port))
    except OSError as exc:
        log.error("METRICS_PORT %d cannot be had (%s); /metrics still answers", port, exc.strerror)


def share_numbers(folder: Path | None) -> None:
    """Give the workers an empty directory for their metrics, one that outlives each of them.

    One worker needs it too: what it counted just before it died would never be seen otherwise, and
    during a reload two processes answer for one. Without a directory each worker counts for itself.
    """
    try:
        path = Path(folder or tempfile.mkdtemp(prefix="metrics-", dir=_room()))
        path.mkdir(parents=True, exist_ok=True)
        for file in path.glob("*.db"):
            file.unlink()
    except OSError as exc:
        log.error("no directory for the metrics (%s): each worker counts for itself", exc.strerror)
        return
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(path)


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


def forget_numbers(given: Path | None) -> None:
    """Remove the directory of `share_numbers`, if it was ours to choose."""
    path = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if path and given is None:
        shutil.rmtree(path, ignore_errors=True)


def _room() -> str | None:
    """Return a memory file system with room for the numbers: a full one kills by SIGBUS.

    A worker takes 0.4 MB, twice that during a reload.
    """
    shm = Path("/dev/shm")
    writable = shm.is_dir() and os.access(shm, os.W_OK)
    return str(shm) if writable and shutil.disk_usage(shm).free > 16 << 20 else None


def serve_metrics(exposition: Callable[[], bytes], content_type: str) -> None:
    """Answer on the inherited socket from a thread of this worker, whichever accepts first."""
    if _metrics_socket is None:
        return

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", content_type)])
        return [exposition()]

    server = WSGIServer(("", 0), _Quiet, bind_and_activate=False)
    server.socket.close()
    server.socket = _metrics_socket
    server.server_name, server.server_port = "metrics", _metrics_socket.getsockname()[1]
    server.setup_environ()
    server.set_app(application)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


class _Quiet(WSGIRequestHandler):
    """Logs nothing, and gives up on a client that sends nothing."""

    timeout = 5

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a scrape every few seconds is no news."""


def gpus() -> list[str]:
    """Return the names of the GPUs there are, as CUDA_VISIBLE_DEVICES takes them."""
    global _gpus
    if _gpus is None:
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        _gpus = _counted() if given is None else [g for g in given.split(",") if g.strip()]
    return _gpus


def _counted() -> list[str]:
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = [line for line in done.stdout.splitlines() if line.startswith("GPU ")]
    return [str(index) for index in range(len(lines))]


def choose_gpu(taken: Iterable[str | None]) -> str | None:
    """Return the GPU that the fewest living workers have; None where there are none."""
    used = list(taken)
    return min(gpus(), key=used.count, default=None)
