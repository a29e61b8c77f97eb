"""What looked right and was not: prompts out of the mean, padding that leaks, tables, cut ends."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from transformers import (
    ConvBertConfig,
    ConvBertModel,
    GPTJConfig,
    GPTJModel,
    LlamaConfig,
    LlamaModel,
)

from config import Config, ModelSpec
from embedders.backends import local
from embedders.base import Embedder, Prompt
from embedders.fallback import FallbackEmbedder
from errors import BadRequest, ModelUnavailable
from serving.checks import check
from tests.zoo import vocabularies
from tests.zoo.layouts import FIRST, SHAPE, changed, sentence, wild
from tests.zoo.layouts_bert import bert
from tests.zoo.layouts_decoders import WIDE
from tests.zoo.layouts_parts import router_of_two_berts, static_embedding

TEXTS = ["one", "two words and some more of them", "a text of several words, " * 9, "b"]
UNBROKEN = "e" * 100_001


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "model"


@pytest.fixture
def load(folder: Path, tmp_path: Path) -> Callable[..., Embedder]:
    """Load the model that a test has written."""

    def make(**entry: object) -> Embedder:
        given = {"id": "m", "model_name": str(folder), "dtype": "float32", **entry}
        settings = Config(device="cpu", model_cache_dir=tmp_path / "cache")
        embedder = local(ModelSpec.model_validate(given), settings)
        check(embedder)
        return embedder

    return make


def vectors(embedder: Embedder, texts: list[str], prompt: Prompt | None = None) -> np.ndarray:
    return embedder.encode(embedder.prepare(texts, prompt or Prompt(), "auto")).vectors


def alone(folder: Path, texts: list[str], dtype: str = "float32", **how: str) -> np.ndarray:
    library = SentenceTransformer(str(folder), device="cpu",
                                  model_kwargs={"dtype": getattr(torch, dtype)})  # fmt: skip
    rows = [library.encode(text, convert_to_tensor=True, **how).float() for text in texts]
    return torch.stack(rows).numpy()


def assert_equal(ours: np.ndarray, theirs: np.ndarray, least: float = 0.99999) -> None:
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    found = (ours * theirs).sum(axis=1) / lengths
    assert found.min() >= least, found


@pytest.mark.parametrize("pooling", ["weightedmean", "cls", "lasttoken", "mean", "max"])
@pytest.mark.parametrize("prompt", ["Say this: ", " ", "ends [SEP]", "far too long a prompt " * 40])
def test_any_prompt_is_left_out_of_the_mean_as_the_library_leaves_it_out(
    folder: Path, load: Callable[..., Embedder], pooling: str, prompt: str
) -> None:
    bert(folder, pooling, include_prompt=False)
    assert_equal(vectors(load(), TEXTS, Prompt(prompt)), alone(folder, TEXTS, prompt=prompt))


def test_token_ids_take_no_prompt(folder: Path, load: Callable[..., Embedder]) -> None:
    bert(folder, include_prompt=False, prompts={"query": "q: "}, default_prompt="query")
    embedder = load()
    with pytest.raises(BadRequest, match="input 1: token ids are read as they are"):
        embedder.prepare(["text", [5, 6, 7]], embedder.prompt(None, None), "auto")
    assert embedder.prepare([[5, 6, 7]], Prompt(), "auto")[0].skip == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_padding_that_reaches_other_tokens_changes_no_vector(
    folder: Path, load: Callable[..., Embedder], dtype: str
) -> None:
    """ConvBERT's convolutions read what is beside a text: its vector is that of the text alone."""
    tokenizer = vocabularies.bert()
    shape = {**SHAPE, "intermediate_size": 128, "vocab_size": len(tokenizer), "embedding_size": 64}
    sentence(folder, wild(ConvBertModel(ConvBertConfig(**shape))), tokenizer)
    theirs = alone(folder, TEXTS, dtype)
    batch = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    assert np.abs(batch - theirs).max() > 1e-2  # the library's own batches do
    least = 0.99999 if dtype == "float32" else 0.9995
    assert_equal(vectors(load(dtype=dtype), TEXTS), theirs, least)


