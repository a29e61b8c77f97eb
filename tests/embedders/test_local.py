"""Local models give the vectors that sentence-transformers gives, from weights that are whole."""

import json
import random
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from config import Config, ModelSpec
from embedders import weights
from embedders.backends import local as load
from embedders.base import Embedder, Prompt
from embedders.device import choose_device, choose_dtype
from embedders.layers import cores
from embedders.local import LocalEmbedder
from embedders.static import StaticEmbedder
from errors import ModelUnavailable
from tests.contracts import EmbedderContract

NAME = "sentence-transformers/all-MiniLM-L6-v2"
SETTINGS = Config(device="cpu")
FOLDER = weights.find(NAME)


def local(name: str | Path, **entry: object) -> Embedder:
    given = {"dtype": "float32", **entry}
    spec = ModelSpec.model_validate({"id": "m", "model_name": str(name), **given})
    return load(spec, SETTINGS)


@pytest.fixture(scope="session")
def minilm() -> Iterator[LocalEmbedder]:
    yield local(NAME)


@pytest.fixture(scope="session")
def reference():  # the library itself, as its users call it
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(FOLDER), device="cpu")


class TestLocal(EmbedderContract):
    @pytest.fixture
    def embedder(self, minilm: LocalEmbedder) -> LocalEmbedder:
        return minilm


def prose(count: int, seed: int = 7) -> list[str]:
    """Real English of every length, from the docstrings of the standard library."""
    import argparse
    import asyncio
    import decimal
    import logging
    import typing

    words = []
    for module in (argparse, asyncio, decimal, logging, typing):
        source = Path(module.__file__ or "").read_text()
        for doc in re.findall(r'"""(.*?)"""', source, re.DOTALL):
            words += doc.split()
    rng = random.Random(seed)
    lengths = [1, 2, 3, 250, 300, 400, 600] + [
        rng.choice((2, 3, 5, 8, 12, 20, 30, 60)) for _ in range(count)
    ]
    starts = [rng.randrange(len(words) - n) for n in lengths]
    return [" ".join(words[s : s + n]) for s, n in zip(starts, lengths, strict=True)][:count]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize(
    ("count", "dtype", "least"),
    [
        (100, "float32", 0.99999),
        pytest.param(1000, "float32", 0.99999, marks=pytest.mark.long),
        pytest.param(1000, "bfloat16", 0.999, marks=pytest.mark.long),
    ],
)
def test_many_texts_equal_the_library_alone_and_mixed(
    reference, count: int, dtype: str, least: float
) -> None:
    embedder = local(NAME, dtype=dtype)
    texts = prose(count)
    expected = reference.encode(texts, batch_size=64)
    native = str(choose_dtype("auto", choose_device("cpu"))) == f"torch.{dtype}"
    if dtype == "bfloat16" and not native:  # emulated, twenty times as slow: six minutes for all
        texts, expected = texts[:100], expected[:100]
    items = embedder.prepare(texts, Prompt(), "right")
    assert sum(item.truncated for item in items) > 1
    mixed = np.concatenate(
        [embedder.encode(items[i : i + 25]).vectors for i in range(0, len(items), 25)]
    )
    assert cosines(mixed, expected).min() >= least
    alone = np.concatenate([embedder.encode([item]).vectors for item in items[: count // 5]])
    assert cosines(alone, expected[: count // 5]).min() >= least


def test_the_example_sentence_has_its_published_vector(minilm: LocalEmbedder) -> None:
    items = minilm.prepare(["This is an example sentence"], Prompt(), "right")
    expected = [0.0676569, 0.0634959, 0.0487131]  # from the model's card on the hub
    row = minilm.encode(items).vectors[0]  # before the model's Normalize, which the engine is
    assert minilm.facts.normalizes
    np.testing.assert_allclose(row[:3] / np.linalg.norm(row), expected, atol=1e-6)


def test_token_ids_give_the_vector_of_their_text(minilm: LocalEmbedder, reference) -> None:
    framed = reference.tokenizer("hello world")["input_ids"]
    bare = framed[1:-1]
    text, with_special, without = minilm.prepare(["hello world", framed, bare], Prompt(), "right")
    assert text.payload == with_special.payload == without.payload


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare encoder with random weights: no modules.json, no pooling of its own."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("small") / "encoder"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("1_Pooling", "m*", "sentence_*",
                    "config*", "README*"))  # fmt: skip
    torch.manual_seed(1)
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(hidden_size=32, **shape)).save_pretrained(folder)
    return folder


def test_a_bare_encoder_is_pooled_by_the_mean_over_its_mask(small: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    embedder = local(small)
    texts = ["one", "a longer text than the other"]
    tokenizer, model = AutoTokenizer.from_pretrained(small), AutoModel.from_pretrained(small)
    with torch.inference_mode():
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        mean = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    got = embedder.encode(embedder.prepare(texts, Prompt(), "right")).vectors
    np.testing.assert_allclose(got, mean, atol=1e-5)
    assert embedder.facts.dimension == 32
    assert embedder.facts.max_tokens == 512


def changed(folder: Path, to: Path, file: str, **entries: object) -> Path:
    shutil.copytree(folder, to)
    path = to / file
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **entries}))
    return to


