"""A GPU without room, for models of every kind. What refuses is simulated at the library's edge."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from config import Config, ModelSpec
from embedders import build, weights
from embedders import device as choosing
from embedders.base import DeviceBroken, Embedder, OutOfMemory, Prompt
from embedders.device import GPU_TOKENS, OVERHEAD, DeviceEmbedder, choose_device, room_for
from embedders.weights import BUNDLES

BUNDLED = next(iter(BUNDLES))


@pytest.fixture(scope="module")
def transformer(small_model: Path) -> Embedder:
    spec = ModelSpec(id="small", model_name=str(small_model))
    return build(spec, Config(device="cpu", dtype="float32"))


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    """A model that is no transformer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    folder = tmp_path_factory.mktemp("static")
    tokenizer = Tokenizer.from_file(str(weights.find(BUNDLED) / "tokenizer.json"))
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)]).save(str(folder))
    return build(ModelSpec(id="static", model_name=str(folder)), Config(device="cpu"))


@pytest.fixture(scope="module")
def average(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    """A model that the library itself has to run."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import BoW

    folder = tmp_path_factory.mktemp("average")
    SentenceTransformer(modules=[BoW(vocab=["one", "text", "another"])]).save(str(folder))
    return build(ModelSpec(id="average", model_name=str(folder)), Config(device="cpu"))


@pytest.fixture(params=["transformer", "static", "average"])
def embedder(request: pytest.FixtureRequest) -> DeviceEmbedder:
    made = request.getfixturevalue(request.param)
    assert isinstance(made, DeviceEmbedder)
    return made


@pytest.mark.fault("Models and devices")
@pytest.mark.parametrize(("free", "device"), [(10 << 30, "cuda"), (100 << 20, "cpu")])
def test_auto_takes_the_gpu_only_if_it_has_room(
    free: int, device: str, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No room on the GPU for the old and the new model -> `auto` takes the CPU for the new one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 << 30))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(choosing, "_product", lambda device: 4096.0)
    assert choose_device("auto", room_for(small_model)).type == device
    assert choose_device("cuda", room_for(small_model)).type == "cuda"  # asked for: not doubted


def test_the_room_for_a_model_is_that_of_its_real_weights_and_a_pass(small_model: Path) -> None:
    from transformers import AutoModel

    held = sum(p.numel() for p in AutoModel.from_pretrained(small_model).parameters())
    states = GPU_TOKENS * (8 * 64 + 3 * 128)
    assert room_for(small_model, torch.float16) == (held + states) * 2 + OVERHEAD


@pytest.mark.fault("Models and devices")
def test_a_model_out_of_memory_stays_where_it_is(
    embedder: DeviceEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model runs out of memory while it serves -> it stays on its device."""
    items = embedder.prepare(["one text", "another"], Prompt(), "right")
    wanted, forward, facts = embedder.encode(items).vectors, embedder._forward, embedder.facts
    left = 3

    def full(given: Any) -> Any:
        nonlocal left
        left -= 1
        if left >= 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(given)

    monkeypatch.setattr(embedder, "_forward", full)
    with pytest.raises(OutOfMemory):
        embedder.encode(items[:1])  # twice in vain
    rows = embedder.encode(items).vectors  # and once
    assert left == -1
    assert embedder.facts == facts and embedder._device == torch.device("cpu")
    assert np.allclose(rows, wanted, atol=1e-5)


def test_a_lost_device_is_told_by_a_model_of_any_kind(
    embedder: DeviceEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(given: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(embedder, "_forward", lost)
    monkeypatch.setattr(embedder, "_forward_exactly", lost)
    items = embedder.prepare(["one text"], Prompt(), "right")
    for encode in (embedder.encode, embedder.encode_exactly):
        with pytest.raises(DeviceBroken):
            encode(items)


def test_a_model_of_any_kind_that_is_closed_leaves_no_weights(
    small_model: Path, tmp_path: Path
) -> None:
    """Of the one that runs by itself, and of the one that the library runs."""
    import gc

    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import BoW

    SentenceTransformer(modules=[BoW(vocab=["one", "text"])]).save(str(tmp_path))

    def modules() -> int:
        gc.collect()
        return sum(issubclass(type(thing), torch.nn.Module) for thing in gc.get_objects())

    for folder in (small_model, tmp_path):
        before = modules()
        made = build(ModelSpec(id="m", model_name=str(folder)), Config(device="cpu"))
        made.encode(made.prepare(["one text"], Prompt(), "right"))
        assert modules() > before
        made.close()
        assert modules() <= before, folder
