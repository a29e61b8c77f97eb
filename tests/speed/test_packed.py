"""Packed passes give the original network's states, whatever the mix of lengths."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from config import Config, ModelSpec
from embedders.base import Prompt
from embedders.local import LocalEmbedder, _shares, cores, local
from embedders.packed import FEW_ROWS, Packed, _group, _round_up, pack

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


def plain(model: torch.nn.Module):
    return lambda ids, mask: model(input_ids=ids, attention_mask=mask).last_hidden_state


def ids_of(lengths: list[int]) -> list[list[int]]:
    random = np.random.default_rng(2)
    return [random.integers(3, 200, length).tolist() for length in lengths]


KINDS = ["Bert", "Roberta", "XLMRoberta", "Camembert"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_the_original_at_every_length(kind: str) -> None:
    model = tiny(kind)
    packed = pack(model, torch.float32, plain(model))
    assert packed is not None
    inputs = ids_of(LENGTHS)
    seen = []
    with torch.inference_mode():
        for group in packed(inputs):
            for row, states in zip(group.rows, group.states, strict=True):
                seen.append(row)
                assert len(states) == len(inputs[row])
                alone = plain(model)(torch.tensor([inputs[row]]), None)[0]
                torch.testing.assert_close(states[: len(alone)], alone, atol=2e-4, rtol=1e-3)
    assert sorted(seen) == list(range(len(inputs)))


@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_new"])
def test_it_knows_every_activation(activation: str) -> None:
    model = tiny("Bert", hidden_act=activation)
    assert pack(model, torch.float32, plain(model)) is not None


def test_a_model_of_another_layout_is_left_alone() -> None:
    config = {"dim": 48, "n_heads": 4, "hidden_dim": 96, "n_layers": 1, "vocab_size": 200}
    model = transformers.DistilBertModel(transformers.DistilBertConfig(**config)).eval()
    assert pack(model, torch.float32, plain(model)) is None


def test_a_decoder_is_left_alone() -> None:
    model = tiny("Bert", is_decoder=True)
    assert pack(model, torch.float32, plain(model)) is None


def test_a_copy_that_differs_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    model, other = tiny("Bert"), tiny("Bert", num_hidden_layers=1)
    assert pack(model, torch.float32, plain(other)) is None
    assert "differ" in caplog.text


def test_a_layer_that_cannot_be_packed_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny("Bert")
    before = plain(model)
    model.encoder.layer[0].intermediate = torch.nn.Identity()
    assert pack(model, torch.float32, before) is None
    assert "packing failed" in caplog.text


def test_groups_hold_every_text_once_without_padding() -> None:
    inputs = ids_of(np.random.default_rng(3).integers(1, 129, 300).tolist())
    groups = _group(inputs)
    assert all(len(inputs[row]) == width for rows, width in groups for row in rows)
    assert sorted(row for rows, _ in groups for row in rows) == list(range(300))


def test_sizes_of_a_pass_are_few() -> None:
    rounded = {_round_up(n) for n in range(1, 1025)}
    assert len(rounded) <= FEW_ROWS // 8 + 1024 // 32
    assert all(_round_up(n) >= n for n in range(1, 1025))


@pytest.mark.parametrize("most", [1, 2, 3, 16])
def test_shares_hold_every_item_once(most: int) -> None:
    items = [SimpleNamespace(tokens=n) for n in (1, 256, 3, 60, 60, 256, 9, 120)]
    shares = _shares(items, most)
    assert sorted(i for share in shares for i in share) == list(range(len(items)))
    assert 1 <= len(shares) <= most


@pytest.fixture(scope="module")
def embedder():
    spec = ModelSpec.model_validate({"id": "m", "model_name": NAME, "dtype": "float32"})
    made = local(spec, Config(device="cpu"))
    yield made
    made.close()


def test_the_bundled_model_is_packed_and_can_be_kept_from_it(embedder: LocalEmbedder) -> None:
    assert embedder.facts.backend == "packed"
    entry = {"id": "m", "model_name": NAME, "dtype": "float32", "backend": "torch"}
    padded = local(ModelSpec.model_validate(entry), Config(device="cpu"))
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


def test_a_prompt_left_out_of_pooling_is_left_out_here_too(embedder: LocalEmbedder) -> None:
    items = embedder.prepare(["some text of five words"], Prompt(), "right")
    whole = embedder.encode(items).vectors
    cut = embedder.encode([replace(items[0], skip=3)]).vectors
    assert np.abs(whole - cut).max() > 1e-3


def test_cores_do_not_shrink_with_what_a_thread_takes(embedder: LocalEmbedder) -> None:
    known = cores()
    embedder.encode(embedder.prepare(["text"], Prompt(), "right"))
    assert cores() == known


def test_packing_frees_the_layers_it_copied(embedder: LocalEmbedder) -> None:
    assert isinstance(embedder._packed, Packed)
    assert not hasattr(embedder._network.auto_model, "encoder")
