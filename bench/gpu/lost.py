"""A GPU that is lost in a pass, and while a model loads: what callers see, and when it is back."""

import contextlib
import json
import os
import signal
import time
import urllib.error
import urllib.request

import numpy as np

from bench.gpu.hook import WORD
from bench.gpu.http import Way, server_of
from bench.gpu.run import Run, cosines
from bench.servers import Running, started

TEXTS = ["The weather is lovely today.", "It is sunny outside!", "He drove to work."]
MARKER = "lose"  # a file that `hook.py` looks for


def main(run: Run) -> None:
    """Record both, and fail if the service is not right afterwards."""
    marker = run.data / MARKER
    server = server_of(run, Way("1 worker", 1, False), "bench.gpu.hook:app",
                       LOSE_WHILE_LOADING=str(marker))  # fmt: skip
    with started(server, run.end - time.monotonic()) as running:
        truth = _vectors(running, run.end)
        in_a_pass = _in_a_pass(run, running, truth)
        marker.write_text("")
        while_loading = _while_loading(run, running, truth)
    if not (in_a_pass and while_loading):
        raise SystemExit("the service did not come back as it was")


def _in_a_pass(run: Run, running: Running, truth: np.ndarray) -> bool:
    before, began = _worker(running), time.monotonic()
    status, _ = _ask(running, [WORD])
    answered = time.monotonic() - began
    others = [_ask(running, TEXTS)[0]]
    vectors = _vectors(running, run.end, before)
    back, near = time.monotonic() - began, float(cosines(vectors, truth).min())
    good = status == 503 and near > 0.9995
    run.record(lost="in a pass", status=status, answered_ms=answered * 1000, next_status=others[0],
               ready_again_s=back, equal=near, ok=good)  # fmt: skip
    return good


def _while_loading(run: Run, running: Running, truth: np.ndarray) -> bool:
    """Kill the worker: the next one loses the device as it loads, and the one after it serves."""
    before, began = _worker(running), time.monotonic()
    os.kill(max(before), signal.SIGKILL)
    vectors = _vectors(running, run.end, before)
    back, near = time.monotonic() - began, float(cosines(vectors, truth).min())
    lost = not (run.data / MARKER).exists()
    good = lost and near > 0.9995
    run.record(lost="while it loads", ready_again_s=back, equal=near, ok=good)
    return good


def _ask(running: Running, texts: list[str]) -> tuple[int, bytes]:
    """Return the status and the body of a reply; 0 for none."""
    asked = urllib.request.Request(
        f"http://127.0.0.1:{running.port}/embed",
        json.dumps({"texts": texts}).encode(), {"Content-Type": "application/json"},
    )  # fmt: skip
    try:
        with urllib.request.urlopen(asked, timeout=30) as reply:  # on loopback  # nosec B310
            return reply.status, reply.read()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read()
    except OSError:
        return 0, b""


def _vectors(running: Running, end: float, old: set[int] | None = None) -> np.ndarray:
    """Wait for an answer of a worker that is not among `old`. Raises TimeoutError."""
    while time.monotonic() < end:
        if not old or not (_worker(running) & old):
            status, body = _ask(running, TEXTS)
            if status == 200:
                return np.array(json.loads(body)["embeddings"], np.float32)
        time.sleep(0.05)
    raise TimeoutError("the service did not answer in time")


def _worker(running: Running) -> set[int]:
    """Return the pids of the workers that live."""
    living = set()
    for pid in running.pids()[1:]:
        with contextlib.suppress(OSError):
            os.kill(pid, 0)
            living.add(pid)
    return living
