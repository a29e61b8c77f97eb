"""A real gunicorn of several workers and its model process, and callers who know their vectors."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from embedders.fake import FakeEmbedder
from server.master import RUN_DIR
from tests.conftest import ROOT, free_port, running, write_models
from tests.faults.conftest import NO_REPLY, Service, until
from tests.model_process.clients import Client, is_removed, processes_in

HOOKS = Path(__file__).parent / "hooks"
FAKE = FakeEmbedder(dimension=8, max_tokens=64)


class Box(Service):
    """One running gunicorn with its model processes."""

    held: Path  # while it is there no pass over a text that says `held` ends
    loading: Path  # what it says happens to who loads a model, as in `tests/faults/hurting.py`

    def model_processes(self) -> list[int]:
        """Return the pids of this service's model processes, whoever their parents are now."""
        ours, found = f"PORT={self.port}".encode(), []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes().split(b"\0")
                if b"serving.model_process" in command and (
                    ours in (folder / "environ").read_bytes().split(b"\0")
                ):
                    found.append(int(folder.name))
            except OSError:  # just gone
                continue
        return found

    def model_process(self) -> int:
        """Return the pid of the only model process."""
        (pid,) = self.model_processes()
        return pid

    def queued(self) -> float:
        """Return how many texts wait for the model."""
        return self.metric('embedding_queue_texts{lane="interactive",model="fake"}')

    def count(self, words: str) -> int:
        """Return how many lines of the log hold these words."""
        return sum(words in line for line in self.lines)

    def loads(self) -> int:
        """Return how often a model was loaded by a model process."""
        return self.count("the model process cpu loads ")

    def metric(self, series: str) -> float:
        """Return a series, by its name and labels as they are written, or 0."""
        lines = self.ask("/metrics")[2].decode().splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(series)), 0.0)

    def all_ready(self, workers: int) -> bool:
        """Say whether so many workers can encode, one after the other."""
        return self.count(" is ready in ") >= workers and self.healthy()


def right(text: str) -> np.ndarray:
    """Return the vector that the fake model has for a text."""
    vector = FAKE.vector(text)
    return vector / np.linalg.norm(vector)


class Callers:
    """Clients who embed texts of their own one after the other, and check each vector."""

    def __init__(self, box: Box, clients: int = 6) -> None:
        self.box, self.stopped = box, threading.Event()
        self.statuses: list[int] = []
        self.waits: list[str | None] = []  # the Retry-After of each 503
        self.wrong: list[object] = []
        self.lost: list[Exception] = []
        self.slowest_refusal_s = 0.0
        self.threads = [threading.Thread(target=self._run, args=(i,)) for i in range(clients)]

    def _run(self, number: int) -> None:
        sent = 0
        while not self.stopped.is_set():
            sent += 1
            texts = [f"caller {number} asks {sent} text {i}" for i in range(1 + sent % 3)]
            began = time.monotonic()
            try:
                status, headers, body = self.box.ask("/embed", {"texts": texts})
            except NO_REPLY as exc:
                self.lost.append(exc)
                continue
            self.statuses.append(status)
            if status == 200:
                given = json.loads(body)["embeddings"]
                if not np.allclose(given, [right(text) for text in texts], atol=1e-6):
                    self.wrong.append((texts, given))
                self.stopped.wait(0.03)  # or they take the CPU from what the test waits for
            else:
                self.waits.append(headers.get("Retry-After"))
                self.slowest_refusal_s = max(self.slowest_refusal_s, time.monotonic() - began)
                self.stopped.wait(0.05)

    def served(self, more: int = 20) -> None:
        """Wait until so many further requests were answered 200."""
        before = self.statuses.count(200)
        until(lambda: self.statuses.count(200) >= before + more)

    def __enter__(self) -> "Callers":
        for thread in self.threads:
            thread.start()
        self.served()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()


@contextmanager
def starting(folder: Path) -> Iterator[Callable[..., Box]]:
    file = write_models(folder / "m.json", {"fake": {"type": "fake", "model_name": "tests/fake"}})
    with ExitStack() as stack:

        def begin(*flags: str, app: str = "app:app", **env: str) -> Box:
            port = free_port()
            held, loading = folder / f"held-{port}", folder / f"loading-{port}"
            env = {
                "HOST": "127.0.0.1", "PORT": str(port), "MODEL_CONFIG": str(file),
                "SUPPORTED_MODELS_FILE": "/nonexistent", "THREADS": "16", "CACHE": "none",
                "PYTHONPATH": f"{HOOKS}{os.pathsep}{ROOT}", "HELD": str(held),
                "WHILE_LOADING": str(loading), **env,
            }  # fmt: skip
            command = [sys.executable, "-m", "gunicorn", *flags, app]
            box = Box(port, stack.enter_context(running(command, port, env)))
            box.held, box.loading = held, loading
            workers = int(flags[flags.index("-w") + 1])
            until(lambda: box.all_ready(workers))
            return box

        yield begin


@pytest.fixture
def boxes(tmp_path: Path) -> Iterator[Callable[..., Box]]:
    """Start gunicorn on a model that hurts its model process when told to, as often as asked."""
    with starting(tmp_path) as begin:
        yield begin


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """One for the tests of a file after which it is as it was."""
    with starting(tmp_path_factory.mktemp("box")) as begin:
        yield begin("-w", "2")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "run"
    made.mkdir(mode=0o700)
    monkeypatch.setenv(RUN_DIR, str(made))
    return made


@pytest.fixture
def clients(folder: Path) -> Iterator[Callable[..., Client]]:
    """Make clients; at the end all of them let go, and no process is left."""
    made: list[Client] = []

    def make(gpus: list[str] | None = None) -> Client:
        made.append(Client(gpus))
        return made[-1]

    yield make
    for each in made:
        each.close()
    until(lambda: is_removed(folder))  # as the master does: what nobody needs ends at once
    until(lambda: not processes_in(folder))
