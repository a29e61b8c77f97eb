"""Packed passes give the original network's states, whatever the mix of lengths."""

import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from config import Config, ModelSpec
from embedders.backends import local
from embedders.base import Embedder, Prompt
from embedders.graph import HIDDEN, OnnxLayers, places
from embedders.layers import FEW_ROWS, Slot, TorchLayers, cores
from embedders.local import LocalEmbedder
from embedders.packed import Make, Packed, by_length, can_pack, padded_parts, shares_of
from errors import ModelUnavailable

NAME = "sentence-transformers/all-MiniLM-L6-v2"
SIZES = {
    "hidden_size": 48,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "vocab_size": 200,
    "max_position_embeddings": 133,  # the longest input ends in the middle of a step
}
LENGTHS = [1, 2, 7, 8, 9, 31, 32, 33, 60, 60, 127, 128, 129, 131]


def tiny(kind: str, **config: object) -> torch.nn.Module:
    torch.manual_seed(1)
    settings = getattr(transformers, f"{kind}Config")(**{**SIZES, "pad_token_id": 1, **config})
    model = getattr(transformers, f"{kind}Model")(settings).eval()
    for parameter in model.parameters():  # no bias or norm stays at its trivial start
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def ids_of(lengths: list[int]) -> list[list[int]]:
    random = np.random.default_rng(2)
    return [random.integers(3, 200, length).tolist() for length in lengths]


KINDS = ["Bert", "Roberta", "XLMRoberta", "Camembert"]
WAYS: list[Make] = [TorchLayers, OnnxLayers]
by_every_way = pytest.mark.parametrize("make", WAYS)


def assert_equal(packed: Packed, model: torch.nn.Module, lengths: list[int]) -> None:
    inputs = ids_of(lengths)
    seen = []
    with torch.inference_mode():
        for group in packed(inputs):
            for row, states in zip(group.rows, group.states, strict=True):
                seen.append(row)
                assert len(states) == len(inputs[row])
                (alone,) = model(input_ids=torch.tensor([inputs[row]])).last_hidden_state
                torch.testing.assert_close(states, alone, atol=2e-4, rtol=1e-3)
    assert sorted(seen) == list(range(len(inputs)))


@by_every_way
@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_the_original_at_every_length(kind: str, make: Make) -> None:
    model = tiny(kind)
    assert can_pack(model)
    assert_equal(Packed(model, torch.float32, make), model, LENGTHS)


@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_new"])
def test_it_knows_every_activation(activation: str) -> None:
    model = tiny("Bert", hidden_act=activation)
    assert_equal(Packed(model, torch.float32), model, [3, 20])


def test_a_model_of_another_layout_is_left_alone() -> None:
    config = {"dim": 48, "n_heads": 4, "hidden_dim": 96, "n_layers": 1, "vocab_size": 200}
    model = transformers.DistilBertModel(transformers.DistilBertConfig(**config)).eval()
    assert not can_pack(model)


def test_a_decoder_is_left_alone() -> None:
    assert not can_pack(tiny("Bert", is_decoder=True))


def test_a_graph_is_told_what_of_each_row_is_a_token_and_where_it_came_from() -> None:
    slots = [Slot(0, (1, 3)), Slot(3, (2, 2))]
    told = places(slots, rows=8)
    assert told["spread"].tolist() == [[0, 1, 2], [3, 4, 0], [5, 6, 0]]
    hidden = [[False, False, False], *[[False, False, True]] * 2]
    assert (told["bias"][:, 0, 0] == HIDDEN).tolist() == hidden
    assert told["back"].tolist() == [0, 1, 2, 3, 4, 6, 7, 0]  # the last row is padding


def packs_bfloat16() -> bool:
    """Say whether this CPU has what torch needs for that: some of AVX-512, or AVX-NE-CONVERT."""
    weight = torch.zeros(8, 8, dtype=torch.bfloat16)
    try:
        torch.ops.mkldnn._reorder_linear_weight(weight)
    except RuntimeError:
        return False
    return True


def test_half_precision_is_near_the_original() -> None:
    if not packs_bfloat16():
        pytest.skip("torch cannot pack bfloat16 on this CPU")
    model = tiny("Bert")
    exact, packed = Packed(model, torch.float32), Packed(model, torch.bfloat16)
    inputs = ids_of([20, 60])
    with torch.inference_mode():
        for one, other in zip(exact(inputs), packed(inputs), strict=True):
            likeness = torch.cosine_similarity(one.states, other.states, dim=-1)
            assert likeness.min() > 0.998


def test_groups_hold_every_text_once_without_padding() -> None:
    lengths = np.random.default_rng(3).integers(1, 129, 300).tolist()
    groups = by_length(lengths)
    assert all(lengths[row] == width for width, rows in groups.items() for row in rows)
    assert sorted(row for rows in groups.values() for row in rows) == list(range(300))


def test_sizes_of_a_pass_are_few() -> None:
    rounded = {TorchLayers.rows(n) for n in range(1, 1025)}
    assert len(rounded) <= FEW_ROWS // 8 + 1024 // 32
    assert all(TorchLayers.rows(n) >= n for n in range(1, 1025))


@pytest.mark.parametrize("most", [1, 2, 3, 16])
def test_shares_hold_every_text_once(most: int) -> None:
    shares = shares_of([1, 256, 3, 60, 60, 256, 9, 120], most)
    assert sorted(i for share in shares for i in share) == list(range(8))
    assert 1 <= len(shares) <= most


