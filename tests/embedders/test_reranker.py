"""Rerankers and classifiers give the scores that the library's CrossEncoder gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config import Config, ModelSpec
from embedders.backends import local
from embedders.base import Embedder, Pair, Prompt, Vectors
from embedders.causal import RELEVANCE, WEB_SEARCH
from embedders.pairs import PairTokenizer, shares
from embedders.tokens import preparer_of
from errors import BadRequest, InputTooLong, ModelUnavailable
from serving.checks import check
from tests.embedders.rerankers import (
    FOR_PAIRS,
    POSITIONS,
    RERANKERS,
    causal,
    encoder,
    ms_marco_minilm,
)
from tests.zoo import vocabularies
from tests.zoo.words import prose

QUERY = "which animal sleeps all day"
DOCUMENTS = ["a", "the cat sleeps all day", *(prose(n, n) for n in (12, 40, 90)), "", "naïve 猫"]
PAIRS = [Pair(QUERY, each) for each in DOCUMENTS] + [Pair(prose(30, 30), "dog")]
# What runs each of them where torch may compute as it likes, in float32.
BACKENDS = {
    "cross-encoder/ms-marco-MiniLM-L6-v2": "onnx",
    "BAAI/bge-reranker-v2-m3": "onnx",
    "Alibaba-NLP/gte-reranker-modernbert-base": "flat",
    "cross-encoder/ms-marco-electra-base": "flat",
    "mixedbread-ai/mxbai-rerank-base-v1": "torch",
    "cross-encoder/nli-roberta-base": "onnx",
    "tomaarsen/Qwen3-Reranker-0.6B-seq-cls": "flat",
    "Qwen/Qwen3-Reranker-0.6B": "flat",
    "mixedbread-ai/mxbai-rerank-base-v2": "flat",
    "of-the-library/causal": "flat",
    "of-the-library/bert": "onnx",
    "of-its-own/xlnet": "library",
}
PUBLISHED = ("Qwen/Qwen3-Reranker-0.6B", "mixedbread-ai/mxbai-rerank-base-v2")
PLAIN = Prompt()
Load = Callable[..., Embedder]


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Write each reranker's folder, once."""
    root = tmp_path_factory.mktemp("rerankers")

    def write(name: str) -> Path:
        folder = root / name
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            RERANKERS[name](folder)
        return folder

    return write


