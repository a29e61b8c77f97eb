"""A host in a thread of the test, and how to talk to it by hand."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from config import Config, ModelSpec
from config.serving import Lane
from embedders.base import Prompt
from embedders.fake import FakeEmbedder
from server.peers import connected
from serving.model_process.embedder import settings_of
from serving.model_process.folder import code_version, socket_path
from serving.model_process.frames import Connection, raise_error
from serving.model_process.host import Host
from serving.model_process.values import pack_items, unpack_encoded

FAKE = ModelSpec(id="fake", type="fake", model_name="tests/fake", dimensions=8, max_seq_length=64)
RIGHT = FakeEmbedder("tests/fake", 8, 64)


@contextmanager
def hosted(folder: Path, code: int = 0) -> Iterator[Host]:
    """A host that serves from a thread until the block ends, and then ends with this code."""
    codes: list[int] = []
    host = Host(folder, "cpu", end=codes.append)
    thread = threading.Thread(target=host.serve)
    thread.start()
    try:
        yield host
    finally:
        host.stop()
        thread.join(30)
    assert codes == [code]


class Worker:
    """One connection to a host, as a worker has many."""

    def __init__(self, folder: Path) -> None:
        self.connection = Connection(connected(socket_path(folder, "cpu")))
        self.model = ""

    def call(self, operation: str, head: dict[str, Any], *parts: Any) -> Any:
        """Return the reply; raise the error that it is."""
        reply, rows = self.connection.call(operation, head, *parts)
        raise_error(reply)
        return reply, rows

    def hello(self, version: str = "") -> int:
        """Return the host's pid."""
        return int(self.call("hello", {"version": version or code_version()})[0]["pid"])

    def load(self, spec: ModelSpec = FAKE, **settings: Any) -> str:
        """Lease a model and return its name there."""
        head = {"spec": spec.model_dump(mode="json"), "stamp": [],
                "settings": settings_of(Config(**settings))}  # fmt: skip
        self.model = str(self.call("load", head)[0]["model"])
        return self.model

    def encode(
        self, texts: Sequence[str], deadline: float | None = None, model: str = "",
        lane: Lane = "interactive",
    ) -> Any:  # fmt: skip
        """Return the vectors of texts."""
        items = RIGHT.prepare(list(texts), Prompt(), "right")
        head, parts = pack_items([replace(item, lane=lane) for item in items])
        head |= {"model": model or self.model, "deadline": deadline}
        return unpack_encoded(*self.call("encode", head, *parts)).vectors

    def status(self) -> dict[str, Any]:
        """Return how the host's models are."""
        models: dict[str, Any] = self.call("status", {})[0]["models"]
        return models

    def close(self) -> None:
        """Hang up."""
        self.connection.close()


def right(texts: Sequence[str]) -> np.ndarray:
    """The fake model's vectors of texts."""
    return np.stack([RIGHT.vector(text) for text in texts])
