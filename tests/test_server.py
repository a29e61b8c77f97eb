"""The service as people start it: real processes on real ports."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests

from tests.conftest import ROOT, free_port, running, write_models


@pytest.fixture
def fake_env(tmp_path: Path) -> dict[str, str]:
    """An environment that makes any start serve one fake model at once."""
    models = {"fake": {"type": "fake", "model_name": "tests/fake"}}
    file = write_models(tmp_path / "models.json", models)
    return {"MODEL_CONFIG": str(file), "SUPPORTED_MODELS_FILE": str(tmp_path / "none")}


def test_four_workers_and_a_timeout_may_be_asked_for(fake_env: dict[str, str]) -> None:
    port = free_port()
    flags = ["-w", "4", "-b", f"127.0.0.1:{port}", "--timeout", "120", "app:app"]
    with running([sys.executable, "-m", "gunicorn", *flags], port, fake_env, cold=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        url, end = f"http://127.0.0.1:{port}/embed", time.monotonic() + 90
        while len(children.read_text().split()) < 4:  # one that is there answers for all
            assert time.monotonic() < end
            time.sleep(0.02)
        assert len(children.read_text().split()) == 4

        def statuses() -> set[int]:
            return {
                requests.post(url, json={"text": "x"}, timeout=30).status_code for _ in range(20)
            }

        while (got := statuses()) != {200}:  # each worker loads for itself
            assert got <= {200, 503} and time.monotonic() < end


def test_python_app_py_serves_too(fake_env: dict[str, str]) -> None:
    port = free_port()
    env = {**fake_env, "PORT": str(port), "HOST": "127.0.0.1"}
    with running([sys.executable, "app.py"], port, env):
        reply = requests.get(f"http://127.0.0.1:{port}/", timeout=30)
        assert reply.json()["available_models"] == ["tests/fake"]
        assert reply.headers["Server"] == "gunicorn"


def test_a_setting_that_cannot_be_read_stops_the_start(fake_env: dict[str, str]) -> None:
    env = {**os.environ, **fake_env, "DEVICE": "toaster"}
    command = [sys.executable, "-m", "gunicorn", "app:app"]
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "DEVICE=toaster: must be cpu, cuda, cuda:N, mps or auto" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_model_file_that_cannot_be_read_stops_the_start(fake_env: dict[str, str]) -> None:
    Path(fake_env["MODEL_CONFIG"]).write_text("{")
    env = {**os.environ, **fake_env}
    command = [sys.executable, "-m", "gunicorn", "app:app"]
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "cannot be read as JSON" in ended.stderr


def exchange(port: int, *parts: bytes) -> bytes:
    """Send raw bytes and return the whole answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        for part in parts:
            try:
                sock.sendall(part)
            except (BrokenPipeError, ConnectionResetError):
                break
        answer = b""
        while True:
            try:
                chunk = sock.recv(65536)
            except ConnectionResetError:
                break
            answer += chunk
            if not chunk or b'"request_id"' in answer or b'"embeddings"' in answer:
                break
    return answer


@pytest.mark.fault("Malformed requests")
def test_bodies_over_the_limit_are_refused_on_the_wire(
    serve: Callable[..., str], fake_env: dict[str, str]
) -> None:
    """A body over the limit by its `Content-Length` -> the same on the wire."""
    url = serve(**fake_env, MAX_REQUEST_BYTES="4096")
    port = int(url.rpartition(":")[2])
    head = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    declared = exchange(port, head + b"Content-Length: 9000000\r\n\r\n" + b"x" * 1000)
    assert b" 413 " in declared.splitlines()[0]
    body = json.dumps({"texts": "x" * 9000}).encode()
    chunks = b"".join(
        f"{len(part):x}\r\n".encode() + part + b"\r\n"
        for part in (body[:3000], body[3000:6000], body[6000:])
    )
    chunked = exchange(port, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    assert b" 413 " in chunked.splitlines()[0]
    small = json.dumps({"texts": "x" * 900}).encode()
    part = f"{len(small):x}\r\n".encode() + small + b"\r\n0\r\n\r\n"
    fine = exchange(port, head + b"Transfer-Encoding: chunked\r\n\r\n" + part)
    assert b" 200 " in fine.splitlines()[0]


def test_sixty_four_clients_at_once_each_get_their_own_vectors(serve: Callable[..., str]) -> None:
    url = serve(EMBEDDING_DTYPE="float32", CACHE="none")
    texts = [f"sentence number {i} " + "padding " * (i % 40) for i in range(64)]
    alone = requests.post(f"{url}/embed", json={"texts": texts}, timeout=60).json()["embeddings"]

    def ask(i: int) -> bool:
        body = {"model": "minilm", "input": [texts[i], texts[-1 - i]]}
        data = requests.post(f"{url}/v1/embeddings", json=body, timeout=60).json()["data"]
        found = [row["embedding"] for row in data]
        return np.allclose(found, [alone[i], alone[-1 - i]], rtol=0, atol=1e-5)

    with ThreadPoolExecutor(64) as pool:
        assert all(pool.map(ask, list(range(64)) * 2))
