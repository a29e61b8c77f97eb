"""A text's vector is that of the text alone, whatever is beside it in a pass or came before."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers as hf
from sentence_transformers import SentenceTransformer

from config import Config, ModelSpec
from embedders import build
from embedders.base import Prompt
from tests.zoo import vocabularies
from tests.zoo.layouts import SHAPE, sentence, wild
from tests.zoo.words import prose

FITS = 64  # positions before the frequencies change
WORDS = (600, 90, 3, 150, 20, 90)  # some right after a longer one, which leaves its frequencies


def esm(folder: Path) -> None:
    """A network that scales its states by the share of masks among its tokens."""
    words = vocabularies.bert()
    config = hf.EsmConfig(
        vocab_size=len(words), pad_token_id=0, mask_token_id=4, token_dropout=True,
        position_embedding_type="rotary", intermediate_size=96, **SHAPE,
    )  # fmt: skip
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


def loaded(folder: Path, backend: str) -> Any:
    settings = {
        "device": "cpu", "dtype": "float32", "backend": backend, "supported_models": str(folder),
        "model_cache_dir": str(folder / "cache"),
    }  # fmt: skip
    spec = ModelSpec(id=str(folder), model_name=str(folder))
    return build(spec, Config.model_validate(settings))


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
