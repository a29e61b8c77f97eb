"""Models that fail on a GPU while they are loaded or exchanged: told, ended, and let go of."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from config import ModelSettings, ModelSpec
from embedders import loading
from embedders.base import Embedder, Item, Vectors
from embedders.device import DeviceEmbedder
from errors import Invalid, ModelUnavailable, ServiceError
from factory import create_app
from serving import registry as registries
from serving.checks import check
from serving.health import EXIT_CODE, watch
from serving.loader import reason_of
from serving.registry import Registry
from tests.faults.conftest import until
from tests.gpu.simulated import Simulated, accelerator, full, lost, odd

A, B = (ModelSpec(id=n, type="fake", model_name=f"tests/{n}") for n in "ab")
SETTINGS = ModelSettings()


def refuse(exc: Exception) -> Any:
    raise exc


def wrapped(exc: Exception) -> Any:
    """Raise what a model's loader makes of what torch raised."""
    try:
        raise exc
    except Exception as cause:
        raise ModelUnavailable(f"'b' cannot be loaded: {cause}") from cause


# -- a device that is lost while a model loads (B6) ------------------------------------------------


def end_of(registry: Registry, settled: Callable[[], object] = lambda: None) -> list[int]:
    """Watch a registry until it ends its process."""
    codes: list[int] = []
    stop = watch(registry, codes.append, settled=settled)
    until(lambda: codes)
    stop.set()
    return codes


@pytest.mark.fault("Models and devices")
@pytest.mark.parametrize("fails", [refuse, wrapped])
def test_a_device_that_is_lost_while_a_model_is_built_ends_the_worker(fails) -> None:
    """The device is lost while a model is built -> the worker ends."""
    registry = Registry([A], "a", ModelSettings(), lambda spec, settings: fails(lost()))
    registry.load_now()
    assert "a: the model's device is lost" in str(registry.lost)
    registry.tried.set()
    settled: list[int] = []
    assert end_of(registry, lambda: settled.append(1)) == [EXIT_CODE]
    assert not settled, "it died while it loaded: its successor waits before it does so again"


@pytest.mark.parametrize("fails", [refuse, wrapped])
@pytest.mark.parametrize("failure", [full, odd])
def test_another_failure_while_a_model_is_built_leaves_the_worker(fails, failure) -> None:
    registry = Registry([A], "a", ModelSettings(), lambda spec, settings: fails(failure()))
    registry.load_now()
    assert registry.lost is None and registry.default.state == "unavailable"


def test_a_device_that_is_lost_at_the_check_ends_the_worker_though_nothing_can_be_freed_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Simulated()
    model.raises["a"] = lost  # one of the texts that a model is tried with
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: refuse(lost()))
    registry = Registry([A], "a", ModelSettings(), lambda spec, settings: model)
    registry.load_now()
    assert model.weights is None, "it was closed"
    assert end_of(registry) == [EXIT_CODE]


def test_it_is_known_to_be_lost_before_anything_else_is_tried_on_it() -> None:
    class Stubborn(Simulated):
        def close(self) -> None:
            raise lost()

    model = Stubborn()
    model.raises["a"] = lost
    registry = Registry([A], "a", ModelSettings(), lambda spec, settings: model)
    registry.load_now()
    assert registry.lost


def test_a_device_that_is_lost_during_an_exchange_ends_the_worker() -> None:
    made = iter([Simulated(), lost()])

    def build(spec: ModelSpec, settings: ModelSettings) -> Embedder:
        model = next(made)
        return model if isinstance(model, Embedder) else refuse(model)

    registry = Registry([A], "a", ModelSettings(), build)
    registry.load_now()
    with pytest.raises(Invalid, match="device-side assert"):
        registry.prepare([B], "b", SETTINGS)
    assert registry.default.spec is A
    assert end_of(registry) == [EXIT_CODE]


def test_the_service_says_that_its_device_is_lost_while_it_loads(config_of) -> None:
    app = create_app(config_of(), build=lambda spec, settings: wrapped(lost()), wait=True)
    reply = app.test_client().post("/embed", json={"texts": ["a"]})
    assert reply.status_code == 503 and "device-side assert" in reply.json["error"]


