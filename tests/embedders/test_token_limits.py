"""An input is read as far as the model reads it, and cut where the library cuts it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import (
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    LongformerConfig,
    LongformerModel,
    MPNetConfig,
    MPNetModel,
    NomicBertConfig,
    NomicBertModel,
    OPTConfig,
    OPTModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    XLMRobertaXLConfig,
    XLMRobertaXLModel,
    XLNetConfig,
    XLNetModel,
)

from config import Config, ModelSpec
from embedders.backends import local
from embedders.base import Embedder, Prompt
from embedders.tokens import MOST_TOKENS, positions
from errors import InputTooLong
from tests.zoo.layouts_bert import bert
from tests.zoo.service import Service

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 99}
ROTARY = {**TINY, "intermediate_size": 32}
NONE = MOST_TOKENS
ASKS = "Represent the question for retrieval: "  # 20 tokens with the special ones


@pytest.mark.parametrize(
    ("network", "most"),
    [
        (lambda: BertModel(BertConfig(**TINY, max_position_embeddings=300)), 300),
        (lambda: RobertaModel(RobertaConfig(**TINY, max_position_embeddings=514)), 512),
        (lambda: RobertaModel(RobertaConfig(**TINY, max_position_embeddings=514,
                                            pad_token_id=0)), 513),
        (lambda: XLMRobertaXLModel(XLMRobertaXLConfig(**TINY, max_position_embeddings=514)), 512),
        (lambda: LongformerModel(LongformerConfig(**TINY, max_position_embeddings=130,
                                                  attention_window=16)), 128),
        (lambda: MPNetModel(MPNetConfig(**TINY, max_position_embeddings=130)), 128),
        (lambda: DistilBertModel(DistilBertConfig(dim=32, hidden_dim=32, n_layers=1, n_heads=2,
                                                  vocab_size=99, max_position_embeddings=90)), 90),
        (lambda: GPT2Model(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=99,
                                      n_positions=77)), 77),
        (lambda: OPTModel(OPTConfig(**TINY, ffn_dim=32, word_embed_proj_dim=32,
                                    max_position_embeddings=66)), 66),
        (lambda: DebertaV2Model(DebertaV2Config(**TINY, relative_attention=True,
                                                position_biased_input=False)), NONE),
        (lambda: T5EncoderModel(T5Config(d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2,
                                         vocab_size=99)), NONE),
        (lambda: XLNetModel(XLNetConfig(d_model=32, n_layer=1, n_head=2, d_inner=32,
                                        vocab_size=99)), NONE),
        (lambda: LlamaModel(LlamaConfig(**ROTARY, max_position_embeddings=64)), NONE),
        (lambda: NomicBertModel(NomicBertConfig(**ROTARY, max_position_embeddings=64)), NONE),
    ],
)  # fmt: skip
def test_the_table_of_positions_is_measured_and_not_named(
    network: Callable[[], object], most: int
) -> None:
    made = network().eval()
    assert positions(made, made.config.pad_token_id) == most


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Embedder]:
    """Write a BERT with the given facts and load it."""

    def make(entry: dict | None = None, **facts: object) -> Embedder:
        bert(tmp_path / "bert", **facts)
        given = {
            "id": "m",
            "model_name": str(tmp_path / "bert"),
            "dtype": "float32",
            **(entry or {}),
        }
        return local(
            ModelSpec.model_validate(given), Config(device="cpu", model_cache_dir=tmp_path)
        )

    return make


def lengths(embedder: Embedder, text: str) -> list[int]:
    prompts = [Prompt(), Prompt(task="query"), Prompt(task="document")]
    return [embedder.prepare([text], prompt, "auto")[0].tokens for prompt in prompts]


def test_each_side_of_a_retrieval_has_its_own_limit(load: Callable[..., Embedder]) -> None:
    embedder = load(limit=64, more={"query_length": 12, "document_length": 99})
    assert lengths(embedder, "word " * 200) == [64, 12, 99]  # as the library: each its own
    with pytest.raises(InputTooLong, match="limit of 12"):
        embedder.prepare(["word " * 20], Prompt(task="query"), "error")


def test_the_librarys_own_processing_keeps_its_length(load: Callable[..., Embedder]) -> None:
    for length in (20, 100):
        embedder = load(limit=64, more={"processing_kwargs": {"text": {"max_length": length}}})
        assert lengths(embedder, "word " * 200) == [length] * 3
        assert embedder.facts.max_tokens == length
        assert embedder.facts.backend == "onnx"


def test_a_wish_for_fewer_tokens_bounds_every_side(load: Callable[..., Embedder]) -> None:
    embedder = load({"max_seq_length": 10}, limit=64, more={"query_length": 32})
    assert lengths(embedder, "word " * 200) == [10, 10, 10]


def test_a_prompt_that_is_left_out_is_counted_within_the_requests_limit(
    load: Callable[..., Embedder], tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    embedder = load(include_prompt=False, prompts={"query": ASKS})
    model = SentenceTransformer(str(tmp_path / "bert"), device="cpu")
    for limit in (3, 16, 19, 20, 24):
        model.max_seq_length = limit
        model[0]._prompt_length_mapping.clear()
        theirs = model.encode(["a mouse", "word " * 30], prompt=ASKS)
        items = embedder.prepare(["a mouse", "word " * 30], Prompt(ASKS, limit=limit), "auto")
        assert np.abs(theirs).max() > 0.1
        np.testing.assert_allclose(embedder.encode(items).vectors, theirs, atol=1e-5)


def test_a_text_that_is_cut_to_a_prompt_that_is_left_out_is_refused(tmp_path: Path) -> None:
    """Its vector would be all zeros, as it is in the library."""
    bert(tmp_path / "m", include_prompt=False, prompts={"query": ASKS}, more={"query_length": 12})
    service = Service(tmp_path / "m", "float32")
    try:
        asked = {"input": ["a", "b"], "input_type": "query"}
        refused = service.client.post("/v1/embeddings", json=asked)
        assert (refused.status_code, refused.json["code"]) == (400, 400), refused.text
        assert refused.json["message"].startswith("input 0: the 12 tokens that are read of it")
        asked["input_type"] = "document"
        assert service.client.post("/v1/embeddings", json=asked).status_code == 200
        shown = service.client.post("/embed_all", json={"inputs": "a", "prompt_name": "query"})
        assert shown.status_code == 200, "the states of the prompt's tokens are no zeros"
    finally:
        service.close()


@pytest.mark.parametrize("side", ["auto", "right", "left"])
def test_long_words_are_read_as_far_as_the_limit_has_tokens(
    load: Callable[..., Embedder], side: str
) -> None:
    """A word of 300 letters is one token of WordPiece: 250 characters a token are too few."""
    embedder = load(limit=64)
    text = " ".join(["x" * 300] * 60 + ["a"] * 2)
    (item,) = embedder.prepare([text], Prompt(), side)
    assert (item.tokens, item.truncated) == (64, False)
    (longer,) = embedder.prepare([f"{text} and more {text}"], Prompt(), side)
    assert (longer.tokens, longer.truncated) == (64, True)
    (blank,) = embedder.prepare([" " * 20_000], Prompt(), side)
    assert (blank.tokens, blank.truncated) == (2, False)


def test_padding_that_stands_in_a_text_has_the_librarys_vector(tmp_path: Path) -> None:
    """RoBERTa passes over padding when it numbers positions, wherever it stands."""
    from sentence_transformers import SentenceTransformer

    from tests.zoo.layouts_bert import roberta_mean

    roberta_mean(tmp_path / "roberta")
    spec = ModelSpec(id="m", model_name=str(tmp_path / "roberta"), dtype="float32")
    embedder = local(spec, Config(device="cpu", model_cache_dir=tmp_path))
    assert embedder.facts.backend in ("onnx", "packed")
    texts = ["one <pad> two <pad><pad> three", "<pad> one", "one two three"]
    ours = embedder.encode(embedder.prepare(texts, Prompt(), "auto")).vectors
    theirs = SentenceTransformer(str(tmp_path / "roberta"), device="cpu").encode(texts)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("dimensions", [1, 24, 64])
def test_vectors_are_as_short_as_the_entry_says(
    load: Callable[..., Embedder], dimensions: int
) -> None:
    embedder = load({"dimensions": dimensions})
    assert embedder.facts.dimension == dimensions
    vectors = embedder.encode(embedder.prepare(["a b"], Prompt(), "auto")).vectors
    assert vectors.shape == (1, dimensions)
