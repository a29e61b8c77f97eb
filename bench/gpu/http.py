"""The service over HTTP: gunicorn with several numbers of workers, and with the model process."""

import contextlib
import json
import os
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.corpus import OUT, Corpus, load
from bench.gpu.run import Run, passes_between, totals
from bench.gpu.shapes import folder_of
from bench.http import measure
from bench.processes import stat
from bench.servers import OURS, Running, Server, started

LOADS = ("batch32:64:base64", "batch32:64", "single:64", "single:1")
FEW_LOADS = ("batch32:2:base64", "single:1")
CLIENTS = 3  # processes that send, so that no client's core is the limit
STARTS_S = 20.0  # so long a service may take until it is ready


@dataclass(frozen=True)
class Way:
    """How the service is started."""

    name: str
    workers: int
    process: bool  # whether the models are in a process of their own
    model: str = "minilm"
    loads: tuple[str, ...] = LOADS[:1]

    @property
    def server(self) -> str:
        """What the server and its log are called."""
        kind = "process" if self.process else "alone"
        return f"gpu-{self.model}-{self.workers}-{kind}"


WAYS = (
    Way("1 worker", 1, False, loads=LOADS),
    Way("8 workers, model process", 8, True, loads=LOADS),
    Way("1 worker", 1, False, "bge-large"),
    Way("4 workers", 4, False),
    Way("8 workers", 8, False),
    Way("12 workers, model process", 12, True),
    Way("12 workers", 12, False),
    Way("4 workers, model process", 4, True),
)
FEW_WAYS = (
    Way("1 worker", 1, False, loads=FEW_LOADS),
    Way("2 workers, model process", 2, True, loads=FEW_LOADS),
)


def main(run: Run) -> None:
    """Record rates, times and use for each way and load."""
    corpus, refused = load(), 0
    for way in FEW_WAYS if run.small else WAYS:
        if run.has_time(f"{way.model}, {way.name}", STARTS_S / 2 + run.seconds):
            try:
                _one(run, way, corpus)
            except Exception as exc:  # one that does not start says nothing of the others
                run.record(way=way.name, model=way.model, refused=f"{exc}: {_log_of(way)[-400:]}")
                refused += 1
    if refused:
        raise SystemExit(f"{refused} ways did not serve")


def _one(run: Run, way: Way, corpus: Corpus) -> None:
    server = server_of(run, way)
    with started(server, run.end - time.monotonic()) as running:
        run.record(way=way.name, model=way.model, start_s=running.start_s)
        given = corpus if way.model == "minilm" else long_texts(corpus)
        for what in way.loads:
            if not run.has_time(f"{way.model}, {way.name}, {what}", 1.5 * run.seconds):
                return
            before, began = totals(scraped(running)), time.perf_counter()
            held = _model_process_s(running)
            with gpu_use(run) as use:
                found = measure(server, running, what, run.seconds, given, CLIENTS)
            took = time.perf_counter() - began
            passes = passes_between(before, totals(scraped(running)), took)
            (figures,) = found.pop("groups").values()
            run.record(
                way=way.name, model=way.model, load=what, **figures, **found, **passes,
                cores=found["server_cpu_s"] / took, gpu_use=use(),
                model_process_cores=(_model_process_s(running) - held) / took,
            )  # fmt: skip


def _model_process_s(running: Running) -> float:
    """Return the CPU seconds of the processes that hold models for the workers."""
    ticks = 0
    for pid in running.pids():
        with contextlib.suppress(OSError):  # it has just ended
            if b"serving.model_process" in Path(f"/proc/{pid}/cmdline").read_bytes():
                ticks += sum(map(int, stat(pid)[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def server_of(run: Run, way: Way, app: str = "app:app", **env: str) -> Server:
    """Return the service with one model, as this way starts it."""
    catalogue = run.data / f"{way.model}.json"
    folder = folder_of(way.model, run.data, run.device)
    entry = {"type": "sentence_transformer", "model_name": str(folder)}
    catalogue.write_text(json.dumps({"default": "it", "models": {"it": entry}}), encoding="utf-8")
    state = run.data / "state"
    given = {
        "HOST": "127.0.0.1", "PORT": "{port}", "DEVICE": run.device, "LOG_LEVEL": "WARNING",
        "MODEL_CONFIG": str(catalogue), "SUPPORTED_MODELS_FILE": str(state / "none"),
        "CACHE": "none", "MAX_WORKERS": str(way.workers), "STORE_DIR": str(state / "store"),
        "DATA_DIR": str(state / "data"), "EMBEDDING_DB_URL": f"sqlite:///{state}/service.db",
        "MODEL_PROCESS": "on" if way.process else "off", **env,
    }  # fmt: skip
    state.mkdir(exist_ok=True)
    command = (*OURS[:-1], app)
    return Server(way.server, command, "it", ready="/health/ready", env=given)


def scraped(running: Running) -> bytes:
    """Return the service's metrics."""
    url = f"http://127.0.0.1:{running.port}/metrics"
    with urllib.request.urlopen(url, timeout=30) as reply:  # on loopback  # nosec B310
        return bytes(reply.read())


def long_texts(corpus: Corpus) -> Corpus:
    """Return texts that all fill a model of 512 tokens, which cuts them."""
    joined = [" ".join(corpus.docs[at : at + 12]) for at in range(len(corpus.docs) // 2)]
    docs = joined[: len(joined) - len(joined) % 512]
    return replace(corpus, docs=docs, tokens={**corpus.tokens, **dict.fromkeys(docs, 512)})


@contextlib.contextmanager
def gpu_use(run: Run) -> Iterator[Any]:
    """Return a function that gives the share of time in which the GPU was busy, if that is told."""
    seen: list[int] = []
    done = threading.Event()

    def look() -> None:
        with contextlib.suppress(Exception):  # no driver's library, or one that refuses
            import pynvml

            pynvml.nvmlInit()
            gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
            while not done.wait(0.1):
                seen.append(pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu)

    thread = threading.Thread(target=look, daemon=True)
    if run.device == "cuda":
        thread.start()
    try:
        yield lambda: sum(seen) / len(seen) / 100 if seen else None
    finally:
        done.set()


def _log_of(way: Way) -> str:
    log = OUT / f"{way.server}.log"
    return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
