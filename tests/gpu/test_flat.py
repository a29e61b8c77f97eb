"""A model on a GPU that is not there: flat passes, recorded, two under way, from one thread.

Its weights are on the CPU, and what would be a CUDA graph is computed again. The kernels, capture
and events of a real GPU are not shown here.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from config import Config, ModelSpec
from embedders import backends, flat_passes, proven
from embedders.base import Embedder, Prompt
from embedders.loading import Found, LoadedModel, find
from embedders.local import LocalEmbedder
from serving.batcher import Batcher
from tests.gpu.simulated import full
from tests.zoo.layouts_bert import bert
from tests.zoo.layouts_encoders import t5

TEXTS = [
    " ".join(["many", "words", "of", "a", "text"][: 1 + i % 5] * (1 + i % 7)) for i in range(40)
]


def recomputed(work: Callable[[], Any]) -> Callable[[], Any]:
    work()
    return work


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu") / "model"
    bert(folder, "mean", limit=64)
    return folder


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Embedder]]:
    """Load a folder as on a GPU with 100 GB free."""
    place = import_module("embedders.local")  # whose name in its package is a function's
    monkeypatch.setattr(place, "free_memory", lambda device: 100 << 30)
    monkeypatch.setattr(flat_passes, "CudaRecorder", lambda: recomputed)
    monkeypatch.setattr(flat_passes, "MOST_TOKENS", 4096)
    monkeypatch.setattr(proven, "_processor", lambda device: "simulated")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    load = backends.load

    def as_on_gpu(found: Found) -> LoadedModel:
        return replace(load(found), device=torch.device("cuda:0"))

    monkeypatch.setattr(backends, "load", as_on_gpu)
    made: list[Embedder] = []

    def make(folder: Path, **given: Any) -> Embedder:
        spec = ModelSpec(id="m", model_name=str(folder), dtype="float32")
        settings = Config(device="cpu", model_cache_dir=tmp_path / "cache", **given)
        made.append(backends.local(spec, settings))
        return made[-1]

    yield make
    for embedder in made:
        embedder.close()


def library(folder: Path) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").encode(TEXTS)


def test_on_a_gpu_a_model_runs_flat_with_graphs_and_gives_the_librarys_vectors(
    on_gpu: Callable[..., Embedder], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        model = on_gpu(folder)
    assert model.facts.backend == "flat+graphs" and not caplog.messages
    assert (model.pads, model.in_flight, model.pass_items) == (False, 2, 4096)
    assert model.pass_tokens == 4096
    found = model.encode(model.prepare(TEXTS, Prompt(), "auto")).vectors
    np.testing.assert_allclose(found, library(folder), atol=1e-5)
    assert on_gpu(folder).facts == model.facts, "the kept verdict gives another backend"


def test_graphs_can_be_switched_off(on_gpu: Callable[..., Embedder], folder: Path) -> None:
    assert on_gpu(folder, cuda_graphs="off").facts.backend == "flat"
    assert on_gpu(folder).facts.backend == "flat+graphs", "the verdict without them was taken"


def test_which_backends_are_tried_on_which_device_for_which_wish(
    on_gpu: Callable[..., Embedder], folder: Path, tmp_path: Path
) -> None:
    def tried(device: str, **given: Any) -> list[str]:
        spec = ModelSpec(id="m", model_name=str(folder), dtype="float32")
        settings = Config(device="cpu", model_cache_dir=tmp_path / "cache", **given)
        loaded = replace(backends.load(find(spec, settings)), device=torch.device(device))
        return [name for name, _ in backends._backends_of(loaded)[1]]

    assert tried("cuda:0") == ["flat+graphs", "flat", "torch"]
    assert tried("cuda:0", cuda_graphs="off") == ["flat", "torch"]
    assert tried("cuda:0", backend="flat") == ["flat+graphs", "flat", "torch"]
    assert tried("cuda:0", backend="torch") == ["torch"]
    assert tried("cpu") == ["onnx", "packed", "torch"]
    assert tried("cpu", backend="flat") == ["flat", "torch"]


def test_where_recording_fails_a_model_runs_flat_without(
    on_gpu: Callable[..., Embedder], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(work: Callable[[], Any]) -> Callable[[], Any]:
        raise RuntimeError("CUDA graphs are not for this network")

    monkeypatch.setattr(flat_passes, "CudaRecorder", lambda: refuse)
    model = on_gpu(folder)
    assert (model.facts.backend, model.in_flight) == ("flat", 2)
    found = model.encode(model.prepare(TEXTS, Prompt(), "auto")).vectors
    np.testing.assert_allclose(found, library(folder), atol=1e-5)


def test_a_network_without_positions_is_not_run_flat_there(
    on_gpu: Callable[..., Embedder], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    t5(tmp_path / "t5")
    model = on_gpu(tmp_path / "t5")
    assert not model.facts.backend.startswith("flat")
    for name in ("flat+graphs", "flat"):
        assert f"cannot run by {name}: NotFlat: its network takes no positions" in caplog.text


def test_many_clients_share_two_passes_under_way_and_get_their_own_rows(
    on_gpu: Callable[..., Embedder], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, right = on_gpu(folder), library(folder)
    names, waiting, most, tries, two = set(), [0], [0], [0], threading.Event()
    begin = flat_passes.FlatPasses.begin
    counting = threading.Lock()

    def watched(self: Any, items: Any, **given: Any) -> Callable[[], Any]:
        names.add(threading.current_thread().name)
        tries[0] += 1
        if len(items) > 1 and tries[0] % 10 in (0, 1):  # in the second try of a pass too
            raise full()
        finish = begin(self, items, **given)
        with counting:
            waiting[0] += 1
            most[0] = max(most[0], waiting[0])
            if waiting[0] == 2:
                two.set()

        def end() -> Any:
            two.wait(0.05)
            with counting:
                waiting[0] -= 1
            return finish()

        return end

    monkeypatch.setattr(flat_passes.FlatPasses, "begin", watched)
    batcher, wrong = Batcher(model, max_tokens=4096), []

    def client(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(15):
            chosen = rng.integers(0, len(TEXTS), rng.integers(1, 12))
            items = model.prepare([TEXTS[i] for i in chosen], Prompt(), "auto")
            found = batcher.encode(items).vectors
            if not np.allclose(found, right[chosen], atol=1e-5):
                wrong.append(seed)

    clients = [threading.Thread(target=client, args=(seed,)) for seed in range(12)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(120)
        assert not thread.is_alive()
    assert not wrong
    assert names == {"cuda:0"} and most[0] == 2


def test_a_pass_that_is_not_finite_is_made_again_and_its_dtype_given_up_after_two(
    on_gpu: Callable[..., Embedder], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = on_gpu(folder)
    assert isinstance(model, LocalEmbedder)
    model.facts = replace(model.facts, dtype="bfloat16")  # as if it had been loaded so
    exact = replace(model._loaded, device=torch.device("cpu"))
    monkeypatch.setattr(LoadedModel, "exactly", lambda self, *notes: exact)
    begin = flat_passes.FlatPasses.begin

    def spoiled(self: Any, items: Any, **given: Any) -> Callable[[], Any]:
        finish = begin(self, items, **given)
        return lambda: finish() * np.nan

    monkeypatch.setattr(flat_passes.FlatPasses, "begin", spoiled)
    batcher = Batcher(model, max_tokens=4096)
    for _ in range(2):
        found = batcher.encode(model.prepare(TEXTS, Prompt(), "auto")).vectors
        np.testing.assert_allclose(found, library(folder), atol=1e-5)
    assert (model.facts.dtype, model.facts.backend, model.in_flight) == ("float32", "torch", 1)
    assert model.pads and model.pass_tokens is None
