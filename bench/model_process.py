"""What one model process for many workers costs, with a model that costs nothing.

`python -m bench.model_process` prints CPU milliseconds a request in the workers and in the model
process, for 32 texts of 60 tokens answered as base64, with 1 worker in one process, and with 1 and
4 workers before a model process; and how long a lone request of one text takes in each.
"""

import argparse
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from bench.corpus import load, model_folder
from embedders.base import Embedder, Encoded, Facts, Gone, Input, Item, Prompt, Truncate
from embedders.tokens import Limits, TextTokenizer
from tests.servers.process import free_port

ROOT = Path(__file__).parents[1]
DIMENSION, TEXTS, TOKENS = 384, 32, 60
IDLE_S = 8.0
ROWS = np.random.default_rng(0).standard_normal((4096, DIMENSION)).astype(np.float32)
# Each Python of the measured service imports this at its start: the fake model is the null model.
HOOK = """
import sys
if {"serving.model_process", "gunicorn"} & set(sys.orig_argv):
    import embedders
    from bench.model_process import Null
    embedders.EMBEDDERS["fake"] = lambda spec, settings: Null()
"""


class Null(Embedder):
    """Tokenizes as MiniLM does, and returns rows at once."""

    pads, pass_tokens, pass_items = False, 16_384, 4096

    def __init__(self) -> None:
        tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
        self.preparer = self._tokenizer = TextTokenizer(tokenizer, Limits(256), 30_522)
        self.facts = Facts(DIMENSION, 256, "cpu", "float32", "0" * 16, vocabulary=30_522)

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Return token ids."""
        return self._tokenizer.prepare(inputs, prompt, truncate)

    def encode(
        self, items: Sequence[Item], deadline: float | None = None, gone: Gone | None = None
    ) -> Encoded:
        """Return rows that are always the same."""
        return Encoded.dense(ROWS[: len(items)].copy(), [item.tokens for item in items])


@contextmanager
def service(workers: int, mode: str) -> Iterator[tuple[int, int]]:
    """A gunicorn on the null model; gives its port and pid."""
    port = free_port()
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, "sitecustomize.py").write_text(HOOK)
        models = {"models": {"null": {"type": "fake", "model_name": "null"}}}
        Path(scratch, "models.json").write_text(json.dumps(models))
        environment = {
            **os.environ, "PYTHONPATH": f"{scratch}{os.pathsep}{ROOT}", "MODEL_PROCESS": mode,
            "MODEL_CONFIG": f"{scratch}/models.json", "SUPPORTED_MODELS_FILE": "/nonexistent",
            "DATA_DIR": f"{scratch}/data", "STORE_DIR": f"{scratch}/store", "CACHE": "none",
            "EMBEDDING_DB_URL": f"sqlite:///{scratch}/service.db", "LOG_LEVEL": "ERROR",
            "HOST": "127.0.0.1", "PORT": str(port),
        }  # fmt: skip
        command = [sys.executable, "-m", "gunicorn", "-w", str(workers), "app:app"]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
        try:
            for _ in range(8 * workers):  # whichever worker answers, it is ready
                ready(port)
            yield port, process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def ready(port: int, limit_s: float = 120) -> None:
    """Wait until a new connection is answered that the service is healthy."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise TimeoutError("the service is not healthy")


def cpu_ms(pids: Sequence[int]) -> float:
    """Return the CPU time of processes so far."""
    ticks = 0
    for pid in pids:
        row = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(row[11]) + int(row[12])
    return 1000 * ticks / os.sysconf("SC_CLK_TCK")


def processes(master: int, port: int) -> tuple[list[int], list[int]]:
    """Return the pids of a service's workers and of its model processes."""
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    workers = [int(pid) for pid in children]
    hosts = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            command = (each / "cmdline").read_bytes().split(b"\0")
            environment = (each / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"serving.model_process" in command and f"PORT={port}".encode() in environment:
            hosts.append(int(each.name))
    return workers, hosts


def ask(port: int, bodies: Sequence[bytes], count: int, took_ms: list[float]) -> None:
    """Send requests one after the other on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for i in range(count):
        began = time.perf_counter()
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/embeddings", bodies[i % len(bodies)], headers)
        reply = connection.getresponse()
        body = reply.read()
        if reply.status != 200:
            raise RuntimeError(f"{reply.status}: {body[:200]!r}")
        took_ms.append(1000 * (time.perf_counter() - began))


def measure(workers: int, mode: str, requests: int, clients: int) -> dict[str, float]:
    """Return the costs of one way to serve."""
    corpus = load()
    near = [text for text in corpus.docs if abs(corpus.tokens[text] - TOKENS) <= 5]
    large = [
        json.dumps({"model": "null", "input": near[i : i + TEXTS], "encoding_format": "base64"})
        for i in range(0, len(near) - TEXTS, TEXTS)
    ]
    bodies = [body.encode() for body in large]
    lone = [json.dumps({"model": "null", "input": text}).encode() for text in corpus.queries[:64]]
    with service(workers, mode) as (port, master):
        pids, hosts = processes(master, port)
        ask(port, bodies, 40, [])
        # What they cost without requests (heartbeats, health) is not a request's cost.
        before, host_before = cpu_ms(pids), cpu_ms(hosts)
        time.sleep(IDLE_S)
        idle, host_idle = cpu_ms(pids) - before, cpu_ms(hosts) - host_before
        before, host_before = cpu_ms(pids), cpu_ms(hosts)
        threads = [
            threading.Thread(target=ask, args=(port, bodies, requests // clients, []))
            for _ in range(clients)
        ]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took_s = time.perf_counter() - began
        sent = requests // clients * clients
        worker_ms = (cpu_ms(pids) - before - idle * took_s / IDLE_S) / sent
        host_ms = (cpu_ms(hosts) - host_before - host_idle * took_s / IDLE_S) / sent
        alone_ms: list[float] = []
        ask(port, lone, 50, [])
        ask(port, lone, 400, alone_ms)
    return {
        "worker_cpu_ms": round(worker_ms, 3), "model_process_cpu_ms": round(host_ms, 3),
        "idle_cpu_ms_per_s": round((idle + host_idle) / IDLE_S, 1),
        "requests_per_s": round(sent / took_s, 1),
        "lone_ms_p50": round(statistics.median(alone_ms), 3),
        "lone_ms_p10": round(statistics.quantiles(alone_ms, n=10)[0], 3),
    }  # fmt: skip


def main() -> None:
    """Measure each way and print its figures, one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=4)
    given = parser.parse_args()
    for workers, mode in ((1, "off"), (1, "on"), (4, "on")):
        found = measure(workers, mode, given.requests, given.clients)
        print(json.dumps({"workers": workers, "model_process": mode, **found}), flush=True)


if __name__ == "__main__":
    main()
