"""Models like bge-m3 give dense vectors, terms and token vectors of one pass, by the formulas."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch.nn import functional

from config import Config, ModelSpec
from embedders import build
from embedders.base import Embedder, Item, Output, Prompt, Sparse
from embedders.tokens import preparer_of
from tests.embedders.repositories import like_bge_m3
from tests.zoo.words import prose

TEXTS = ["one", "a longer text than the other one", "die Fassade, façade und 中文", prose(40, 1)]
ALL: tuple[Output, ...] = ("dense", "sparse", "multi_vector")


def with_heads(folder: Path) -> Path:
    """Write a bge-m3 with both of its pickled heads."""
    like_bge_m3(folder)
    source = torch.Generator().manual_seed(8)
    for name, rows in (("sparse_linear", 1), ("colbert_linear", 32)):
        head = {"weight": torch.randn(rows, 32, generator=source) / 6,
                "bias": torch.randn(rows, generator=source) / 6}  # fmt: skip
        torch.save(head, folder / f"{name}.pt")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_heads(tmp_path_factory.mktemp("m3") / "model")


def loaded(folder: Path, cache: Path, pickled: bool = True, **given: Any) -> Embedder:
    """Return the embedder that the service makes of a folder."""
    entry = {"id": "m", "model_name": str(folder), "dtype": "float32", **given}
    settings = {"device": "cpu", "model_cache_dir": cache, "allow_pickled_weights": pickled}
    return build(ModelSpec.model_validate(entry), Config.model_validate(settings))


@pytest.fixture(scope="module")
def embedder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return loaded(folder, tmp_path_factory.mktemp("cache"))


def asked(embedder: Embedder, texts: list[str], *outputs: Output) -> list[Item]:
    items = embedder.prepare(texts, Prompt(), "auto")
    return [Item(i.payload, i.tokens, i.truncated, outputs=outputs) for i in items]


def formulas(folder: Path, text: str) -> tuple[np.ndarray, dict[int, float], np.ndarray]:
    """Write out FlagEmbedding's three formulas on the states of one text."""
    model = SentenceTransformer(str(folder), device="cpu")
    network, tokenizer = model[0].auto_model, model[0].tokenizer
    given = tokenizer([text], return_tensors="pt", truncation=True)
    with torch.inference_mode():
        states = network(**given).last_hidden_state[0]
        heads = {n: torch.load(folder / f"{n}_linear.pt") for n in ("sparse", "colbert")}
        dense = functional.normalize(states[0], dim=-1).numpy()
        weights = torch.relu(functional.linear(states, **heads["sparse"]))[:, 0].tolist()
        tokens = functional.linear(states[1:], **heads["colbert"])
    unused = {tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id,
              tokenizer.unk_token_id}  # fmt: skip
    terms: dict[int, float] = {}
    for token, weight in zip(given["input_ids"][0].tolist(), weights, strict=True):
        if token not in unused and weight > 0:
            terms[token] = max(weight, terms.get(token, 0.0))
    return dense, terms, functional.normalize(tokens, dim=-1).numpy()


def test_one_pass_gives_what_the_three_formulas_give(embedder: Embedder, folder: Path) -> None:
    assert embedder.facts.outputs == ALL
    assert embedder.facts.kind == "sentence_transformer"
    encoded = embedder.encode(asked(embedder, TEXTS, *ALL))
    assert encoded.vectors.shape == (len(TEXTS), 32)
    for at, text in enumerate(TEXTS):
        dense, terms, tokens = formulas(folder, text)
        row = encoded.row(at)
        ours = encoded.vectors[at] / np.linalg.norm(encoded.vectors[at])
        np.testing.assert_allclose(ours, dense, atol=1e-5)
        sparse = row["sparse"]
        assert isinstance(sparse, Sparse)
        assert sparse.indices.tolist() == sorted(terms)
        assert sparse.indices.dtype == np.int32
        assert sparse.values.dtype == np.float32
        np.testing.assert_allclose(sparse.values, [terms[i] for i in sorted(terms)], atol=1e-5)
        np.testing.assert_allclose(np.asarray(row["multi_vector"]), tokens, atol=1e-5)


