"""Models exchanged while they serve: checked before, freed after, never mixed."""

import gc
import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from flask import Flask
from werkzeug.test import TestResponse

import errors
from config import Config, ModelSettings, ModelSpec
from embedders.base import Encoded, Item
from embedders.fake import FakeEmbedder
from engine import EmbedRequest, Engine
from factory import create_app
from server.memory import exempt_from_collection
from serving import leaving as leaving_module
from serving.checks import check
from serving.health import watch
from serving.leaving import Leaving, free
from serving.registry import Registry
from tests.settings.conftest import until

A, B = (ModelSpec(id=n, model_name=f"tests/{n}", type="fake", dimensions=8) for n in "ab")


class Tracked(FakeEmbedder):
    """A fake that tells when it was closed and that may be held inside a pass."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec.model_name, spec.dimensions or 8)
        self.closed = threading.Event()
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def encode(self, items: Sequence[Item], deadline: float | None = None) -> Encoded:
        assert not self.closed.is_set(), "a closed model was used"
        self.inside.set()
        assert self.go_on.wait(30)
        encoded = super().encode(items, deadline)
        scale = np.float32(int(self.facts.fingerprint[:4], 16) + 1)
        return Encoded.dense(encoded.vectors + scale, encoded.tokens)

    def close(self) -> None:
        self.closed.set()


class Builder:
    """Builds tracked fakes and keeps none of them alive as a model would be."""

    def __init__(self) -> None:
        self.built: list[Tracked] = []
        self.broken: set[str] = set()

    def __call__(self, spec: ModelSpec, settings: ModelSettings) -> Tracked:
        if spec.id in self.broken:
            raise errors.ModelUnavailable("its folder is empty")
        self.built.append(Tracked(spec))
        return self.built[-1]


@pytest.fixture
def builder() -> Builder:
    return Builder()


@pytest.fixture
def registry(builder: Builder) -> Registry:
    registry = Registry([A], "a", ModelSettings(), builder)
    registry.load_now()
    return registry


def swap(registry: Registry, *specs: ModelSpec, **settings: object) -> None:
    registry.prepare(specs, specs[0].id, Config.model_validate(settings)).commit()


def test_it_serves_the_new_model_and_closes_the_old(registry: Registry, builder: Builder) -> None:
    swap(registry, B)
    old, new = builder.built
    assert registry.default.loaded.embedder is new
    assert old.closed.is_set() and not new.closed.is_set()


def test_a_name_that_left_never_gets_another_models_vectors(registry: Registry) -> None:
    swap(registry, B)
    for name in ("a", "tests/a"):
        with pytest.raises(errors.UnknownModel, match="available: b"):
            registry.get(name)


def test_an_exchange_that_is_aborted_changes_nothing(registry: Registry, builder: Builder) -> None:
    registry.prepare([B], "b", ModelSettings()).abort()
    old, new = builder.built
    assert registry.default.loaded.embedder is old
    assert new.closed.wait(30) and not old.closed.is_set()


def test_what_stays_the_same_stays_loaded(registry: Registry, builder: Builder) -> None:
    swap(registry, A, B, max_batch_size=7)
    assert registry.default.loaded.embedder is builder.built[0]
    assert registry.default.loaded.encoder._max_items == 7
    swap(registry, A, B, dtype="float32")
    assert registry.default.loaded.embedder is not builder.built[0]
    assert builder.built[0].closed.is_set()


@pytest.mark.fault("Models and devices")
def test_a_model_that_does_not_load_leaves_the_old_one(
    registry: Registry, builder: Builder
) -> None:
    """A settings change to a model that does not load -> the old one serves."""
    builder.broken.add("b")
    with pytest.raises(errors.Invalid, match="its folder is empty"):
        swap(registry, B)
    assert registry.default.spec == A and not builder.built[0].closed.is_set()


@pytest.mark.fault("Models and devices")
def test_a_second_exchange_while_one_runs_is_a_conflict(registry: Registry) -> None:
    """A second model swap while one runs -> 409."""
    first = registry.prepare([B], "b", ModelSettings())
    with pytest.raises(errors.Conflict):
        swap(registry, B)
    first.abort()
    swap(registry, B)


def test_a_model_in_use_is_closed_only_afterwards(
    registry: Registry, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.registry.free", lambda leaving: free(leaving, 0.01))
    old = builder.built[0]
    engine = Engine(registry)
    alone = engine.embed(EmbedRequest(["text"])).vectors
    old.inside.clear()
    old.go_on.clear()
    answers = []
    thread = threading.Thread(
        target=lambda: answers.append(engine.embed(EmbedRequest(["text"])).vectors)
    )
    thread.start()
    assert old.inside.wait(30)
    swap(registry, B)
    assert not old.closed.is_set()
    assert not np.array_equal(engine.embed(EmbedRequest(["text"])).vectors, alone)
    old.go_on.set()
    thread.join(30)
    assert np.array_equal(answers[0], alone), "a request under way keeps its model"
    answers.clear()
    assert old.closed.wait(30)


def test_a_failed_request_does_not_keep_the_old_model(registry: Registry, builder: Builder) -> None:
    """Its exception and traceback refer to each other and to the model: a reference cycle."""
    try:
        Engine(registry).embed(EmbedRequest(["text"], deadline=0.0))
    except errors.DeadlineExceeded as exc:
        exc.cycle = exc  # type: ignore[attr-defined]
    swap(registry, B)
    assert builder.built[0].closed.wait(30)


class Wrong(FakeEmbedder):
    def __init__(self, change: object) -> None:
        super().__init__()
        self.change = change

    def encode(self, items: Sequence[Item], deadline: float | None = None) -> Encoded:
        encoded = super().encode(items, deadline)
        return Encoded.dense(self.change(encoded.vectors), encoded.tokens)  # type: ignore[operator]


def _fails(vectors: np.ndarray) -> np.ndarray:
    raise RuntimeError("no kernel for this device")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v: v * np.nan, "not finite"),
        (lambda v: v[:, :-1], "shape"),
        (lambda v: v * 0, "all zero"),
        (lambda v: v * 0 + 1, "same vector"),
        (lambda v: v * np.float32(1e30), "length 1"),
        (_fails, "RuntimeError"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_model_with_wrong_vectors_is_refused(change: object, reason: str) -> None:
    check(Wrong(lambda v: v))
    with pytest.raises(errors.ModelUnavailable, match=reason):
        check(Wrong(change))


# -- over HTTP -------------------------------------------------------------------------------------


class Nothing(Tracked):
    """A model that loads, and gives zeros."""

    def encode(self, items: Sequence[Item], deadline: float | None = None) -> Encoded:
        encoded = super().encode(items, deadline)
        return Encoded.dense(encoded.vectors * 0, encoded.tokens)


@pytest.fixture
def models() -> dict[str, dict]:
    return {name: {"type": "fake", "model_name": f"tests/{name}"} for name in "ab"}


def change(app: Flask, value: str) -> TestResponse:
    return app.test_client().post("/settings", json={"key": "model_name", "value": value})


def vectors(app: Flask) -> object:
    reply = app.test_client().post("/embed", json={"text": "text"})
    assert reply.status_code == 200
    return reply.json


def test_a_model_that_loads_but_encodes_wrongly_is_refused_and_the_old_one_serves(
    config_of: Callable[..., Config], models: dict[str, dict]
) -> None:
    built: list[Tracked] = []

    def build(spec: ModelSpec, settings: ModelSettings) -> Tracked:
        built.append(Nothing(spec) if spec.id == "b" and len(built) > 1 else Tracked(spec))
        return built[-1]

    app = create_app(config_of(models), build=build, wait=True)
    before = vectors(app)["embeddings"]
    config = app.extensions["services"].settings
    refused = app.test_client().post(
        "/settings/bulk", json={"settings": {"model_name": "b", "dtype": "float32"}}
    )
    assert refused.status_code == 422 and "all zero" in refused.json["error"]
    assert vectors(app)["embeddings"] == before
    assert config.state.version == 0 and built[-1].closed.is_set()


def test_a_second_change_of_the_model_while_one_runs_is_a_conflict_over_http(
    config_of: Callable[..., Config], models: dict[str, dict]
) -> None:
    loading, go_on = threading.Event(), threading.Event()

    def build(spec: ModelSpec, settings: ModelSettings) -> Tracked:
        if settings.dtype == "float32":
            loading.set()
            assert go_on.wait(60)
        return Tracked(spec)

    app = create_app(config_of(models), build=build, wait=True)
    replies: list[TestResponse] = []

    def first() -> None:
        body = {"key": "dtype", "value": "float32"}
        replies.append(app.test_client().post("/settings", json=body))

    thread = threading.Thread(target=first)
    thread.start()
    assert loading.wait(60)
    second = change(app, "b")
    assert second.status_code == 409 and "already" in second.json["error"]
    assert vectors(app)
    go_on.set()
    thread.join(60)
    assert [reply.status_code for reply in replies] == [200]
    assert change(app, "b").status_code == 200


class Holder:
    itself: object


def test_an_old_model_in_a_cycle_is_freed_though_collections_spare_what_is_alive() -> None:
    holder, embedder = Holder(), Tracked(A)
    holder.itself = holder
    leaving = [Leaving(holder, embedder)]
    exempt_from_collection()
    try:
        del holder
        gc.collect()
        assert not embedder.closed.is_set()  # the control: what is spared is not collected
        free(leaving, 60)
        assert embedder.closed.is_set()
        until(lambda: gc.get_freeze_count() > 0)
    finally:
        gc.unfreeze()


def test_models_that_leave_at_the_same_time_are_all_freed(monkeypatch) -> None:
    """The end of one must not exempt the garbage of another from collections."""
    ends, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(leaving_module, "give_back_memory", lambda: ends.set() or go_on.wait(30))
    kept, holder, one, other = Holder(), Holder(), Tracked(A), Tracked(A)
    leaving = [Leaving(kept, one)], [Leaving(holder, other)]
    exempt_from_collection()
    try:
        del kept
        free(leaving[0], 0)
        assert ends.wait(30) and one.closed.is_set()
        holder.itself = holder
        del holder
        free(leaving[1], 0)
        go_on.set()
        assert other.closed.wait(60)
    finally:
        go_on.set()
        gc.unfreeze()


def test_what_is_alive_when_the_models_have_loaded_is_spared(config_of) -> None:
    config = config_of()
    registry = Registry(*config.catalogue(), config, lambda spec, settings: FakeEmbedder())
    registry.start()
    stop = watch(registry)
    try:
        until(lambda: gc.get_freeze_count() > 0)
    finally:
        stop.set()
        registry.stop()
        gc.unfreeze()
