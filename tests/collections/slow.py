"""The service with a model that may be held, so that a re-embedding is met under way."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from config import ModelSettings, ModelSpec, load_config
from embedders.base import Embedder, Encoded, Item
from embedders.fake import FakeEmbedder
from factory import create_app

# A file: the model named slow encodes as many texts as it says in each process, and then waits
# until it says more or is gone.
TEXTS_ALLOWED = Path(os.environ.get("TEXTS_ALLOWED", "/nonexistent"))


class Slow(FakeEmbedder):
    """Waits for leave before each pass."""

    made = 0

    def encode(self, items: Sequence[Item], deadline: float | None = None) -> Encoded:
        while self.made >= allowed():
            time.sleep(0.02)
        self.made += len(items)
        return super().encode(items, deadline)


def allowed() -> float:
    """Return how many texts may be encoded; none while the file is being written."""
    try:
        return int(TEXTS_ALLOWED.read_text() or 0)
    except FileNotFoundError:
        return float("inf")


def build(spec: ModelSpec, settings: ModelSettings) -> Embedder:
    """Build `quick` with 8 dimensions and `slow` with 12."""
    return Slow(spec.id, 12) if spec.id == "slow" else FakeEmbedder(spec.id, 8)


def __getattr__(name: str):
    if name != "app":
        raise AttributeError(name)
    return create_app(load_config(), build=build)
