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
QUIET = {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0",
         "ORT_DISABLE_TELEMETRY": "1"}  # fmt: skip
MODEL = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Server:
    """How a server is started and asked. `{port}` and `{model}` are filled in.

    `exported` is the dtype of an exported file, where the server reads one in place of the model.
    """

    name: str
    command: tuple[str, ...]
    model: str
    path: str = "/v1/embeddings"
    ready: str = "/health"
    venv: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    exported: str | None = None


def _infinity(engine: str, *more: str) -> tuple[str, ...]:
    return (
        "infinity_emb", "v2", "--model-id", "{model}", "--engine", engine, "--device", "cpu",
        "--port", "{port}", "--host", "127.0.0.1", "--url-prefix", "/v1", "--log-level", "warning",
        "--no-bettertransformer", "--served-model-name", "minilm", *more,
    )  # fmt: skip


# Of an exported model it would take the first token's state, whatever the folder says of pooling.
MEAN = ("--pooling-method", "mean")


FLASK = ("{python}", "-m", "gunicorn", "-w", "1", "--threads", "64", "-b", "127.0.0.1:{port}")
BARE = (*FLASK, "bench.rivals.bare_session:app")
BARE_ENV = {"ONNX_MODEL": "{model}"}
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
        Server("ours-int8", OURS, MODEL, env=OWN_ENV | ONE_MODEL | {"DTYPE": "int8"}),
        Server("infinity", _infinity("torch"), "minilm", venv="infinity", ready="/v1/models"),
        Server(
            "infinity-onnx", _infinity("optimum", *MEAN), "minilm", venv="infinity",
            ready="/v1/models", exported="float32",
        ),
        Server("flask", (*FLASK, "bench.rivals.plain_flask:app"), "minilm"),
        Server("ort", BARE, "minilm", env=BARE_ENV, exported="float32"),
        Server("ort-int8", BARE, "minilm", env=BARE_ENV, exported="int8"),
    )
}  # fmt: skip


def prepare(server: Server) -> tuple[Path, Path]:
    """Return the server's Python and its model's folder; what is not there is made first."""
    python = PYTHON if server.venv is None else environment(server.venv)
    return python, exported(server.exported) if server.exported else model_folder()


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


def exported(dtype: str) -> Path:
    """Return a copy of the model's folder with `onnx/model.onnx` in it; export it first if needed.

    Each dtype has its own folder: Infinity would take a quantized file that lies beside another.
    """
    folder = OUT / f"onnx-{dtype}"
    if not folder.exists():
        making = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(making, ignore_errors=True)
        shutil.copytree(model_folder(), making)
        script = RIVALS / "export_onnx.py"
        command = [str(PYTHON), "-W", "ignore", str(script), str(making), dtype]
        subprocess.run(command, check=True, env=os.environ | QUIET, stdout=subprocess.DEVNULL)
        making.rename(folder)  # one that is there is whole
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
    python, model = prepare(server)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    values = {"port": str(port), "model": str(model), "python": str(python)}
    command = [part.format(**values) for part in server.command]
    command[0] = command[0] if "/" in command[0] else str(python.parent / command[0])
    own = {key: value.format(**values) for key, value in server.env.items()}
    OUT.mkdir(exist_ok=True)
    log_file = OUT / f"{server.name}.log"
    log = log_file.open("wb")
    began = time.monotonic()
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **QUIET, **own}, stdout=log, stderr=log
    )
    try:
        _wait(f"http://127.0.0.1:{port}{server.ready}", process, log_file, began + limit_s)
        yield Running(port, process, time.monotonic() - began)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path, end: float) -> None:
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):  # on loopback  # nosec B310
                return
        except (OSError, urllib.error.HTTPError):
            time.sleep(0.02)
    code = process.poll()
    why = "was not ready in time" if code is None else f"ended with {code}"
    said = " ".join(log.read_text(errors="replace").split())
    raise RuntimeError(f"the server {why}: {said[-300:]}")
