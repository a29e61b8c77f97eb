"""Sparse models of every published layout give the library's weights of terms."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.sparse_encoder.modules import (
    SparseAutoEncoder,
    SparseStaticEmbedding,
    SpladePooling,
)
from transformers import (
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from config import Config, ModelSpec
from embedders import build, sparse
from embedders.base import Embedder, Prompt, Sparse
from embedders.terms import Terms
from embedders.tokens import preparer_of
from errors import InputTooLong, ModelUnavailable
from serving.results import top_terms
from tests.zoo import vocabularies
from tests.zoo.layouts import SHAPE, bare, modules, wild, write
from tests.zoo.layouts_bert import small_bert
from tests.zoo.words import prose

TEXTS = ["hello world", "what is the weather today?", prose(30, 1), prose(200, 2), "", "a b a b"]
OLD = "sentence_transformers.sparse_encoder.models"


def masked_bert(folder: Path, **tokenizer: Any) -> None:
    """Write a BERT with its masked-language-model head, as naver/splade-v3 is."""
    words = vocabularies.bert(**{"model_max_length": 128, **tokenizer})
    bare(folder, small_bert(words, kind=BertForMaskedLM), words)


def naver_distilbert(folder: Path) -> None:
    """Write naver/splade-v3-distilbert's network."""
    words = vocabularies.bert(model_max_length=128)
    config = DistilBertConfig(vocab_size=len(words), dim=64, n_layers=2, n_heads=4, hidden_dim=96)
    bare(folder, wild(DistilBertForMaskedLM(config)), words)


def roberta(folder: Path) -> None:
    """Write a RoBERTa, whose head is of another form."""
    words = vocabularies.roberta(model_max_length=128)
    config = RobertaConfig(vocab_size=len(words), intermediate_size=96, type_vocab_size=1,
                           max_position_embeddings=130, **SHAPE)  # fmt: skip
    bare(folder, wild(RobertaForMaskedLM(config)), words)


def modernbert(folder: Path) -> None:
    """Write a ModernBERT."""
    words = vocabularies.euro(model_max_length=128)
    config = ModernBertConfig(vocab_size=len(words), intermediate_size=96, pad_token_id=0,
                              cls_token_id=2, bos_token_id=2, sep_token_id=3, eos_token_id=3,
                              **SHAPE)  # fmt: skip
    bare(folder, wild(ModernBertForMaskedLM(config)), words)


def network(folder: Path, make: Callable[[Path], None] = masked_bert) -> Transformer:
    """Return a network of the library, of a bare folder beside `folder`."""
    plain = folder.parent / "plain"
    make(plain)
    return Transformer(str(plain), transformer_task="fill-mask")


def saved(folder: Path, *parts: Any, **config: Any) -> None:
    """Save modules as the library does."""
    SparseEncoder(modules=list(parts), device="cpu", **config).save(
        str(folder), create_model_card=False
    )


def of_the_library(folder: Path) -> None:
    """Save a SPLADE with prompts as sentence-transformers 6 does."""
    prompts = {"query": "query: ", "document": "passage: "}
    saved(folder, network(folder), SpladePooling(), prompts=prompts)


def of_an_older_library(folder: Path) -> None:
    """Write a SPLADE as sentence-transformers 5 does."""
    masked_bert(folder)
    given = {"pooling_strategy": "max", "activation_function": "relu",
             "word_embedding_dimension": len(vocabularies.bert())}  # fmt: skip
    write(folder / "1_SpladePooling" / "config.json", given)
    write(folder / "sentence_bert_config.json", {"max_seq_length": 100, "do_lower_case": False})
    write(folder / "config_sentence_transformers.json",
          {"model_type": "SparseEncoder", "prompts": {"query": "", "document": ""},
           "default_prompt_name": None, "similarity_fn_name": "dot"})  # fmt: skip
    modules(folder, [f"{OLD}.MLMTransformer", f"{OLD}.SpladePooling"])


def of_sums(folder: Path) -> None:
    """Save a SPLADE of the first paper, which adds its tokens' weights."""
    saved(folder, network(folder), SpladePooling("sum"))


def of_two_logarithms(folder: Path) -> None:
    """Save one as OpenSearch's newer ones are, of at most 40 terms."""
    saved(folder, network(folder), SpladePooling(activation_function="log1p_relu"),
          max_active_dims=40)  # fmt: skip


def without_inference_for_queries(folder: Path, **config: Any) -> None:
    """Save a Router as OpenSearch's document encoders are."""
    words = vocabularies.bert(model_max_length=128)
    weight = torch.rand(len(words), generator=torch.Generator().manual_seed(2)) * 5
    weight[:5] = 0
    document = [network(folder), SpladePooling(activation_function="log1p_relu")]
    router = Router.for_query_document([SparseStaticEmbedding(words, weight)], document)
    saved(folder, router, **config)


