"""A GPU without room. There is none here: its refusals are simulated at the library's edge."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from config import Config, ModelSpec
from embedders import build
from embedders.base import OutOfMemory, Prompt
from embedders.loading import choose_device, room_for
from embedders.local import LocalEmbedder


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
    rows = [embedder.encode([item]).vectors[0] for item in items]
    assert embedder.facts.device == "cpu" and embedder.facts.fingerprint == mark
    assert np.allclose(np.stack(rows), wanted, atol=1e-5)