@pytest.fixture(scope="session")
def load(folder_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Load a reranker of the register, or one in a folder."""
    cache = tmp_path_factory.mktemp("cache")

    def loaded(name: str | Path, **entry: Any) -> Embedder:
        folder = folder_of(name) if isinstance(name, str) else name
        given = {"id": "m", "model_name": str(folder), "dtype": "float32", **entry}
        return local(ModelSpec.model_validate(given), Config(device="cpu", model_cache_dir=cache))

    return loaded


def raw(embedder: Embedder, pairs: list[Pair], prompt: Prompt = PLAIN) -> Vectors:
    """Return the raw scores of one pass."""
    scores = embedder.encode(embedder.prepare_pairs(pairs, prompt, "auto")).columns["score"]
    assert isinstance(scores, np.ndarray) and scores.dtype == np.float32
    return scores


def library(folder: Path, pairs: list[Pair], **options: Any) -> Vectors:
    """Return the raw scores that `CrossEncoder.predict` gives each pair alone."""
    import torch
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), device="cpu", **options.pop("loading", {}))
    found = [
        model.predict([list(pair)], activation_fn=torch.nn.Identity(), **options) for pair in pairs
    ]
    return np.concatenate(found).reshape(len(pairs), -1)


@pytest.mark.parametrize("name", [name for name in RERANKERS if name not in PUBLISHED])
def test_scores_are_those_of_the_library_alone_and_in_a_pass(
    name: str, load: Load, folder_of: Callable[[str], Path]
) -> None:
    embedder, pairs = load(name), PAIRS
    check(embedder)
    assert embedder.facts.backend == BACKENDS[name]
    if name == "of-its-own/xlnet":
        pairs = [pair for pair in PAIRS if pair.document]
    theirs = library(folder_of(name), pairs, prompt="")
    np.testing.assert_allclose(raw(embedder, pairs), theirs, atol=1e-4, rtol=0)
    alone = np.concatenate([raw(embedder, [pair]) for pair in pairs])
    np.testing.assert_allclose(alone, theirs, atol=1e-4, rtol=0)
    assert np.ptp(theirs, axis=0).max() > 0.1, "scores that are all alike prove nothing"


@pytest.mark.parametrize("backend", ["onnx", "packed", "torch"])
@pytest.mark.parametrize("name", ["cross-encoder/ms-marco-MiniLM-L6-v2", "BAAI/bge-reranker-v2-m3"])
def test_every_way_through_the_network_gives_the_same_scores(
    name: str, backend: str, load: Load, folder_of: Callable[[str], Path]
) -> None:
    embedder = load(name, backend=backend)
    assert embedder.facts.backend == backend
    np.testing.assert_allclose(raw(embedder, PAIRS), library(folder_of(name), PAIRS), atol=1e-4)


@pytest.mark.parametrize("name", ["cross-encoder/ms-marco-MiniLM-L6-v2", "BAAI/bge-reranker-v2-m3",
                                  "Alibaba-NLP/gte-reranker-modernbert-base"])  # fmt: skip
def test_half_precision_stays_near_the_scores_in_full(
    name: str, load: Load, folder_of: Callable[[str], Path]
) -> None:
    embedder = load(name, dtype="bfloat16")
    assert embedder.facts.backend in ("packed", "flat")
    theirs = library(folder_of(name), PAIRS)
    assert np.abs(raw(embedder, PAIRS) - theirs).max() < 0.05 * np.ptp(theirs)


def by_recipe(folder: Path, text: Callable[[Pair], list[str]], answers: tuple[str, str]) -> Vectors:
    """Return the log-odds of the answers after segments that are tokenized apart."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForCausalLM.from_pretrained(folder).eval()
    true, false = (tokenizer(word, add_special_tokens=False)["input_ids"] for word in answers)
    scores = []
    for pair in PAIRS:
        segments = [tokenizer(s, add_special_tokens=False)["input_ids"] for s in text(pair)]
        ids = torch.tensor([[token for segment in segments for token in segment]])
        with torch.inference_mode():
            logits = network(input_ids=ids).logits[0, -1]
        scores.append([float(logits[true[0]] - logits[false[0]])])
    return np.array(scores, np.float32)


QWEN3_START = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
QWEN3_END = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
MXBAI_START = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    "<|im_end|>\n<|im_start|>user\n"
)


@pytest.mark.parametrize("instruction", ["", "Find the animal"])
def test_qwen3_reranker_answers_by_its_published_recipe(
    instruction: str, load: Load, folder_of: Callable[[str], Path]
) -> None:
    embedder = load(PUBLISHED[0])
    check(embedder)
    asks = "<Instruct>: {}\n<Query>: {}\n<Document>: {}"

    def text(pair: Pair) -> list[str]:
        return [QWEN3_START, asks.format(instruction or WEB_SEARCH, *pair), QWEN3_END]

    theirs = by_recipe(folder_of(PUBLISHED[0]), text, ("yes", "no"))
    np.testing.assert_allclose(raw(embedder, PAIRS, Prompt(instruction)), theirs, atol=1e-4, rtol=0)
    assert (embedder.facts.backend, embedder.facts.activation) == ("flat", "sigmoid")


@pytest.mark.parametrize("instruction", ["", "Find the animal"])
def test_mxbai_rerank_v2_answers_by_its_published_recipe(
    instruction: str, load: Load, folder_of: Callable[[str], Path]
) -> None:
    embedder = load(PUBLISHED[1])

    def text(pair: Pair) -> list[str]:
        query = f"query: {pair.query}"
        query = f"instruction: {instruction}\n{query}" if instruction else query
        end = "<|im_end|>\n<|im_start|>assistant\n"
        return [MXBAI_START, query, "\n", f"document: {pair.document}", "\n", RELEVANCE, end]

    theirs = by_recipe(folder_of(PUBLISHED[1]), text, ("1", "0"))
    np.testing.assert_allclose(raw(embedder, PAIRS, Prompt(instruction)), theirs, atol=1e-4, rtol=0)


