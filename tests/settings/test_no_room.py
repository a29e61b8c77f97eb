"""A GPU without room. There is none here: its refusals are simulated at the library's edge."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import metrics
from config import Config, ModelSpec
from embedders import build, weights
from embedders.base import DeviceBroken, OutOfMemory, Prompt
from embedders.loading import choose_device, room_for
from embedders.local import LocalEmbedder
from embedders.whole import WholeEmbedder

BUNDLED = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture
def embedder(small_model: Path) -> LocalEmbedder:
    spec = ModelSpec(id="small", model_name=str(small_model))
    made = build(spec, Config(device="cpu", dtype="float32"))
    assert isinstance(made, LocalEmbedder)
    return made


@pytest.mark.parametrize(("free", "device"), [(10 << 30, "cuda"), (100 << 20, "cpu")])
def test_auto_takes_the_gpu_only_if_it_has_room(
    free: int, device: str, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 80 << 30))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert room_for(small_model) > 512 << 20
    assert choose_device("auto", room_for(small_model)).type == device
    assert choose_device("cuda", room_for(small_model)).type == "cuda"  # asked for: not doubted


def test_a_model_out_of_memory_goes_on_on_the_cpu(
    embedder: LocalEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = embedder.prepare(["one text", "another"], Prompt(), "right")
    wanted = embedder.encode(items).vectors
    forward, mark = embedder._forward, embedder.facts.fingerprint

    def full(given: Any) -> Any:
        if embedder._device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(given)

    monkeypatch.setattr(embedder, "_forward", full)
    embedder._device = torch.device("cuda")
    with pytest.raises(OutOfMemory):
        embedder.encode(items)  # the batcher halves it and comes back with less
    assert embedder._device.type == "cuda"
    moved = metrics.FAULTS.labels("moved_to_cpu")
    before = moved._value.get()
    rows = [embedder.encode([item]).vectors[0] for item in items]
    assert moved._value.get() == before + 1
    assert embedder.facts.device == "cpu" and embedder.facts.fingerprint == mark
    assert np.allclose(np.stack(rows), wanted, atol=1e-5)


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> WholeEmbedder:
    """A model that is no transformer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    folder = tmp_path_factory.mktemp("static")
    tokenizer = Tokenizer.from_file(str(weights.find(BUNDLED) / "tokenizer.json"))
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)]).save(str(folder))
    made = build(ModelSpec(id="static", model_name=str(folder)), Config(device="cpu"))
    assert isinstance(made, WholeEmbedder)
    return made


def test_a_model_of_another_kind_goes_on_on_the_cpu_too(
    static: WholeEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = static.prepare(["one text", "another"], Prompt(), "right")
    wanted, forward = static.encode(items).vectors, static._model.encode

    def full(*given: Any, **how: Any) -> Any:
        if static._device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*given, **how)

    monkeypatch.setattr(static._model, "encode", full)
    monkeypatch.setattr(static, "_device", torch.device("cuda"))
    with pytest.raises(OutOfMemory):
        static.encode(items)
    rows = [static.encode([item]).vectors[0] for item in items]
    assert static.facts.device == "cpu" and np.allclose(np.stack(rows), wanted, atol=1e-5)


def test_a_lost_device_is_told_by_a_model_of_any_kind(
    static: WholeEmbedder, embedder: LocalEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*given: Any, **how: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(static._model, "encode", lost)
    monkeypatch.setattr(embedder, "_forward", lost)
    for each in (static, embedder):
        with pytest.raises(DeviceBroken):
            each.encode(each.prepare(["one text"], Prompt(), "right"))
