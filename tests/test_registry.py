"""Loading: tried for ever, checked before it serves, and what is shown of it meanwhile."""

import re
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from config import ModelSettings, ModelSpec
from embedders.base import DeviceBroken, Embedder, Encoded, Item
from embedders.fake import FakeEmbedder
from errors import ModelUnavailable
from observability import metrics
from serving import registry as loading
from serving.health import EXIT_CODE, unhealthy_reason, watch
from serving.registry import Registry
from tests.faults.conftest import until

SPEC = ModelSpec(id="shown", type="fake", model_name="tests/shown")
OTHER = ModelSpec(id="other", type="fake", model_name="tests/other")


class Broken(FakeEmbedder):
    """Weights that give no numbers, or a device that fails for good."""

    failure: Exception | None = None

    def encode(self, items: Sequence[Item], deadline: float | None = None) -> Encoded:
        if self.failure:
            raise self.failure
        encoded = super().encode(items)
        return Encoded.dense(np.full_like(encoded.vectors, np.nan), encoded.tokens)


@pytest.fixture
def serve() -> Iterator:
    made: list[Registry] = []

    def make(build, *specs: ModelSpec) -> Registry:
        made.append(Registry(specs or [SPEC], SPEC.id, ModelSettings(), build))
        return made[-1]

    yield make
    for registry in made:
        registry.stop()


def fake(spec: ModelSpec, settings: ModelSettings) -> Embedder:
    return FakeEmbedder(spec.model_name)


def shown(model: str, default: str = "true") -> str | None:
    series = f'embedding_model_ready{{default="{default}",model="{model}"}}'
    found = re.search(rf"^{re.escape(series)} (\S+)$", metrics.exposition().decode(), re.MULTILINE)
    return found[1] if found else None


@pytest.mark.fault("Models and devices")
def test_a_model_that_cannot_be_loaded_is_tried_for_ever(serve, monkeypatch) -> None:
    """A model cannot be loaded -> loading is retried for ever."""
    monkeypatch.setattr(loading, "RETRY_AFTER_S", (0.0, 0.001))
    tries = iter(range(5))

    def build(spec: ModelSpec, settings: ModelSettings) -> Embedder:
        if next(tries, None) is not None:
            raise ModelUnavailable("its folder is empty")
        return fake(spec, settings)

    registry = serve(build)
    registry.start()
    until(lambda: registry.default.state == "ready")


@pytest.mark.fault("Models and devices")
def test_a_model_that_gives_no_numbers_is_never_ready(serve) -> None:
    """A model gives vectors that are not finite -> it is never ready."""
    registry = serve(lambda spec, settings: Broken(spec.model_name))
    registry.load_now()
    assert unhealthy_reason(registry.default) == "its vectors hold numbers that are not finite"


def test_a_device_that_is_lost_while_a_model_loads_ends_the_process(serve) -> None:
    embedder = Broken("tests/shown")
    embedder.failure = DeviceBroken("CUDA error")
    registry = serve(lambda spec, settings: embedder)
    registry.load_now()
    ended: list[int] = []
    stop = watch(registry, ended.append)
    until(lambda: ended)
    stop.set()
    assert ended == [EXIT_CODE]


def test_what_is_shown_of_a_model_follows_it_from_its_loading_to_its_leaving(serve) -> None:
    go_on = threading.Event()

    def build(spec: ModelSpec, settings: ModelSettings) -> Embedder:
        assert go_on.wait(90)
        return fake(spec, settings)

    registry = serve(build)
    stop = watch(registry, lambda code: None)
    registry.start()
    until(lambda: shown("shown") == "0.0")  # while it loads
    go_on.set()
    until(lambda: shown("shown") == "1.0")
    registry.prepare([OTHER, SPEC], "other", ModelSettings()).commit()
    until(lambda: (shown("other"), shown("shown"), shown("shown", "false")) == ("1.0", None, "1.0"))
    registry.prepare([OTHER], "other", ModelSettings()).commit()
    until(lambda: (shown("other"), shown("shown", "false")) == ("1.0", None))
    stop.set()


def test_a_model_whose_passes_fail_is_not_shown_as_ready(serve) -> None:
    embedder = Broken("tests/shown")
    registry = serve(lambda spec, settings: FakeEmbedder(spec.model_name))
    registry.load_now()
    stop = watch(registry, lambda code: None)
    until(lambda: shown("shown") == "1.0")
    loaded = registry.default.loaded
    embedder.failure = RuntimeError("it refuses")
    loaded.embedder.encode = embedder.encode
    with pytest.raises(Exception, match="cannot encode"):
        loaded.encoder.encode(
            loaded.embedder.prepare(["a"], loaded.embedder.prompt(None, None), "right")
        )
    until(lambda: shown("shown") == "0.0")
    stop.set()


def test_a_replica_that_does_not_load_leaves_the_others_serving(serve) -> None:
    def build(spec: ModelSpec, settings: ModelSettings) -> Embedder:
        if spec.device == "cuda:0":
            raise ModelUnavailable("the device is not there")
        return fake(spec, settings)

    spec = SPEC.model_copy(update={"devices": ("cuda:0", "cpu", "cpu")})
    registry = serve(build, spec)
    registry.load_now()
    assert unhealthy_reason(registry.default) is None
    rows = registry.default.replicas
    until(lambda: [row["status"] for row in registry.default.replicas] == ["up", "up", "down"])
    assert rows[2]["name"] == "cuda:0#0" and rows[2]["reason"] == "the device is not there"
    registry.default.loaded.encoder.close()


@pytest.mark.parametrize("elsewhere", [(), ("http://127.0.0.1:1/v1",)])
def test_a_model_none_of_whose_own_replicas_loads_is_unavailable_with_its_reason(
    serve, elsewhere: tuple[str, ...]
) -> None:
    """A copy elsewhere can stand in for one that is here, and not for none."""

    def build(spec: ModelSpec, settings: ModelSettings) -> Embedder:
        if spec.base_url is None:
            raise ModelUnavailable("the device is not there")
        return fake(spec, settings)

    places = {"devices": ("cuda:0", "cuda:1"), "base_urls": elsewhere}
    registry = serve(build, SPEC.model_copy(update=places))
    registry.load_now()
    assert registry.default.reason == "the device is not there"