@pytest.mark.parametrize("splits", [True, False])
def test_special_tokens_in_a_text_are_split_where_the_tokenizer_splits_them(
    folder: Path, load: Callable[..., Embedder], splits: bool
) -> None:
    tokenizer = vocabularies.llama("<s> $A")
    sentence(folder, wild(LlamaModel(LlamaConfig(vocab_size=len(tokenizer), **WIDE))), tokenizer)
    changed(folder / "tokenizer_config.json", split_special_tokens=splits)
    texts = ["<s>hello there", "</s> and </s>", "plain"]
    assert_equal(vectors(load(), texts), alone(folder, texts))


@pytest.mark.parametrize("file", ["tokenizer.json"])
def test_a_tokenizer_without_its_vocabulary_is_refused(
    folder: Path, load: Callable[..., Embedder], file: str
) -> None:
    bert(folder)
    (folder / file).unlink()
    with pytest.raises(ModelUnavailable, match=file):
        load()
    empty = {"type": "WordPiece", "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2},
             "unk_token": "[UNK]", "continuing_subword_prefix": "##",
             "max_input_chars_per_word": 100}  # fmt: skip
    bert(folder)
    changed(folder / file, model=empty)
    with pytest.raises(ModelUnavailable, match="no vocabulary"):
        load()


def test_a_router_cuts_the_start_on_every_route(
    folder: Path, load: Callable[..., Embedder]
) -> None:
    router_of_two_berts(folder)
    embedder, text = load(), "start " * 90 + "and the end"
    for task in ("query", "document"):
        library = SentenceTransformer(str(folder), device="cpu")
        for module in library.modules():
            if getattr(module, "tokenizer", None) is not None:
                module.tokenizer.truncation_side = "left"
        items = embedder.prepare([text], Prompt(task=task), "left")
        assert items[0].truncated
        expected = library.encode([text], prompt="", task=task)
        assert_equal(embedder.encode(items).vectors, expected)


def test_a_router_that_overflows_keeps_the_limit_of_each_route(
    folder: Path, load: Callable[..., Embedder]
) -> None:
    router_of_two_berts(folder)
    for path, limit in zip(
        sorted(folder.rglob("sentence_bert_config.json")), (20, 40), strict=True
    ):
        changed(path, max_seq_length=limit)
    embedder = load(dtype="bfloat16")
    assert isinstance(embedder, FallbackEmbedder)
    for task in ("query", "document"):
        prompt = Prompt(task=task)
        items = embedder.prepare(["word " * 99], prompt, "auto")
        exact = embedder.encode_exactly(items).vectors
        assert embedder.prepare(["word " * 99], prompt, "auto") == items
        assert_equal(exact, alone(folder, ["word " * 99], prompt="", task=task))
    assert embedder.facts.dtype == "float32"


@pytest.mark.parametrize("first", [None, 20])
def test_a_static_model_is_cut_at_the_wished_length_whatever_was_proven_before(
    folder: Path, load: Callable[..., Embedder], first: int | None
) -> None:
    static_embedding(folder)
    for limit in (first, 20 if first is None else None):
        embedder = load(max_seq_length=limit)
        (item,) = embedder.prepare(["word " * 200], Prompt(), "auto")
        assert embedder.facts.backend == "static"
        assert (item.tokens == 20, item.truncated) == (limit == 20, limit == 20)


def test_a_static_model_is_cut_at_the_end_that_its_file_says(
    folder: Path, load: Callable[..., Embedder]
) -> None:
    static_embedding(folder)
    file = next(folder.rglob("tokenizer.json"))
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(30, direction="left")
    tokenizer.save(str(file))
    text = "start " * 90 + "and the end"
    embedder = load()
    assert embedder.prepare([text], Prompt(), "auto")[0].truncated
    assert_equal(vectors(embedder, [text]), alone(folder, [text]))


