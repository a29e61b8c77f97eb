"""Workers' ways to real model processes, without a web server around them."""

import shutil
from pathlib import Path

import numpy as np

import embedders
from config import Config, ModelSpec
from embedders.base import Embedder, Prompt
from errors import Unavailable
from serving.encoder import Encoder
from serving.loader import build_model
from serving.model_process.embedder import ProcessEmbedder
from serving.model_process.processes import Processes
from tests.model_process.hand import FAKE


class Client:
    """One worker's processes, with the models it loaded."""

    def __init__(self, gpus: list[str] | None = None) -> None:
        self.processes = Processes(gpus or [])
        self.build = self.processes.build(embedders.build)
        self.loaded: list[Encoder] = []

    def load(self, spec: ModelSpec = FAKE, **settings: object) -> ProcessEmbedder:
        embedder = self.encoder(spec, **settings).embedder
        assert isinstance(embedder, ProcessEmbedder)
        return embedder

    def encoder(self, spec: ModelSpec = FAKE, **settings: object) -> Encoder:
        self.loaded.append(build_model(spec, Config(**settings), self.build).encoder)
        return self.loaded[-1]

    def close(self) -> None:
        for each in self.loaded:
            each.close()
        self.processes.close()


def pid_of(embedder: ProcessEmbedder) -> int:
    """The model process of an embedder."""
    pid = embedder.process.pid
    assert pid is not None
    return pid


def encode(embedder: Embedder, *texts: str, deadline: float | None = None) -> np.ndarray:
    return embedder.encode(embedder.prepare(texts, Prompt(), "right"), deadline).vectors


def is_up(embedder: Embedder) -> bool:
    try:
        encode(embedder, "a")
    except Unavailable:
        return False
    return True


def is_removed(folder: Path) -> bool:
    """Remove a folder, unless a process that starts just writes there."""
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def processes_in(folder: Path) -> list[int]:
    """The model processes of a folder, by their command lines."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            command = (each / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"serving.model_process" in command and str(folder).encode() in command:
            found.append(int(each.name))
    return found
