"""A text's result is that of the text alone, whatever is beside it in a pass or came before."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from sentence_transformers import CrossEncoder, SentenceTransformer

from config import Config, ModelSpec
from embedders import build
from embedders.base import Pair, Prompt
from tests.embedders.rerankers import encoder, qwen3_for_scores
from tests.embedders.test_multi_vector import projection
from tests.zoo import vocabularies
from tests.zoo.layouts import FIRST, SHAPE, bare, modules, sentence, wild, write
from tests.zoo.words import prose

FITS = 64  # positions before the frequencies change
WORDS = (600, 90, 3, 150, 20, 90)  # some right after a longer one, which leaves its frequencies
# A network that scales its states by the share of masks among its tokens.
MASKS = {"pad_token_id": 0, "mask_token_id": 4, "token_dropout": True,
         "position_embedding_type": "rotary", "intermediate_size": 96}  # fmt: skip


def long_row(*given: object) -> Any:
    """A row of `make test-long`: each of its values is in another row too."""
    return pytest.param(*given, marks=pytest.mark.long)


def esm(folder: Path) -> None:
    words = vocabularies.bert()
    config = hf.EsmConfig(vocab_size=len(words), **MASKS, **SHAPE)
    sentence(folder, wild(hf.EsmModel(config)), words, "mean", limit=256)


def dynamic(folder: Path) -> None:
    words = vocabularies.llama("<s> $A")
    rotary = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0}
    config = hf.LlamaConfig(
        vocab_size=len(words), num_key_value_heads=2, max_position_embeddings=FITS,
        rope_parameters=rotary, intermediate_size=96, **SHAPE,
    )  # fmt: skip
    sentence(folder, wild(hf.LlamaModel(config)), words, "mean", limit=2000)


def long(folder: Path) -> None:
    words = vocabularies.qwen(False)
    rotary = {
        "rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1.0] * 8,
        "long_factor": [1.0 + i for i in range(8)], "original_max_position_embeddings": FITS,
    }  # fmt: skip
    config = hf.Phi3Config(
        vocab_size=len(words), num_key_value_heads=2, sliding_window=None, pad_token_id=0,
        max_position_embeddings=2000, original_max_position_embeddings=FITS,
        rope_parameters=rotary, intermediate_size=96, **SHAPE,
    )  # fmt: skip
    sentence(folder, wild(hf.Phi3Model(config)), words, "mean", limit=1900)


def loaded(folder: Path, backend: str, dtype: str = "float32", kind: str = "auto") -> Any:
    settings = {
        "device": "cpu", "dtype": dtype, "backend": backend, "supported_models": str(folder),
        "model_cache_dir": str(folder / "cache"),
    }  # fmt: skip
    spec = {"id": str(folder), "model_name": str(folder), "type": kind}
    return build(ModelSpec.model_validate(spec), Config.model_validate(settings))


@pytest.mark.parametrize("network", [esm, dynamic, long])
def test_company_and_what_came_before_change_no_vector(network: Any, tmp_path: Path) -> None:
    network(tmp_path)
    texts = [prose(count, at) for at, count in enumerate(WORDS)]
    if network is esm:
        texts = [*texts[1:4], "[MASK] plum", "we [MASK] hats [MASK]", "[PAD] we [MASK]"]
    right = np.concatenate([  # of a model that has read nothing else
        SentenceTransformer(str(tmp_path), device="cpu").encode([text]) for text in texts
    ])  # fmt: skip
    embedder = loaded(tmp_path, "flat")
    try:
        items = embedder.prepare(texts, Prompt(), "auto")
        alone = np.concatenate([embedder.encode([item]).vectors for item in items])
        for found in alone, embedder.encode(items).vectors, alone:
            np.testing.assert_allclose(found, right, rtol=1e-3, atol=1e-4)
        assert not embedder.facts.backend.startswith("flat")
    finally:
        embedder.close()


MASKED = [  # companies of pairs; one of them is in each
    [Pair("we [MASK] hats", "[MASK] plum"), Pair("a plum", prose(3, 1)), Pair("a", prose(40, 2))],
    [Pair("a plum", prose(3, 1)), Pair("[MASK]", "[MASK] " * 30), Pair("a plum", prose(3, 1))],
    [Pair("[PAD] we", f"[SEP] [CLS] {prose(9, 3)} [PAD] [PAD]"), Pair("a plum", prose(3, 1))],
]


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [(1, "float32"), (3, "bfloat16"), long_row(1, "bfloat16"), long_row(3, "float32")],
)
def test_masks_of_other_pairs_change_no_score(labels: int, dtype: str, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    encoder(folder, "Esm", vocabularies.bert(), labels, **MASKS)
    model = CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": dtype})
    embedder = loaded(folder, "flat", dtype)
    try:
        assert not embedder.facts.backend.startswith("flat")
        for pairs in MASKED:
            right = [
                model.predict([list(pair)], activation_fn=torch.nn.Identity()) for pair in pairs
            ]
            found = embedder.encode(embedder.prepare_pairs(pairs, Prompt(), "auto"))
            scores = np.asarray(found.columns["score"])
            most = 1e-4 if dtype == "float32" else 0.03
            np.testing.assert_allclose(scores, np.reshape(right, scores.shape), atol=most, rtol=0)
    finally:
        embedder.close()


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("dense", "float32"), ("sparse", "bfloat16"), ("multi_vector", "float32"),
     long_row("dense", "bfloat16"), long_row("sparse", "float32"),
     long_row("multi_vector", "bfloat16")],
)  # fmt: skip
def test_a_network_that_counts_masks_over_a_pass_runs_flat_for_no_kind_of_model(
    kind: str, dtype: str, tmp_path: Path
) -> None:
    if kind == "dense":
        esm(tmp_path)
    else:
        words = vocabularies.bert(model_max_length=128)
        config = hf.EsmConfig(vocab_size=len(words), **MASKS, **SHAPE)
        network = hf.EsmForMaskedLM(config) if kind == "sparse" else hf.EsmModel(config)
        bare(tmp_path, wild(network), words)
    if kind == "multi_vector":
        projection(tmp_path / "1_Dense")
        modules(tmp_path, [FIRST, "pylate.models.Dense.Dense"])
        write(tmp_path / "config_sentence_transformers.json", {"model_type": "ColBERT"})
    embedder = loaded(tmp_path, "flat", dtype, "sparse" if kind == "sparse" else "auto")
    try:
        assert not embedder.facts.backend.startswith("flat")
    finally:
        embedder.close()


@pytest.mark.parametrize("backend", ["flat", "torch"])
def test_the_last_token_of_a_decoder_is_the_one_that_transformers_takes(
    backend: str, tmp_path: Path
) -> None:
    """Its heads for scores pass over padding at a text's end, where the text itself holds it."""
    folder = tmp_path / "m"
    qwen3_for_scores(folder)
    pad = vocabularies.qwen(ends=False).pad_token
    pairs = [
        Pair("a query", text) for text in ("a plum", f"a plum{pad}", f"{pad}{pad}", f"{pad} a")
    ]
    model = CrossEncoder(str(folder), device="cpu")
    right = [model.predict([list(pair)], activation_fn=torch.nn.Identity()) for pair in pairs]
    embedder = loaded(folder, backend)
    try:
        assert embedder.facts.backend == backend
        found = embedder.encode(embedder.prepare_pairs(pairs, Prompt(), "auto")).columns["score"]
        np.testing.assert_allclose(found, np.reshape(right, (4, 1)), atol=1e-4, rtol=0)
    finally:
        embedder.close()