def test_an_input_gets_what_it_asks_for_and_no_more(embedder: Embedder) -> None:
    wishes: list[tuple[Output, ...]] = [("dense",), ("sparse",), ("multi_vector",), ALL]
    items = [asked(embedder, [text], *each)[0] for text, each in zip(TEXTS, wishes, strict=True)]
    encoded = embedder.encode(items)
    for at, (item, wish) in enumerate(zip(items, wishes, strict=True)):
        row, alone = encoded.row(at), embedder.encode([item]).row(0)
        assert set(row) == set(wish) == set(alone)
        for output, value in row.items():
            for ours, theirs in zip(value, alone[output], strict=True):
                np.testing.assert_allclose(ours, theirs, atol=1e-5)
    dense = embedder.encode(asked(embedder, TEXTS, "dense"))
    assert set(dense.columns) == {"dense"}


def test_every_way_gives_the_same(folder: Path, embedder: Embedder, tmp_path: Path) -> None:
    right = embedder.encode(asked(embedder, TEXTS, *ALL))
    for backend in ("torch", "flat", "packed"):
        other = loaded(folder, tmp_path, backend=backend)
        assert other.facts.backend == backend
        encoded = other.encode(asked(other, TEXTS, *ALL))
        np.testing.assert_allclose(encoded.vectors, right.vectors, atol=2e-5)
        for output in ("sparse", "multi_vector"):
            for ours, theirs in zip(encoded.columns[output], right.columns[output], strict=True):
                for a, b in zip(ours, theirs, strict=True):
                    np.testing.assert_allclose(a, b, atol=2e-5)


def test_heads_that_are_safetensors_are_read_as_they_are(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    made = shutil.copytree(folder, tmp_path / "model")
    for name in ("sparse_linear", "colbert_linear"):
        save_file(torch.load(made / f"{name}.pt"), made / f"{name}.safetensors")
        (made / f"{name}.pt").unlink()
    embedder = loaded(made, tmp_path / "cache", pickled=False)
    assert embedder.facts.outputs == ALL
    assert not embedder.facts.notes


def test_pickled_heads_are_left_alone_where_pickles_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    embedder = loaded(folder, tmp_path, pickled=False)
    assert embedder.facts.outputs == ("dense",)
    assert any("ALLOW_PICKLED_WEIGHTS" in note for note in embedder.facts.notes)


@pytest.mark.parametrize("head", ["sparse_linear", "colbert_linear"])
@pytest.mark.parametrize(
    "weight", [None, torch.ones(1, 7), torch.full((1, 32), float("nan"))],
    ids=["missing", "of another width", "not finite"],
)  # fmt: skip
def test_without_one_of_its_heads_it_gives_dense_vectors_with_a_note(
    head: str, weight: torch.Tensor | None, folder: Path, tmp_path: Path
) -> None:
    made = shutil.copytree(folder, tmp_path / "model")
    if weight is None:
        (made / f"{head}.pt").unlink()
    else:
        torch.save({"weight": weight, "bias": torch.ones(1)}, made / f"{head}.pt")
    facts = loaded(made, tmp_path / "cache").facts
    assert facts.outputs == ("dense",)
    assert any("dense vectors only" in note and head in note for note in facts.notes)


def test_terms_can_be_written_and_the_preparer_made_again(embedder: Embedder) -> None:
    (item,) = asked(embedder, ["longer"], "sparse")
    ids = [token for token in item.payload if isinstance(token, int)]
    assert "".join(embedder.terms(ids[1:-1])).strip("▁") == "longer"
    assert embedder.preparer is not None
    again = preparer_of(json.loads(json.dumps(embedder.preparer.recipe())))
    assert again.prepare(TEXTS, Prompt(), "auto") == embedder.prepare(TEXTS, Prompt(), "auto")


def test_rows_in_float32_come_from_a_copy_of_the_model(folder: Path, tmp_path: Path) -> None:
    embedder = loaded(folder, tmp_path, dtype="bfloat16")
    exact = embedder.encode_exactly(asked(embedder, TEXTS, *ALL))
    for at, text in enumerate(TEXTS):
        _, terms, tokens = formulas(folder, text)
        sparse = exact.columns["sparse"][at]
        assert isinstance(sparse, Sparse)
        np.testing.assert_allclose(sparse.values, [terms[i] for i in sorted(terms)], atol=1e-5)
        np.testing.assert_allclose(np.asarray(exact.columns["multi_vector"][at]), tokens, atol=1e-5)