def test_a_models_own_prompts_are_used_and_may_be_left_out_of_the_mean(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    prompts = {"query": "Represent this question: ", "document": ""}
    folder = changed(FOLDER, tmp_path / "prompted", "config_sentence_transformers.json",
                     prompts=prompts, default_prompt_name="query")  # fmt: skip
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({**json.loads(pooling.read_text()), "include_prompt": False}))
    embedder = local(folder)
    library = SentenceTransformer(str(folder), device="cpu")
    texts = ["what is it", "and a rather longer question about the same thing"]
    for name in (None, "query", "document"):
        prompt = embedder.prompt(name, None)
        got = embedder.encode(embedder.prepare(texts, prompt, "right")).vectors
        expected = library.encode(texts, prompt_name=name)
        assert cosines(got, expected).min() > 0.99999, name


def test_a_static_model_is_the_mean_of_its_table(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    library = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=16)])
    library.save(str(tmp_path / "static"))
    embedder = local(tmp_path / "static")
    assert isinstance(embedder, StaticEmbedder)
    texts = ["one", "two words", "a longer text than those"]
    items = embedder.prepare(texts, Prompt("about: "), "right")
    expected = library.encode([f"about: {text}" for text in texts])
    np.testing.assert_allclose(embedder.encode(items).vectors, expected, atol=1e-6)
    assert [item.tokens for item in items] == [3, 4, 7]  # no [CLS], no [SEP]
    assert not embedder.encode(embedder.prepare([""], Prompt(), "right")).vectors.any()


def test_a_shorter_limit_is_kept_and_a_longer_one_is_capped(reference) -> None:
    assert local(NAME, max_seq_length=16).facts.max_tokens == 16
    assert local(NAME, max_seq_length=9999).facts.max_tokens == 512


def test_the_fingerprint_tells_spaces_apart(minilm: LocalEmbedder, small: Path) -> None:
    prints = {
        minilm.facts.fingerprint,
        local(NAME, dtype="bfloat16").facts.fingerprint,
        local(NAME, max_seq_length=16).facts.fingerprint,
        local(NAME, prompts={"query": "q: "}).facts.fingerprint,
        local(NAME, normalize=False).facts.fingerprint,
        local(small).facts.fingerprint,
    }
    assert len(prints) == 6
    assert local(NAME).facts.fingerprint == minilm.facts.fingerprint


def test_models_that_come_and_go_bring_no_threads_of_their_own(small: Path) -> None:
    """torch keeps memory for each thread that ever computed, also after it has ended."""
    seen: set[tuple[str, int | None]] = set()
    for _ in range(3):
        embedder = local(str(small), backend="packed")
        embedder.encode(embedder.prepare(["a text of some length"] * 40, Prompt(), "right"))
        embedder.close()
        seen |= {(t.name, t.ident) for t in threading.enumerate() if t.name == "load"}
        seen |= {(t.name, t.ident) for t in threading.enumerate() if t.name.startswith("encode")}
    assert 2 <= len(seen) <= 1 + cores()


@pytest.mark.fault("Models and devices")
@pytest.mark.parametrize(("lacks", "named"), [("layer.5.", "layer.5."), ("pooler.", None)])
def test_weights_that_are_not_there_are_never_made_up(
    tmp_path: Path, lacks: str, named: str | None
) -> None:
    """A weights file lacks a layer -> refused; missing weights are never initialized at random."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(FOLDER, folder)
    file = folder / "model.safetensors"
    whole = load_file(file)
    kept = {name: rows.clone() for name, rows in whole.items() if lacks not in name}
    assert len(kept) < len(whole)
    save_file(kept, file, {"format": "pt"})
    if named is None:  # a pooler that no module after it reads: many models come without
        local(folder).close()
        return
    with pytest.raises(ModelUnavailable, match=re.escape(named)) as refused:
        local(folder)
    assert "model.safetensors lacks 16 weights" in str(refused.value)


@pytest.mark.fault("Models and devices")
def test_a_repositorys_own_code_never_runs(tmp_path: Path) -> None:
    """The model's repository wants to run code -> refused; no setting allows it."""
    folder = tmp_path / "remote_code"
    shutil.copytree(FOLDER, folder)
    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "evil.Evil"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelUnavailable):
        local(folder)
    assert not ran.exists()


def test_a_model_that_is_nowhere_says_where_it_was_looked_for() -> None:
    with pytest.raises(ModelUnavailable, match="neither a folder, nor bundled, nor cached"):
        weights.find("no-such-org/no-such-model")


def test_an_absent_device_is_refused_by_name() -> None:
    with pytest.raises(ModelUnavailable, match="DEVICE=cuda:63"):
        choose_device("cuda:63")