@pytest.mark.parametrize("side", ["right", "left"])
def test_an_unbroken_run_is_cut_where_the_library_cuts_it(
    folder: Path, load: Callable[..., Embedder], side: str
) -> None:
    tokenizer = vocabularies.llama("<s> $A </s>")
    sentence(folder, wild(LlamaModel(LlamaConfig(vocab_size=len(tokenizer), **WIDE))), tokenizer)
    changed(folder / "tokenizer_config.json", truncation_side=side)
    embedder = load()
    library = SentenceTransformer(str(folder), device="cpu")
    for text in (UNBROKEN, f"a {UNBROKEN}", f"{UNBROKEN} b"):
        expected = library.preprocess([text])["input_ids"][0].tolist()
        assert list(embedder.prepare([text], Prompt(), "auto")[0].payload) == expected


def test_a_table_that_no_lookup_shows_bounds_the_limit(
    folder: Path, load: Callable[..., Embedder]
) -> None:
    """GPT-J gathers its rotary table; where it ends the library fails."""
    tokenizer = vocabularies.qwen(ends=True)
    shape = {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 16, "n_positions": 128}
    network = wild(GPTJModel(GPTJConfig(vocab_size=len(tokenizer), **shape)))
    sentence(folder, network, tokenizer, limit=600)
    embedder = load()
    assert embedder.facts.max_tokens == 128
    assert np.isfinite(vectors(embedder, ["word " * 500])).all()


def test_weights_that_nothing_reads_are_told(folder: Path, load: Callable[..., Embedder]) -> None:
    from safetensors.torch import load_file, save_file

    bert(folder)
    file = folder / "model.safetensors"
    name = "encoder.layer.0.attention.self.distance_embedding.weight"
    save_file({**load_file(file), name: torch.ones(3, 3)}, file, {"format": "pt"})
    assert any(
        f"1 weights that the network does not read, such as {name}" in n for n in load().facts.notes
    )


def test_a_pooler_that_is_read_is_never_made_up(
    folder: Path, load: Callable[..., Embedder]
) -> None:
    from safetensors.torch import load_file, save_file

    bert(folder)
    text = {"method": "forward", "method_output_name": "pooler_output"}
    changed(folder / "sentence_bert_config.json", modality_config={"text": text},
            module_output_name="sentence_embedding")  # fmt: skip
    kinds = [{"idx": 0, "name": "0", "path": "", "type": FIRST}]
    (folder / "modules.json").write_text(json.dumps(kinds))
    shutil.rmtree(folder / "1_Pooling")
    assert_equal(vectors(load(), TEXTS), alone(folder, TEXTS))
    file = folder / "model.safetensors"
    kept = {name: rows for name, rows in load_file(file).items() if "pooler" not in name}
    save_file(kept, file, {"format": "pt"})
    with pytest.raises(ModelUnavailable, match="pooler"):
        load()


def test_a_word_average_loads_and_tells_what_it_cuts(
    folder: Path, load: Callable[..., Embedder]
) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling, WordEmbeddings
    from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

    words = ["river", "market", "moon", "bread"]
    table = np.random.default_rng(1).normal(size=(len(words), 16)).astype(np.float32)
    average = WordEmbeddings(WhitespaceTokenizer(words), table, max_seq_length=12)
    SentenceTransformer(modules=[average, Pooling(16, "mean")]).save(str(folder))
    embedder = load()
    texts = ["river market", "moon bread moon", "none of them is known"]
    items = embedder.prepare([*texts, "river " * 100], Prompt(), "auto")
    assert [(i.tokens, i.truncated) for i in items] == [
        (2, False),
        (3, False),
        (0, False),
        (12, True),
    ]
    got = embedder.encode(items[:2]).vectors
    assert_equal(got, alone(folder, texts[:2]))
    assert not embedder.encode(items[2:3]).vectors.any()
    assert load(max_seq_length=5).prepare(["river " * 9], Prompt(), "auto")[0].tokens == 5
