"""Fake models with a size, that load when they are let, and a registry of them."""

import threading
import time
from collections.abc import Sequence

from config import Config, ModelSettings, ModelSpec
from embedders.base import Embedder, Encoded, Facts, Gone, Item
from embedders.fake import FakeEmbedder
from errors import ModelUnavailable
from serving.registry import Registry

MB = 1 << 20


def entry(name: str, **given: object) -> ModelSpec:
    """Return a model that has an id of one letter."""
    return ModelSpec.model_validate(
        {"id": name, "type": "fake", "model_name": f"tests/{name}", "dimensions": 8, **given}
    )


class Sized(FakeEmbedder):
    """A fake that says when it is closed, and whose passes may be held."""

    def __init__(self, spec: ModelSpec, house: "House") -> None:
        super().__init__(spec.model_name + house.version.get(spec.id, ""), 8, 64)
        self.name, self.house, self.is_closed = spec.id, house, False

    def encode(
        self, items: Sequence[Item], deadline: float | None = None, gone: Gone | None = None
    ) -> Encoded:
        """Encode, and fail where the model is closed already."""
        assert not self.is_closed, "a closed model was used"
        if any("held" in str(item.payload) for item in items):
            self.house.inside.set()
            assert self.house.go_on.wait(60)
        time.sleep(self.house.pass_s)
        assert not self.is_closed, "a model was closed while it was used"
        return super().encode(items)

    def close(self) -> None:
        """Count it as gone."""
        with self.house.lock:
            self.is_closed = True
            self.house.living.remove(self.name)


class House:
    """Builds sized fakes of 10 MB each, and counts what is alive at one time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.living: list[str] = []
        self.most = 0  # at one time
        self.built: list[str] = []
        self.broken: dict[str, str] = {}
        self.version: dict[str, str] = {}  # of a model's files
        self.loads, self.inside, self.go_on = (threading.Event() for _ in range(3))
        self.loads.set()
        self.go_on.set()
        self.pass_s = 0.0
        self.sizes: dict[str, int | None] = {}

    def __call__(self, spec: ModelSpec, settings: ModelSettings) -> Embedder:
        """Build a model, once `loads` is set."""
        with self.lock:
            self.built.append(spec.id)
        assert self.loads.wait(60)
        if reason := self.broken.get(spec.id):
            raise ModelUnavailable(reason)
        with self.lock:
            self.living.append(spec.id)
            self.most = max(self.most, len(self.living))
        return Sized(spec, self)

    def size(
        self, spec: ModelSpec, settings: ModelSettings, facts: Facts | None = None
    ) -> int | None:
        """Return a model's size."""
        return self.sizes.get(spec.id, 10 * MB)

    def registry(self, *specs: ModelSpec, default: str = "a", **settings: object) -> Registry:
        """Return a registry of these models, loaded as at the start."""
        made = Registry(
            specs, default, Config.model_validate(settings), self, self.size
        )  # fmt: skip
        made.load_now()
        return made