def test_a_template_of_the_entry_makes_a_language_model_a_reranker(
    load: Load, tmp_path: Path
) -> None:
    folder = tmp_path / "anything"
    causal(folder, "Qwen3", vocabularies.CHAT, head_dim=16, max_position_embeddings=POSITIONS)
    template = "A: {query}\nB: {document}\nanswers? "
    prompts = {"template": template, "true_token": "1", "false_token": "0"}
    embedder = load(folder, type="reranker", prompts=prompts)

    def text(pair: Pair) -> list[str]:
        return [template.format(query=pair.query, document=pair.document)]

    theirs = by_recipe(folder, text, ("1", "0"))
    np.testing.assert_allclose(raw(embedder, PAIRS), theirs, atol=1e-4, rtol=0)
    assert embedder.facts.prompts == {}
    with pytest.raises(BadRequest, match="takes no instruction"):
        raw(embedder, PAIRS, Prompt("Find it: "))


def test_a_language_model_without_a_known_template_is_refused_with_what_it_needs(
    load: Load, tmp_path: Path
) -> None:
    folder = tmp_path / "anything"
    causal(folder, "Qwen3", vocabularies.CHAT, head_dim=16)
    with pytest.raises(ModelUnavailable, match="template for pairs is not known"):
        load(folder, type="reranker")
    with pytest.raises(ModelUnavailable, match="is a chat model"):
        load(folder)


def test_prompts_go_before_the_query_as_the_library_puts_them(
    load: Load, folder_of: Callable[[str], Path]
) -> None:
    embedder, folder = load("of-the-library/bert"), folder_of("of-the-library/bert")
    assert embedder.facts.default_prompt_name == "query"
    default, named = embedder.prompt(None, None), embedder.prompt("title", None)
    np.testing.assert_allclose(raw(embedder, PAIRS, default), library(folder, PAIRS), atol=1e-4)
    theirs = library(folder, PAIRS, prompt_name="title")
    np.testing.assert_allclose(raw(embedder, PAIRS, named), theirs, atol=1e-4)


def test_a_chat_template_s_system_message_is_the_instruction(
    load: Load, folder_of: Callable[[str], Path]
) -> None:
    assert "system" in FOR_PAIRS
    embedder, folder = load("of-the-library/causal"), folder_of("of-the-library/causal")
    theirs = library(folder, PAIRS, prompt="Find the animal.")
    np.testing.assert_allclose(raw(embedder, PAIRS, Prompt("Find the animal.")), theirs, atol=1e-4)


@pytest.mark.parametrize("name", ["cross-encoder/ms-marco-MiniLM-L6-v2", "Qwen/Qwen3-Reranker-0.6B",
                                  "of-the-library/causal"])  # fmt: skip
def test_of_a_pair_that_is_too_long_the_document_is_cut_and_it_is_told(
    name: str, load: Load
) -> None:
    embedder = load(name, max_seq_length=280)
    long = " ".join(f"cat {n} {prose(40, 40)}" for n in range(30))
    fits, cut = embedder.prepare_pairs([Pair(QUERY, "cat"), Pair(QUERY, long)], Prompt(), "auto")
    assert (fits.truncated, cut.truncated, cut.tokens) == (False, True, 280)
    (other,) = embedder.prepare_pairs([Pair(QUERY, "dog")], Prompt(), "auto")
    start = [a == b for a, b in zip(fits.payload, other.payload, strict=False)].index(False)
    assert start > 5 and list(cut.payload)[:start] == list(fits.payload)[:start], (
        "the query is whole"
    )
    (left,) = embedder.prepare_pairs([Pair(QUERY, long)], Prompt(), "left")
    assert left.tokens == 280 and list(left.payload) != list(cut.payload)
    assert list(left.payload)[-1] == list(cut.payload)[-1] == list(fits.payload)[-1]
    with pytest.raises(InputTooLong, match="280 tokens") as refusal:
        embedder.prepare_pairs([Pair(QUERY, "cat"), Pair(QUERY, long)], Prompt(), "error")
    assert refusal.value.index == 1
    (both,) = embedder.prepare_pairs([Pair(long, long)], Prompt(), "auto")
    assert both.truncated and both.tokens <= 280


def test_a_document_of_a_megabyte_costs_no_more_than_its_start(load: Load) -> None:
    embedder = load("cross-encoder/ms-marco-MiniLM-L6-v2")
    huge = "the cat sleeps " * 70_000
    (item,) = embedder.prepare_pairs([Pair(QUERY, huge)], Prompt(), "auto")
    (start,) = embedder.prepare_pairs([Pair(QUERY, huge[:20_000])], Prompt(), "auto")
    assert item == start and item.truncated