# -- what a refused exchange leaves (B10) ----------------------------------------------------------


@pytest.fixture
def uncollected(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No garbage is collected: what is part of a cycle stays."""
    monkeypatch.setattr(registries, "give_back_memory", lambda: None)
    monkeypatch.setattr("embedders.device.give_back_memory", lambda: None)
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Refs(list):
    """Weak references to what must be gone."""

    def add(self, thing: Any) -> Any:
        self.append(weakref.ref(thing))
        return thing

    @property
    def alive(self) -> list[Any]:
        return [ref() for ref in self if ref() is not None]


def apart(refs: Refs) -> Embedder:
    """Fail as a local model does while its network is moved."""
    weights = refs.add(torch.ones(1000))

    def move() -> Embedder:
        states = refs.add(torch.ones(1000) * weights)
        assert len(states) == 1000
        raise full()

    return loading.apart(move)


def with_numbers_that_are_none(refs: Refs) -> Embedder:
    """Build a model that is refused by the check."""

    class Wrong(Simulated):
        def _forward(self, items: Sequence[Item]) -> Vectors:
            return np.full((len(items), 8), np.nan, np.float32)

        def _forward_exactly(self, items: Sequence[Item]) -> Vectors:
            return self._forward(items)

    model = refs.add(Wrong())
    refs.add(model.weights)
    return model


def that_cannot_encode(refs: Refs) -> Embedder:
    """Build a model that fails at the check, with what its pass has made."""

    class Failing(Simulated):
        def _forward(self, items: Sequence[Item]) -> Vectors:
            refs.add(torch.ones(1000))
            raise full()

    model = refs.add(Failing())
    refs.add(model.weights)
    return model


@pytest.fixture
def refused() -> Callable[..., tuple[Registry, Refs]]:
    """Try to exchange a model that serves for one that is refused."""

    def run(make: Callable[[Refs], Embedder], spec: ModelSpec = B) -> tuple[Registry, Refs]:
        refs = Refs()

        def build(wanted: ModelSpec, settings: ModelSettings) -> Embedder:
            return Simulated() if wanted.id == "a" else make(refs)

        registry = Registry([A], "a", ModelSettings(), build)
        registry.load_now()
        with pytest.raises(Invalid):
            registry.prepare([spec], "b", SETTINGS)
        assert refs, "nothing was made that could stay"
        assert registry.default.loaded.embedder.weights is not None
        return registry, refs

    return run


WAYS = [apart, with_numbers_that_are_none, that_cannot_encode]


@pytest.mark.fault("Models and devices")
@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("make", WAYS)
def test_a_refused_exchange_leaves_nothing_held_not_even_until_a_collection(refused, make) -> None:
    """A model swap is refused because memory is short -> no memory of the new model stays
    allocated.
    """
    _, refs = refused(make)
    assert not refs.alive


@pytest.mark.usefixtures("uncollected")
def test_a_refused_exchange_lets_go_of_the_models_that_were_loaded_for_it() -> None:
    refs = Refs()
    changed = A.model_copy(update={"model_name": "tests/changed"})

    def build(wanted: ModelSpec, settings: ModelSettings) -> Embedder:
        if wanted.id == "b":
            raise full()
        model = Simulated()
        if wanted.model_name == changed.model_name:
            refs.add(refs.add(model).weights)
        return model

    registry = Registry([A], "a", ModelSettings(), build)
    registry.load_now()
    with pytest.raises(Invalid):
        registry.prepare([changed, B], "b", SETTINGS)
    assert len(refs) == 2 and not refs.alive


@pytest.mark.usefixtures("uncollected")
def test_nor_does_one_to_a_model_of_several_places_none_of_which_it_loads_at(refused) -> None:
    _, refs = refused(apart, B.model_copy(update={"devices": ("cuda:0", "cuda:1")}))
    assert len(refs) == 4 and not refs.alive


@pytest.mark.usefixtures("uncollected")
def test_a_place_where_a_model_does_not_load_holds_nothing_while_it_serves_elsewhere() -> None:
    refs = Refs()

    def build(wanted: ModelSpec, settings: ModelSettings) -> Embedder:
        return Simulated() if wanted.device == "cuda:0" else apart(refs)

    spec = A.model_copy(update={"devices": ("cuda:0", "cuda:1")})
    registry = Registry([spec], "a", ModelSettings(), build)
    registry.load_now()
    assert registry.default.state == "ready" and refs and not refs.alive
    registry.default.loaded.encoder.close()


def test_a_refused_exchange_collects_the_garbage_that_a_library_leaves(refused) -> None:
    def cyclic(refs: Refs) -> Embedder:
        kept: list[Any] = [refs.add(torch.ones(1000))]
        kept.append(kept)
        raise full()

    gc.disable()
    try:
        _, refs = refused(cyclic)
        assert not refs.alive
    finally:
        gc.enable()


def test_a_refused_exchange_gives_the_gpus_memory_back(
    refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    emptied: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    refused(apart)
    assert emptied


@pytest.mark.usefixtures("uncollected")
def test_a_request_that_failed_holds_no_model() -> None:
    """Its error's traceback leads through the frames of its pass."""
    registry = Registry([A], "a", ModelSettings(), lambda spec, settings: Simulated())
    registry.load_now()
    loaded = registry.default.loaded
    items = loaded.embedder.prepare(["odd"], loaded.embedder.prompt(None, None), "right")
    with pytest.raises(ServiceError, match="cuda:0"):
        loaded.encoder.encode(items)
    held = weakref.ref(loaded)
    registry.default.held = None
    del loaded
    assert held() is None


# -- closing (B12) ---------------------------------------------------------------------------------


def test_closing_frees_the_weights_and_gives_the_gpus_memory_back(monkeypatch) -> None:
    emptied: list[bool] = []
    model = Simulated()
    weights = weakref.ref(model.weights)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(weights() is None))
    model.close()
    assert emptied == [True], "first the weights, then the cache"


