"""The servers that can be measured: ours and its rivals, each started by one command.

A rival lives in a virtual environment of its own under `bench/out/`, made on its first use. None
of them may send usage data anywhere: their switches for that are set here.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench.corpus import OUT, model_folder
from bench.processes import below, stat

ROOT = Path(__file__).parent.parent
RIVALS = Path(__file__).parent / "rivals"
PYTHON = Path(sys.executable)
QUIET = {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
MODEL = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Server:
    """How a server is started and asked. `{port}` and `{model}` are filled in."""

    name: str
    command: tuple[str, ...]
    model: str
    path: str = "/v1/embeddings"
    ready: str = "/health"
    venv: str | None = None
    env: dict[str, str] = field(default_factory=dict)


def _infinity(engine: str, *more: str) -> tuple[str, ...]:
    return (
        "infinity_emb", "v2", "--model-id", "{model}", "--engine", engine, "--device", "cpu",
        "--port", "{port}", "--host", "127.0.0.1", "--url-prefix", "/v1", "--log-level", "warning",
        "--no-bettertransformer", "--served-model-name", "minilm", *more,
    )  # fmt: skip


# Of an exported model it would take the first token's state, whatever the folder says of pooling.
MEAN = ("--pooling-method", "mean")


OURS = ("{python}", "-m", "gunicorn", "app:app")
OWN_ENV = {"HOST": "127.0.0.1", "PORT": "{port}", "EMBEDDING_MODEL": MODEL, "LOG_LEVEL": "WARNING"}
# The loads come back to the same texts, and no rival remembers vectors: ours may not either.
OWN_ENV |= {"CACHE": "none"}
ONE_MODEL = {"SUPPORTED_MODELS": MODEL, "DEVICE": "cpu"}
SERVERS = {
    server.name: server
    for server in (
        Server("ours", OURS, MODEL, env=OWN_ENV | ONE_MODEL),
        Server("ours-float32", OURS, MODEL, env=OWN_ENV | ONE_MODEL | {"DTYPE": "float32"}),
        Server("infinity", _infinity("torch"), "minilm", venv="infinity", ready="/v1/models"),
        Server(
            "infinity-onnx", _infinity("optimum", *MEAN), "minilm", venv="infinity",
            ready="/v1/models",
        ),
        Server(
            "flask",
            ("{python}", "-m", "gunicorn", "-w", "1", "--threads", "64", "-b", "127.0.0.1:{port}",
             "bench.rivals.plain_flask:app"),
            "minilm",
        ),
    )
}  # fmt: skip


def prepare(server: Server) -> Path:
    """Return the server's Python; make its virtual environment first if there is none."""
    return PYTHON if server.venv is None else environment(server.venv)


def environment(name: str) -> Path:
    """Return the Python of a virtual environment of what `bench/rivals/<name>.txt` lists."""
    folder = OUT / name
    python = folder / "bin" / "python"
    listed, done = RIVALS / f"{name}.txt", folder / "installed.txt"
    if not done.exists() or done.read_text() != listed.read_text():
        OUT.mkdir(exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", listed], check=True)
        shutil.copy(listed, done)
    return python


def _model(server: Server) -> Path:
    """Return the model's folder; for ONNX a copy with an exported file."""
    if server.name != "infinity-onnx":
        return model_folder()
    folder = OUT / "onnx-model"
    if not (folder / "onnx" / "model.onnx").exists():
        shutil.copytree(model_folder(), folder, dirs_exist_ok=True)
        script = RIVALS / "export_onnx.py"
        subprocess.run([prepare(server), script, folder], check=True, env=os.environ | QUIET)
    return folder


@dataclass
class Running:
    """A started server and what it has used."""

    port: int
    process: subprocess.Popen[bytes]
    start_s: float

    def cpu_s(self) -> float:
        """CPU seconds of the server and its children so far."""
        ticks = 0
        for pid in self.pids():
            with suppress(OSError):  # it has just ended
                ticks += sum(map(int, stat(pid)[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_mb(self, what: str = "VmHWM") -> float:
        """Peak (`VmHWM`) or present (`VmRSS`) memory of the server and its children."""
        total = 0
        for pid in self.pids():
            with suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith(f"{what}:"):
                        total += int(line.split()[1])
        return total / 1024

    def pids(self) -> list[int]:
        """Return the server's process and all below it."""
        return [self.process.pid, *below(self.process.pid)]


@contextmanager
def started(server: Server, limit_s: float = 120) -> Iterator[Running]:
    """Run a server until the block ends; wait until it is ready."""
    python, model = prepare(server), _model(server)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    values = {"port": str(port), "model": str(model), "python": str(python)}
    command = [part.format(**values) for part in server.command]
    command[0] = command[0] if "/" in command[0] else str(python.parent / command[0])
    own = {key: value.format(**values) for key, value in server.env.items()}
    OUT.mkdir(exist_ok=True)
    log = (OUT / f"{server.name}.log").open("wb")
    began = time.monotonic()
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **QUIET, **own}, stdout=log, stderr=log
    )
    try:
        _wait(f"http://127.0.0.1:{port}{server.ready}", process, began + limit_s)
        yield Running(port, process, time.monotonic() - began)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def _wait(url: str, process: subprocess.Popen[bytes], end: float) -> None:
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}; see bench/out/*.log")
        try:
            with urllib.request.urlopen(url, timeout=5):  # on loopback  # nosec B310
                return
        except (OSError, urllib.error.HTTPError):
            time.sleep(0.02)
    raise RuntimeError(f"{url} did not answer in time")
