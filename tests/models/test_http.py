"""What `/models`, `/health` and requests say of models that are loaded on demand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

import embedders
from config import Config, ModelSettings, ModelSpec
from embedders.size import weights_of
from factory import create_app
from tests.embedders.repositories import MINILM, NAME, pickle_weights, with_dense
from tests.faults.conftest import until
from tests.models.folders import SIZE_MB, copies
from tests.models.sized import House

LATE = {"late": {"type": "fake", "model_name": "tests/late", "load": "first_use"}}


def get(app: Flask, path: str) -> Any:
    return app.test_client().get(path).json


def test_a_default_that_is_unloaded_is_healthy_and_ready(config_of: Callable[..., Config]) -> None:
    app = create_app(config_of(LATE), wait=True)
    assert app.test_client().get("/health").status_code == 200
    assert app.test_client().get("/health/ready").status_code == 200
    said = get(app, "/health")
    assert (said["status"], said["degraded"]) == ("healthy", None)
    assert said["models"]["late"] == {"status": "unloaded", "reason": None}
    assert get(app, "/models/late")["status"] == "unloaded"
    assert app.test_client().post("/embed", json={"texts": ["a"]}).status_code == 200
    assert get(app, "/models/late")["status"] == "ready"


def test_a_request_whose_deadline_passes_while_its_model_loads_is_told_to_come_again(
    config_of: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House()
    monkeypatch.setitem(embedders.EMBEDDERS, "fake", house)
    house.loads.clear()
    app = create_app(config_of(LATE, request_deadline_s=0.2), wait=True)
    for route, body in (
        ("/embed", {"texts": ["a"]}),
        ("/v1/embeddings", {"input": "a", "model": "late"}),
    ):
        reply = app.test_client().post(route, json=body)
        assert reply.status_code == 503 and "still being loaded" in reply.text
        assert int(reply.headers["Retry-After"]) >= 1
    house.loads.set()
    until(lambda: get(app, "/models/late")["status"] == "ready")
    assert house.built == ["late"]


def test_the_sizes_of_models_are_shown_and_the_budget_is_of_real_ones(
    config_of: Callable[..., Config], tmp_path: Path
) -> None:
    first, second = copies(tmp_path, 2)
    entries = {"a": {"model_name": str(first)}, "b": {"model_name": str(second)}}
    given = {"device": "cpu", "dtype": "float32", "models_memory_mb": SIZE_MB + 20}
    app = create_app(config_of(entries, **given, model_cache_dir=tmp_path / "cache"), wait=True)
    states = {
        row["id"]: (row["status"], row["memory_bytes"]) for row in get(app, "/models")["data"]
    }
    assert states["b"] == ("unloaded", None)
    assert states["a"][0] == "ready" and SIZE_MB - 2 <= states["a"][1] / (1 << 20) <= SIZE_MB
    reply = app.test_client().post("/embed", json={"texts": ["a"], "model": "b"})
    assert reply.status_code == 200
    states = {row["id"]: row["status"] for row in get(app, "/models")["data"]}
    assert states == {"a": "unloaded", "b": "ready"}


def test_a_size_is_that_of_the_dtype_and_the_backend_with_which_a_model_runs() -> None:
    def size(**given: Any) -> int:
        spec = ModelSpec.model_validate({"id": "m", "model_name": NAME, "device": "cpu", **given})
        return weights_of(spec, ModelSettings())

    full = size(dtype="float32", backend="torch")
    assert 0.98 < full / (MINILM / "model.safetensors").stat().st_size <= 1
    assert size(dtype="float16", backend="torch") == pytest.approx(full / 2, rel=0.01)
    assert size(dtype="float32") == pytest.approx(2.4 * full, rel=0.01), "ONNX Runtime has a copy"
    assert size(dtype="float32", backend="torch", devices=("cpu", "cpu")) == 2 * full


def test_a_size_is_known_before_pickled_weights_are_converted(tmp_path: Path) -> None:
    folder = with_dense(tmp_path / "model")
    spec = ModelSpec(id="m", model_name=str(folder), dtype="float32")
    known = weights_of(spec, ModelSettings())
    pickle_weights(folder)
    assert weights_of(spec, ModelSettings()) == pytest.approx(known, rel=0.25)


def test_what_runs_elsewhere_has_no_size() -> None:
    remote = ModelSpec(id="m", type="openai", model_name="text-embedding-3-small")
    copy = ModelSpec(id="m", model_name=NAME, base_urls=("http://127.0.0.1:1",))
    for spec in (remote, copy):
        assert embedders.size_of(spec, ModelSettings()) is None
