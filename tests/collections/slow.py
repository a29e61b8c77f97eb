"""The service with a model that takes its time, so that a re-embedding can be met under way."""

import time
from collections.abc import Sequence

from config import ModelSettings, ModelSpec, load_config
from embedders.base import Embedder, Encoded, Item
from embedders.fake import FakeEmbedder
from factory import create_app

PAUSE_S = 0.15  # for each pass of the model named slow


class Slow(FakeEmbedder):
    """Sleeps before each pass."""

    def encode(self, items: Sequence[Item], deadline: float | None = None) -> Encoded:
        time.sleep(PAUSE_S)
        return super().encode(items, deadline)


def build(spec: ModelSpec, settings: ModelSettings) -> Embedder:
    """Build `quick` with 8 dimensions and `slow` with 12."""
    return Slow(spec.id, 12) if spec.id == "slow" else FakeEmbedder(spec.id, 8)


def __getattr__(name: str):
    if name != "app":
        raise AttributeError(name)
    return create_app(load_config(), build=build)