@pytest.mark.parametrize(
    ("query", "document", "room", "kept"),
    [(3, 4, 10, (3, 4)), (3, 40, 10, (3, 7)), (30, 4, 10, (6, 4)), (30, 40, 11, (5, 6)),
     (40, 30, 11, (6, 5)), (5, 6, 10, (5, 5))],
)  # fmt: skip
def test_the_query_keeps_at_least_half_of_the_room(
    query: int, document: int, room: int, kept: tuple[int, int]
) -> None:
    assert shares(query, document, room) == kept


def test_a_classifier_reads_pairs_and_texts_alone(
    load: Load, folder_of: Callable[[str], Path]
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    name = "cross-encoder/nli-roberta-base"
    embedder, folder = load(name), folder_of(name)
    facts = embedder.facts
    assert (facts.kind, facts.activation) == ("classifier", "softmax")
    assert facts.labels == ("contradiction", "entailment", "neutral")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    theirs = network(**tokenizer([QUERY], return_tensors="pt")).logits.detach().numpy()
    found = embedder.encode(embedder.prepare([QUERY], Prompt(), "auto")).columns["score"]
    np.testing.assert_allclose(np.asarray(found), theirs, atol=1e-4)


@pytest.mark.parametrize("name", ["cross-encoder/ms-marco-MiniLM-L6-v2", "BAAI/bge-reranker-v2-m3",
                                  "tomaarsen/Qwen3-Reranker-0.6B-seq-cls"])  # fmt: skip
def test_a_network_with_one_label_scores_a_text_alone(
    name: str, load: Load, folder_of: Callable[[str], Path]
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    embedder, folder = load(name), folder_of(name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        theirs = [
            float(network(**tokenizer([t], return_tensors="pt")).logits) for t in DOCUMENTS[:4]
        ]
    items = embedder.prepare(DOCUMENTS[:4], Prompt(), "auto")
    found = np.asarray(embedder.encode(items).columns["score"])
    np.testing.assert_allclose(found[:, 0], theirs, atol=1e-4)
    assert np.ptp(found) > 0.01


def test_a_reranker_with_a_template_reads_no_text_alone(load: Load) -> None:
    with pytest.raises(BadRequest, match="send them to /rerank"):
        load("of-the-library/causal").prepare(["a text"], Prompt(), "auto")


@pytest.mark.parametrize("name", RERANKERS)
def test_another_process_prepares_the_same_items_by_the_recipe(name: str, load: Load) -> None:
    import json

    embedder = load(name)
    if embedder.preparer is None:
        assert embedder.facts.backend == "library"
        return
    elsewhere = preparer_of(json.loads(json.dumps(embedder.preparer.recipe())))
    assert elsewhere.prepare_pairs(PAIRS, Prompt(), "auto") == embedder.prepare_pairs(
        PAIRS, Prompt(), "auto"
    )
    if isinstance(elsewhere, PairTokenizer):
        texts = [pair.document for pair in PAIRS if pair.document]
        alone = elsewhere.prepare(texts, Prompt(), "auto")
        assert alone == embedder.prepare(texts, Prompt(), "auto")


def test_scores_that_are_not_finite_in_half_precision_are_computed_again_in_full(
    load: Load, folder_of: Callable[[str], Path]
) -> None:
    name = "cross-encoder/ms-marco-MiniLM-L6-v2"
    embedder = load(name, dtype="bfloat16")
    items = embedder.prepare_pairs(PAIRS, Prompt(), "auto")
    exact = np.asarray(embedder.encode_exactly(items).columns["score"])
    np.testing.assert_allclose(exact, library(folder_of(name), PAIRS), atol=1e-4)


def test_padding_that_reaches_other_tokens_changes_no_score(load: Load, tmp_path: Path) -> None:
    """ConvBERT's convolutions read what is beside a pair, also when it is computed in full."""
    folder = tmp_path / "m"
    encoder(folder, "ConvBert", vocabularies.bert(), embedding_size=64)
    theirs = library(folder, PAIRS)
    np.testing.assert_allclose(raw(load(folder), PAIRS), theirs, atol=1e-4)
    half = load(folder, dtype="bfloat16")
    exact = half.encode_exactly(half.prepare_pairs(PAIRS, Prompt(), "auto")).columns["score"]
    np.testing.assert_allclose(np.asarray(exact), theirs, atol=1e-4)


def test_a_damaged_reranker_does_not_serve(load: Load, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    ms_marco_minilm(tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    weights = load_file(file)
    weights["classifier.weight"] *= 0
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelUnavailable, match="every pair the same score"):
        check(load(tmp_path / "m"))
