"""What is wrong with the machine: no GPU, no memory, no room, no hub.

The full disk is real: a mount in a namespace of the service's own.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.conftest import free_port, running
from tests.faults.conftest import Service, until

MODEL = "sentence-transformers/all-MiniLM-L6-v2"


# ---- 35: no GPU where one is asked for


def test_a_gpu_that_is_not_there_is_said_and_not_replaced_by_the_cpu(start) -> None:
    service = start(
        app="app:app", ready="/health/live", SUPPORTED_MODELS=MODEL, EMBEDDING_MODEL=MODEL,
        DEVICE="cuda", CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    until(lambda: b'"unhealthy"' in service.ask("/health")[2])
    status, _, body = service.ask("/health")
    assert status == 503 and "DEVICE=cuda: this machine has 0 CUDA devices" in body.decode()
    assert service.embed("a") == 503


def test_auto_takes_the_cpu_where_there_is_no_gpu_and_health_names_it(start) -> None:
    service = start(
        app="app:app", SUPPORTED_MODELS=MODEL, EMBEDDING_MODEL=MODEL, DEVICE="auto",
        CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    assert json.loads(service.ask("/health")[2])["device"] == "cpu"


# ---- 39: no memory for the model


def test_workers_killed_while_they_load_come_back_more_and_more_slowly(start, tmp_path) -> None:
    killing = tmp_path / "killing"
    killing.write_text("kill")
    service = start(ready="/health/live", WHILE_LOADING=str(killing))

    def reason() -> str:
        try:
            status, headers, body = service.ask("/health", timeout=5)
        except OSError:
            return ""
        assert status == 503 and headers["Retry-After"]
        return str(json.loads(body)["reason"])

    until(lambda: "8 s after the start" in reason())  # the third: 2 and 4 s went before
    assert "for want of memory" in reason()
    deaths = sum("was sent SIGKILL" in line for line in service.lines)
    assert 3 <= deaths <= 4
    killing.unlink()
    until(service.healthy)
    assert service.embed("a") == 200
    service.process.send_signal(1)  # SIGHUP: the next worker has no reason to wait any more
    began = time.monotonic()
    until(lambda: sum("fake is ready" in line for line in service.lines) == 2)
    assert time.monotonic() - began < 8


# ---- 51: no room for the metrics


@pytest.fixture
def mounted(models_file: Path) -> Iterator[Callable[..., Service]]:
    """Start the service with mounts of its own, which nothing else on the machine sees."""
    need_namespaces()
    with ExitStack() as stack:

        def begin(mounts: str, **env: str) -> Service:
            port = free_port()
            serve = f"exec {sys.executable} -m gunicorn --workers {env.pop('WORKERS', '1')}"
            command = [*NAMESPACE, "sh", "-ec", f"{mounts}; {serve} tests.faults.hurting:app"]
            env = {
                "HOST": "127.0.0.1", "PORT": str(port), "MODEL_CONFIG": str(models_file),
                "SUPPORTED_MODELS_FILE": "/nonexistent", "THREADS": "16", **env,
            }  # fmt: skip
            return Service(port, stack.enter_context(running(command, port, env)))

        yield begin


NAMESPACE = ["unshare", "-m"] if os.getuid() == 0 else ["unshare", "-U", "-r", "-m"]


def need_namespaces() -> None:
    done = subprocess.run([*NAMESPACE, "true"], capture_output=True, text=True)
    if done.returncode:
        reason = f"mounts of one's own are not allowed here: {done.stderr.strip()}"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


def test_a_full_metrics_directory_is_not_used(mounted, tmp_path) -> None:
    """Its files are mapped: a worker that wrote to one on a full disk would be killed (SIGBUS)."""
    disk = tmp_path / "numbers"
    disk.mkdir()
    service = mounted(
        f"mount -t tmpfs -o size=100k none {disk}", METRICS_DIR=str(disk), WORKERS="2"
    )
    before = service.workers()
    for _ in range(20):
        assert service.embed("a") == 200
    assert (
        b'embedding_requests_total{method="POST",route="/embed",status="200"} 20.0'
        in (service.ask("/metrics")[2])
    )
    assert service.workers() == before and len(before) == 2
    assert any("METRICS_DIR" in line and "another place" in line for line in service.lines)


# ---- 53: no hub


@pytest.fixture
def silent_hub() -> Iterator[tuple[str, list[int]]]:
    """An address that takes connections and never answers, and a note of each it took."""
    taken: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def take() -> None:
            with suppress(OSError), ExitStack() as held:
                while True:
                    held.enter_context(listener.accept()[0])
                    taken.append(1)

        thread = threading.Thread(target=take)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", taken
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_hub_that_hangs_leaves_the_port_open(start, silent_hub, tmp_path) -> None:
    url, taken = silent_hub
    service = start(
        app="app:app", ready="/health/live", HF_ENDPOINT=url,
        EMBEDDING_MODEL_CACHE_DIR=str(tmp_path),
        EMBEDDING_MODEL="some-org/some-model", SUPPORTED_MODELS="some-org/some-model",
    )  # fmt: skip
    until(lambda: taken)
    assert service.ask("/health")[0] == 503 and service.embed("a") == 503