def of_few_terms_on_either_side(folder: Path) -> None:
    """Save a Router of which each text keeps three terms."""
    without_inference_for_queries(folder, max_active_dims=3)


LAYOUTS = {
    made.__name__: made
    for made in (
        masked_bert, naver_distilbert, roberta, modernbert, of_the_library, of_an_older_library,
        of_sums, of_two_logarithms, without_inference_for_queries, of_few_terms_on_either_side,
    )
}  # fmt: skip


@pytest.fixture(scope="module", params=LAYOUTS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layout. Nothing but the configured type says what a bare network is for."""
    made = tmp_path_factory.mktemp("sparse") / "model"
    LAYOUTS[request.param](made)
    return made


def loaded(folder: Path, cache: Path, **given: Any) -> Embedder:
    """Return the embedder that the service makes of a folder."""
    entry = {"id": "m", "model_name": str(folder), "dtype": "float32", "type": "sparse", **given}
    settings = Config.model_validate({"device": "cpu", "model_cache_dir": cache})
    return build(ModelSpec.model_validate(entry), settings)


@pytest.fixture(scope="module")
def embedder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return loaded(folder, tmp_path_factory.mktemp("cache"))


def rows(embedder: Embedder, texts: list[str], prompt: Prompt) -> np.ndarray:
    """Return each text's weights of all terms, (n, vocabulary), of one pass."""
    column = embedder.encode(embedder.prepare(texts, prompt, "auto")).columns["sparse"]
    full = np.zeros((len(texts), embedder.facts.dimension), np.float32)
    for row, value in zip(full, column, strict=True):
        assert isinstance(value, Sparse)
        assert value.indices.dtype == np.int32
        assert value.values.dtype == np.float32
        assert (np.diff(value.indices) > 0).all()
        assert (value.values > 0).all()
        row[value.indices] = value.values
    return full


def test_both_sides_have_the_librarys_weights(embedder: Embedder, folder: Path) -> None:
    model = SparseEncoder(str(folder), device="cpu")
    assert embedder.facts.kind == "sparse"
    assert embedder.facts.backend in ("onnx", "packed", "flat", "torch")
    right = {
        None: model.encode(TEXTS), "query": model.encode_query(TEXTS),
        "document": model.encode_document(TEXTS),
    }  # fmt: skip
    for role, weights in right.items():
        got = rows(embedder, TEXTS, embedder.prompt(None, None, role))
        expected = weights.to_dense().numpy()
        np.testing.assert_allclose(got, expected, atol=2e-5, rtol=1e-5)
    alone = np.concatenate([rows(embedder, [text], Prompt()) for text in TEXTS])
    np.testing.assert_allclose(alone, right[None].to_dense().numpy(), atol=2e-5, rtol=1e-5)


def test_its_preparer_can_be_made_again_of_json(embedder: Embedder) -> None:
    assert embedder.preparer is not None
    again = preparer_of(json.loads(json.dumps(embedder.preparer.recipe())))
    for role in ("query", "document", None):
        prompt = embedder.prompt(None, None, role)
        assert again.prepare(TEXTS, prompt, "auto") == embedder.prepare(TEXTS, prompt, "auto")


@pytest.mark.parametrize("make", [masked_bert, without_inference_for_queries, of_sums])
def test_every_way_gives_the_same(make: Callable[[Path], None], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    make(folder)
    right = rows(loaded(folder, tmp_path, backend="torch"), TEXTS, Prompt())
    for backend in ("flat", "packed"):
        other = loaded(folder, tmp_path, backend=backend)
        assert other.facts.backend == backend
        np.testing.assert_allclose(rows(other, TEXTS, Prompt()), right, atol=2e-5, rtol=1e-5)


def test_a_pass_that_is_pooled_in_parts_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masked_bert(tmp_path / "model")
    embedder = loaded(tmp_path / "model", tmp_path)
    right = rows(embedder, TEXTS, Prompt())
    for tokens, texts in ((16, 100), (1000, 2), (1, 1)):
        monkeypatch.setattr(sparse, "TOKENS_AT_ONCE", tokens)
        monkeypatch.setattr(sparse, "MOST_NUMBERS", texts * embedder.facts.dimension)
        np.testing.assert_allclose(rows(embedder, TEXTS, Prompt()), right, atol=1e-6)


def test_half_precision_is_near_and_float32_exact(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    masked_bert(folder)
    embedder = loaded(folder, tmp_path, dtype="bfloat16")
    right = SparseEncoder(str(folder), device="cpu").encode(TEXTS).to_dense().numpy()
    got = rows(embedder, TEXTS, Prompt())
    cosines = (got * right).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(right, axis=1)
    assert cosines.min() > 0.998
    items = embedder.prepare(TEXTS, Prompt(), "auto")
    for value, row in zip(embedder.encode_exactly(items).columns["sparse"], right, strict=True):
        assert isinstance(value, Sparse)
        np.testing.assert_allclose(value.values, row[value.indices], atol=2e-5, rtol=1e-5)


def test_what_is_not_a_number_is_not_lost(tmp_path: Path) -> None:
    masked_bert(tmp_path / "model")
    embedder = loaded(tmp_path / "model", tmp_path, backend="torch")
    network = SparseEncoder(str(tmp_path / "model"), device="cpu")[0].auto_model
    terms = Terms(network.get_output_embeddings(), torch.float32, SpladePooling(), None)
    states = torch.randn(5, 64)
    states[1] = torch.nan
    with torch.inference_mode():
        found = terms(states, [3, 2])
    assert found[0].isnan().all()
    assert found[1].isfinite().all()
    assert embedder.facts.dimension == found.shape[1]


def test_a_table_of_sparse_codes_is_run_by_the_library(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    words = vocabularies.bert(model_max_length=64)
    bare(tmp_path / "plain", small_bert(words), words)
    torch.manual_seed(3)
    parts = (Transformer(str(tmp_path / "plain")), Pooling(64, "mean"),
             SparseAutoEncoder(64, hidden_dim=256, k=16))  # fmt: skip
    saved(folder, *parts)
    embedder = loaded(folder, tmp_path, type="auto")
    assert embedder.facts.backend == "library"
    assert any("library" in note or "itself" in note for note in embedder.facts.notes)
    right = SparseEncoder(str(folder), device="cpu").encode(TEXTS[:4]).to_dense().numpy()
    np.testing.assert_allclose(rows(embedder, TEXTS[:4], Prompt()), right, atol=1e-5)


def test_an_input_over_the_limit_is_cut_and_told_or_refused(tmp_path: Path) -> None:
    without_inference_for_queries(tmp_path / "model")
    embedder = loaded(tmp_path / "model", tmp_path, max_seq_length=20)
    for role in ("query", "document"):
        prompt = embedder.prompt(None, None, role)
        (item,) = embedder.prepare([prose(50, 3)], prompt, "auto")
        assert (item.tokens, item.truncated) == (20, True)
        with pytest.raises(InputTooLong):
            embedder.prepare(["short", prose(50, 3)], prompt, "error")


def test_terms_can_be_written(tmp_path: Path) -> None:
    without_inference_for_queries(tmp_path / "model")
    embedder = loaded(tmp_path / "model", tmp_path)
    prompt = embedder.prompt(None, None, "query")
    (value,) = embedder.encode(embedder.prepare(["the a"], prompt, "auto")).columns["sparse"]
    assert isinstance(value, Sparse)
    assert sorted(embedder.terms(value.indices.tolist())) == ["a", "the"]


@pytest.mark.parametrize("path", ["idf.json", "/etc/weights.json", "someone/model"])
def test_a_table_that_is_another_file_is_refused(tmp_path: Path, path: str) -> None:
    """The library looks for it in the folder that the service was started in, or on the hub."""
    without_inference_for_queries(tmp_path / "model")
    (table,) = (tmp_path / "model").glob("query_0_*")
    write(table / "config.json", {"path": path})
    with pytest.raises(ModelUnavailable, match=path):
        loaded(tmp_path / "model", tmp_path)


def test_a_table_without_a_router_is_refused(tmp_path: Path) -> None:
    """The network alone would read queries as it reads documents."""
    masked_bert(tmp_path / "model")
    write(tmp_path / "model" / "idf.json", {"the": 0.1})
    with pytest.raises(ModelUnavailable, match=r"idf\.json.*modules\.json"):
        loaded(tmp_path / "model", tmp_path, type="auto")


def test_a_network_without_a_trained_head_is_refused(tmp_path: Path) -> None:
    """The library would put random numbers in its place."""
    words = vocabularies.bert()
    bare(tmp_path / "splade-model", small_bert(words), words)
    with pytest.raises(ModelUnavailable, match="no trained SparseAutoEncoder"):
        loaded(tmp_path / "splade-model", tmp_path, type="auto")


def test_dimensions_are_refused(tmp_path: Path) -> None:
    masked_bert(tmp_path / "model")
    with pytest.raises(ModelUnavailable, match="dimensions 8"):
        loaded(tmp_path / "model", tmp_path, dimensions=8)


def test_the_heaviest_terms_stay_in_their_order() -> None:
    given = Sparse(np.array([2, 5, 7, 9], np.int32), np.array([0.5, 2.0, 0.5, 1.0], np.float32))
    assert top_terms(given, 2).indices.tolist() == [5, 9]
    assert top_terms(given, 3).indices.tolist() == [2, 5, 9]
    assert top_terms(given, None, 0.75).values.tolist() == [2.0, 1.0]
    assert top_terms(given, 1, 3.0).indices.tolist() == []
    assert top_terms(given) == given
    signed = Sparse(given.indices, np.array([0.5, -2.0, -0.5, 1.0], np.float32))
    assert top_terms(signed, 2).indices.tolist() == [5, 9]
    assert top_terms(signed, None, 0.75).values.tolist() == [-2.0, 1.0]