@pytest.mark.parametrize(
    ("lengths", "parts"),
    [
        ([9], [[0]]),
        ([9, 40, 12] * 8, [sorted(range(24), key=lambda i: -[9, 40, 12][i % 3])]),
        ([12, 256, 12, 12], [[1], [0, 2, 3]]),
        ([256] * 4, [[0, 1, 2, 3]]),
    ],
)
def test_texts_are_parted_where_the_padding_would_cost_more(
    lengths: list[int], parts: list[list[int]]
) -> None:
    assert padded_parts(lengths) == parts


@pytest.fixture(scope="module")
def proofs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where what is proven in this file is kept."""
    return tmp_path_factory.mktemp("proofs")


def bundled(proofs: Path, **entry: object) -> Embedder:
    given = {"id": "m", "model_name": NAME, "dtype": "float32", **entry}
    return local(ModelSpec.model_validate(given), Config(device="cpu", model_cache_dir=proofs))


@pytest.fixture(scope="module", params=["packed", "onnx"])
def embedder(request: pytest.FixtureRequest, proofs: Path) -> Iterator[LocalEmbedder]:
    made = bundled(proofs, backend=request.param)
    assert isinstance(made, LocalEmbedder) and made.facts.backend == request.param
    yield made
    made.close()


@pytest.mark.parametrize(
    ("entry", "backend"),
    [
        ({}, "onnx"),
        ({"dtype": "bfloat16"}, "packed"),
        ({"dtype": "bfloat16", "backend": "onnx"}, "packed"),
    ],
)
def test_the_backend_is_the_fastest_that_can_compute_in_the_dtype(
    entry: dict, backend: str, proofs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if backend == "packed" and not packs_bfloat16():
        backend = "torch"
    made = bundled(proofs, **entry)
    assert made.facts.backend == backend
    told = [r for r in caplog.records if "does not suit it" in r.message]
    assert len(told) == (entry.get("backend", backend) != backend)
    made.close()


def test_a_backend_that_is_not_installed_is_named_where_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelUnavailable, match="pip install onnxruntime"):
        bundled(tmp_path, backend="onnx")
    made = bundled(tmp_path)
    assert made.facts.backend == "packed" and "pip install onnxruntime" in caplog.text
    made.close()


def changed(self: OnnxLayers, states: torch.Tensor, slots: Sequence[Slot], used: int) -> Any:
    return states * torch.linspace(1, 1.1, states.shape[1])  # as if it had no layers, and worse


def gone(self: TorchLayers, layers: Sequence[Any], heads: int, dtype: Any) -> None:
    raise AttributeError("torch has no _reorder_linear_weight")


def test_what_differs_or_cannot_be_made_leaves_its_place_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(OnnxLayers, "__call__", changed)
    monkeypatch.setattr(TorchLayers, "__init__", gone)
    made = bundled(tmp_path)
    assert made.facts.backend == "torch"
    told = [r.getMessage() for r in caplog.records if "cannot run by" in r.getMessage()]
    assert len(told) == 2 and "by onnx: " in told[0] and "cosine" in told[0]
    assert "by packed: " in told[1] and "_reorder_linear_weight" in told[1]
    made.close()


def test_every_backend_gives_the_vectors_of_the_original(
    embedder: LocalEmbedder, proofs: Path
) -> None:
    padded = bundled(proofs, backend="torch")
    assert padded.facts.backend == "torch"
    assert padded.facts.fingerprint == embedder.facts.fingerprint
    texts = ["a", "some words more", "word " * 100, "w " * 400] * 5
    vectors = [e.encode(e.prepare(texts, Prompt(), "right")).vectors for e in (embedder, padded)]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-4)


def test_threads_that_encode_at_once_get_their_own_rows(embedder: LocalEmbedder) -> None:
    texts = [f"{n} " * (1 + n * 7 % 60) for n in range(24)]
    items = embedder.prepare(texts, Prompt(), "right")
    alone = np.concatenate([embedder.encode([item]).vectors for item in items])
    wrong: list[float] = []
    start = threading.Barrier(4)

    def work(offset: int) -> None:
        order = np.roll(np.arange(len(items)), offset)
        start.wait()
        vectors = embedder.encode([items[i] for i in order]).vectors
        error = float(np.abs(vectors - alone[order]).max())
        if error > 1e-4:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(n * 5,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_prompts_of_one_pass_are_left_out_of_each_texts_own_mean(
    embedder: LocalEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedder._heads[0], "include_prompt", False)
    (item,) = embedder.prepare(["some text of five words"], Prompt(), "right")
    items = [replace(item, skip=skip) for skip in (0, 3, 0, 2, 3)]
    together = embedder.encode(items).vectors
    for row, each in zip(together, items, strict=True):
        np.testing.assert_allclose(row, embedder.encode([each]).vectors[0], atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_cores_do_not_shrink_with_what_a_thread_takes(embedder: LocalEmbedder) -> None:
    known = cores()
    embedder.encode(embedder.prepare(["text"], Prompt(), "right"))
    assert cores() == known


def test_packing_frees_the_layers_it_copied(embedder: LocalEmbedder) -> None:
    assert isinstance(embedder._packed, Packed)
    assert not hasattr(embedder._network.auto_model, "encoder")
