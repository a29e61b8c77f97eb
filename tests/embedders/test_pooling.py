"""`"pooling"` in a model's entry: what a folder without modules.json does not say."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel

from config import Config, ModelSpec
from embedders.backends import local
from embedders.base import Embedder, Prompt
from errors import ModelUnavailable
from serving.checks import check
from tests.zoo import vocabularies
from tests.zoo.layouts import SHAPE, bare, sentence, wild

TEXTS = ["one", "two words and some more of them", "a text of several words, " * 9, ""]


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Embedder]:
    """Load the model in a folder, with this pooling in its entry."""

    def make(folder: Path, pooling: str | None = None) -> Embedder:
        entry = {"id": "m", "model_name": str(folder), "dtype": "float32", "pooling": pooling}
        settings = Config(device="cpu", model_cache_dir=tmp_path / "cache")
        embedder = local(ModelSpec.model_validate(entry), settings)
        check(embedder)
        return embedder

    return make


def network() -> tuple[BertModel, object]:
    tokenizer = vocabularies.bert()
    config = BertConfig(
        vocab_size=len(tokenizer), intermediate_size=128, max_position_embeddings=64, **SHAPE
    )
    return wild(BertModel(config)), tokenizer


def vectors(embedder: Embedder) -> np.ndarray:
    return embedder.encode(embedder.prepare(TEXTS, Prompt(), "auto")).vectors


def test_a_plain_encoder_pools_as_its_entry_says(
    load: Callable[..., Embedder], tmp_path: Path
) -> None:
    bare(tmp_path / "plain", *network())
    found = {mode: load(tmp_path / "plain", mode) for mode in ("mean", "cls", "lasttoken")}
    for mode, embedder in found.items():
        parts = Transformer(str(tmp_path / "plain")), Pooling(64, mode)
        library = SentenceTransformer(modules=list(parts), device="cpu").encode(TEXTS)
        assert np.allclose(vectors(embedder), library, atol=1e-5), mode
        assert embedder.facts.pooling == mode
        assert not any("mean pooling" in note for note in embedder.facts.notes)
    assert len({embedder.facts.fingerprint for embedder in found.values()}) == 3
    plain = load(tmp_path / "plain")
    assert np.array_equal(vectors(plain), vectors(found["mean"]))
    assert any("mean pooling" in note for note in plain.facts.notes)


def test_a_model_that_says_how_it_pools_is_not_changed(
    load: Callable[..., Embedder], tmp_path: Path
) -> None:
    sentence(tmp_path / "whole", *network(), "mean")
    assert load(tmp_path / "whole", "mean").facts.pooling == "mean"
    with pytest.raises(ModelUnavailable, match="was made with mean pooling"):
        load(tmp_path / "whole", "cls")