def test_closing_on_a_lost_device_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stubborn(Simulated):
        def _release(self) -> None:
            raise lost()

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: refuse(lost()))
    Stubborn().close()


def test_an_embedder_without_weights_can_be_closed() -> None:
    class Least(DeviceEmbedder):
        _device = torch.device("cpu")

    Least().close()


# -- reasons ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exc", "said"),
    [
        (ModelUnavailable("its folder is empty"), "its folder is empty"),
        (KeyError("a"), "it failed to load (KeyError: there is no 'a')"),
        (RuntimeError("one\ntwo"), "it failed to load (RuntimeError: one)"),
        (RuntimeError(), "it failed to load (RuntimeError)"),
        (RuntimeError("x" * 999), f"it failed to load (RuntimeError: {'x' * 200})"),
    ],
)
def test_why_a_model_did_not_load_is_said_in_one_line(exc: Exception, said: str) -> None:
    assert reason_of(exc) == said


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (lambda: KeyError("sentence_embedding"), "(KeyError: there is no 'sentence_embedding')"),
        (full, "(OutOfMemory: the memory is full)"),
        (lambda: accelerator("CUDA error: misaligned address", 716), "misaligned address"),
        (lambda: ModelUnavailable("its files are gone"), "(its files are gone)"),
    ],
)
def test_why_a_model_cannot_encode_is_said_by_the_check(failure, said: str) -> None:
    model = Simulated()
    model.raises["a"] = failure
    with pytest.raises(ModelUnavailable) as refused:
        check(model)
    assert said in refused.value.message and refused.value.message.startswith("it cannot encode")
    assert not isinstance(refused.value.__cause__, torch.OutOfMemoryError)


def test_two_loads_share_the_gpus_thread_with_passes() -> None:
    """What is tried at a load runs where passes do."""
    model = Simulated()
    check(model)
    assert model.threads == {"cuda:0"}
    assert threading.current_thread().name != "cuda:0"
