"""The states of tokens are the library's, and late chunking is what was published."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from config import Config, ModelSpec
from embedders.backends import local
from embedders.base import Embedder, Encoded, Item, Pair, Prompt, Sparse
from errors import BadRequest, InputTooLong, Invalid, WrongKind
from serving.selection import check_chunks
from tests.embedders.rerankers import xlnet
from tests.embedders.test_m3 import with_heads
from tests.zoo import conftest as conftest  # it registers the layouts
from tests.zoo.layouts import LAYOUTS
from tests.zoo.words import prose

TEXTS = ["a", "one two three", prose(25, 1), "naïve 漢字 🙂 </s> [SEP]", prose(60, 2)]
SHORT = ("bert_mean", "bert_without_its_prompt_in_the_mean", "bert_of_weighted_layers", "mpnet",
         "t5_with_a_dense_layer", "qwen3_last_token", "modernbert_mean", "static_embedding",
         "router_of_two_berts")  # fmt: skip
ALL = [
    pytest.param(name, marks=() if name in SHORT else (pytest.mark.long,), id=name)
    for name, kind in LAYOUTS.items()
    if kind.family != "refused"
]
Load = Callable[..., Embedder]
PLAIN = Prompt()


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("model") / name
            LAYOUTS[name].build(made[name])
        return made[name]

    return write


@pytest.fixture(scope="module")
def load(folder_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Load:
    cache = tmp_path_factory.mktemp("cache")

    def loaded(name: str, **entry: Any) -> Embedder:
        given = {"id": "m", "model_name": str(folder_of(name)), "dtype": "float32", **entry}
        return local(ModelSpec.model_validate(given), Config(device="cpu", model_cache_dir=cache))

    return loaded


def asked(items: list[Item]) -> list[Item]:
    return [replace(item, outputs=("tokens",)) for item in items]


def states(embedder: Embedder, texts: list[str], prompt: Prompt = PLAIN) -> list[Any]:
    """Return the states of each text, of a pass that makes vectors of them too."""
    items = embedder.prepare(texts, prompt, "auto")
    found = embedder.encode([*asked(items), *items])
    assert [found.row(i).keys() for i in range(len(texts))] == [{"tokens"}] * len(texts)
    dense = [found.row(i)["dense"] for i in range(len(texts), 2 * len(texts))]
    np.testing.assert_array_equal(np.stack(dense), embedder.encode(items).vectors)
    return [found.row(i)["tokens"] for i in range(len(texts))]


def theirs(folder: Path, texts: list[str], limit: int | None, prompt: str = "") -> list[Any]:
    """Return what the library gives each text alone."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "float32"})
    if limit:
        model.max_seq_length = limit
    one = [
        model.encode([text], output_value="token_embeddings", convert_to_numpy=False, prompt=prompt)
        for text in texts
    ]
    return [each[0].float().numpy() for each in one]


def assert_same(ours: list[Any], right: list[Any]) -> None:
    for mine, other in zip(ours, right, strict=True):
        assert mine.shape == other.shape and mine.dtype == np.float32
        scale = float(np.abs(other).max())
        np.testing.assert_allclose(mine, other, atol=2e-4 * scale)


@pytest.mark.parametrize("name", ALL)
def test_they_are_those_of_the_library(
    name: str, load: Load, folder_of: Callable[[str], Path]
) -> None:
    embedder = load(name)
    ours = states(embedder, TEXTS)
    assert {each.shape[1] for each in ours} == {embedder.facts.token_dimension}
    if embedder.facts.backend == "static":
        table = embedder._table.embedding.weight.detach().numpy()  # type: ignore[attr-defined]
        items = embedder.prepare(TEXTS, Prompt(), "auto")
        assert_same(ours, [table[list(item.payload)] for item in items])
        return
    assert_same(ours, theirs(folder_of(name), TEXTS, LAYOUTS[name].cut))


@pytest.mark.parametrize("backend", ["onnx", "packed", "flat", "torch"])
def test_every_way_through_a_network_gives_them(
    backend: str, load: Load, folder_of: Callable[[str], Path]
) -> None:
    embedder = load("bert_mean", backend=backend)
    assert embedder.facts.backend == backend
    assert_same(states(embedder, TEXTS), theirs(folder_of("bert_mean"), TEXTS, None))


def test_a_prompt_has_states_too(load: Load, folder_of: Callable[[str], Path]) -> None:
    name = "bert_without_its_prompt_in_the_mean"
    ours = states(load(name), TEXTS, Prompt("Say this: "))
    assert_same(ours, theirs(folder_of(name), TEXTS, None, prompt="Say this: "))


def test_what_is_computed_again_in_float32_has_them(
    load: Load, folder_of: Callable[[str], Path]
) -> None:
    embedder = load("bert_mean", dtype="bfloat16")
    items = asked(embedder.prepare(TEXTS, Prompt(), "auto"))
    exact = embedder.encode_exactly(items).columns["tokens"]
    assert_same(list(exact), theirs(folder_of("bert_mean"), TEXTS, None))


def test_states_that_are_not_the_librarys_are_computed_by_its_network(
    load: Load, folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Packed layers whose tokens come out in another order have right means all the same."""
    from embedders.packed import Packed

    true = Packed.__call__

    def turned(self: Packed, *given: Any, **named: Any) -> Any:
        groups = true(self, *given, **named)
        return [replace(group, states=group.states.flip(1)) for group in groups]

    monkeypatch.setattr(Packed, "__call__", turned)
    for time in ("proven", "known"):
        embedder = local(
            ModelSpec(id="m", model_name=str(folder_of("bert_mean")), dtype="float32"),
            Config(device="cpu", model_cache_dir=tmp_path),
        )
        assert embedder.facts.backend in ("onnx", "packed"), time
        assert embedder.tokens_apart  # type: ignore[attr-defined]
        assert_same(states(embedder, TEXTS), theirs(folder_of("bert_mean"), TEXTS, None))


def test_a_model_like_bge_m3_has_them_beside_its_three_outputs(tmp_path: Path) -> None:
    folder = with_heads(tmp_path / "m3")
    spec = ModelSpec(id="m", model_name=str(folder), dtype="float32")
    settings = Config(device="cpu", model_cache_dir=tmp_path, allow_pickled_weights=True)
    embedder = local(spec, settings)
    items = embedder.prepare(TEXTS, Prompt(), "auto")
    mixed = [*asked(items), replace(items[0], outputs=("sparse",)), items[1]]
    found = embedder.encode(mixed)
    assert_same([found.row(i)["tokens"] for i in range(len(TEXTS))], theirs(folder, TEXTS, None))
    assert isinstance(found.row(len(TEXTS))["sparse"], Sparse)
    assert found.row(len(TEXTS) + 1).keys() == {"dense"}
    assert not embedder.facts.pools_chunks


# ---- late chunking

CHUNKS = ["Berlin is the capital of Germany.", "It has more than", "3.85 million people\n",
          "The city is a state, too: 漢字 🙂 naïve."]  # fmt: skip
POOLS = ("bert_mean", "roberta_mean", "mpnet", "t5_with_a_dense_layer", "llama_mean",
         "modernbert_mean", "jina_v3")  # fmt: skip


def published(folder: Path, chunks: list[str], prompt: str = "") -> Any:
    """Late chunking as jina-ai/late-chunking has it: `_extend_special_tokens`, `chunked_pooling`.

    By transformers alone. The first chunk has the special tokens before the text, and the
    instruction, and the last has those after it.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer, T5EncoderModel

    kind = T5EncoderModel if "t5" in folder.name else AutoModel
    network = kind.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text, places = prompt, []
    for chunk in chunks:
        if text != prompt and not text[-1].isspace():
            text += " "
        places.append((len(text), len(text) + len(chunk)))
        text += chunk
    read = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    with torch.no_grad():
        states = network(input_ids=torch.tensor([read["input_ids"]]))[0][0]
    own = [i for i, added in enumerate(read["special_tokens_mask"]) if not added]
    found = []
    for number, (begin, end) in enumerate(places):
        inside = [i for i in own if begin < read["offset_mapping"][i][1] <= end]
        start = 0 if number == 0 else min(inside)
        stop = len(states) if number == len(chunks) - 1 else max(inside) + 1
        found.append(states[start:stop].mean(dim=0))
    rows = torch.stack(found)
    for dense in sorted(folder.glob("*_Dense")):
        rows = _dense(dense, rows)
    return rows.numpy()


def _dense(folder: Path, rows: Any) -> Any:
    import json

    import torch
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    rows = rows @ weights["linear.weight"].T
    rows = rows + weights["linear.bias"] if "linear.bias" in weights else rows
    kind = json.loads((folder / "config.json").read_text())["activation_function"]
    return torch.tanh(rows) if "Tanh" in kind else rows


def vectors(embedder: Embedder, items: list[Item]) -> list[Any]:
    return list(embedder.encode(items).columns["chunks"])


@pytest.mark.parametrize("name", POOLS)
def test_late_chunking_is_what_was_published(
    name: str, load: Load, folder_of: Callable[[str], Path]
) -> None:
    embedder = load(name)
    assert embedder.facts.pools_chunks
    other = ["Another document.", "It is here, so that a pass holds two."]
    found = vectors(embedder, embedder.prepare_chunks([CHUNKS, other], Prompt(), None))
    for ours, chunks in zip(found, (CHUNKS, other), strict=True):
        assert ours.shape == (len(chunks), embedder.facts.dimension)
        right = published(folder_of(name), chunks)[:, : embedder.facts.dimension]
        np.testing.assert_allclose(ours, right, atol=3e-4 * float(np.abs(right).max()))
    prompted = embedder.prepare_chunks([CHUNKS], Prompt("passage: "), None)
    right = published(folder_of(name), CHUNKS, "passage: ")[:, : embedder.facts.dimension]
    np.testing.assert_allclose(
        vectors(embedder, prompted)[0], right, atol=3e-4 * float(np.abs(right).max())
    )


@pytest.mark.parametrize("name", ["bert_mean", "bert_without_its_prompt_in_the_mean", "llama_mean",
                                  "static_embedding"])  # fmt: skip
@pytest.mark.parametrize("prompt", ["", "Say this: "])
def test_a_document_of_one_chunk_has_the_vector_of_its_text(
    name: str, prompt: str, load: Load
) -> None:
    embedder = load(name)
    texts = ["a", "one two three", prose(9, 1), "naïve 漢字 🙂 [SEP]"]
    chunks = embedder.prepare_chunks([[text] for text in texts], Prompt(prompt), None)
    plain = embedder.encode(embedder.prepare(texts, Prompt(prompt), "auto")).vectors
    found = np.concatenate(vectors(embedder, chunks))
    np.testing.assert_allclose(found, plain, atol=2e-5 * float(np.abs(plain).max()))


def test_a_chunk_reads_what_is_around_it(load: Load) -> None:
    embedder = load("bert_mean")
    documents = [["It is large.", "Berlin."], ["It is large.", "A mouse."], ["It is large."]]
    one, other, alone = (each[0] for each in vectors(
        embedder, embedder.prepare_chunks(documents, Prompt(), None)
    ))  # fmt: skip
    assert np.abs(one - other).max() > 1e-3 and np.abs(one - alone).max() > 1e-3


def test_chunks_with_their_own_white_space_are_not_parted_further(load: Load) -> None:
    embedder = load("llama_mean")
    text = "One sentence. \nAnother one.\tA third."
    whole, apart = embedder.prepare_chunks(
        [[text], ["One sentence. \n", "Another one.", "\tA third."]], Prompt(), None
    )
    assert whole.payload == apart.payload and len(apart.spans) == 3
    assert apart.spans[0][0] == 0 and apart.spans[-1][1] == len(apart.payload)
    assert all(a[1] == b[0] for a, b in pairwise(apart.spans))


def test_chunks_over_the_limit_are_refused_by_their_number(load: Load) -> None:
    embedder = load("bert_mean", max_seq_length=40)
    fits, long = ["a b", "c"], ["a " * 20, "b " * 10, "c " * 20, "d"]
    for truncate in (None, "error"):
        with pytest.raises(InputTooLong, match="not all of this chunk") as refused:
            embedder.prepare_chunks([fits, long], Prompt(), truncate)
        assert refused.value.index == 4
    with pytest.raises(InputTooLong, match="nothing of this chunk") as refused:
        embedder.prepare_chunks([fits, long], Prompt(), "right")
    assert refused.value.index == 5
    with pytest.raises(InputTooLong, match="nothing") as refused:
        embedder.prepare_chunks([["a", "b " * 40]], Prompt(), "left")
    assert refused.value.index == 0
    for side in ("right", "auto", "left"):
        (cut,) = embedder.prepare_chunks([["a " * 30, "b " * 30]], Prompt(), side)
        sizes = [end - start for start, end in cut.spans]
        assert cut.truncated and cut.tokens == 40 and sum(sizes) == 40
        assert (sizes[0] < sizes[1]) is (side == "left")
        assert all(np.isfinite(row).all() for row in vectors(embedder, [cut]))
    (lower,) = embedder.prepare_chunks([["a " * 30, "b"]], Prompt(limit=80), "error")
    assert lower.tokens == 33
    with pytest.raises(InputTooLong):
        embedder.prepare_chunks([["a " * 30, "b"]], Prompt(limit=20), "error")


def test_a_chunk_without_a_token_is_refused(load: Load) -> None:
    embedder = load("bert_mean")
    for chunks, at in ((["a", ""], 1), (["", "a"], 0), (["a", " ", "b"], 1), ([" "], 0)):
        with pytest.raises(Invalid, match="no token of its own") as refused:
            embedder.prepare_chunks([chunks], Prompt(), "right")
        assert refused.value.index == at


def test_a_megabyte_is_refused_after_a_look_at_its_start(load: Load) -> None:
    embedder = load("bert_mean", max_seq_length=64)
    with pytest.raises(InputTooLong) as refused:
        embedder.prepare_chunks([["a short one", "word " * 2_000_000, "c"]], Prompt(), None)
    assert refused.value.index == 1


@pytest.mark.parametrize("name", ["bert_cls_normalized", "qwen3_last_token", "bert_relu",
                                  "router_of_two_berts"])  # fmt: skip
def test_other_poolings_than_the_mean_pool_no_chunks(name: str, load: Load) -> None:
    facts = load(name).facts
    assert facts.pools_chunks is (facts.pooling == "mean" and facts.backend != "library")


def test_the_refusal_of_late_chunking_says_what_is_in_its_way(load: Load) -> None:
    reasons = {
        "bert_of_weighted_layers": "modules stand between its network and its pooling",
        "bert_cls_normalized": "this pools cls",
        "router_of_two_berts": "not run by this service's own network",
    }
    for name, why in reasons.items():
        model: Any = SimpleNamespace(spec=ModelSpec(id=name, model_name="m"))
        with pytest.raises(WrongKind, match=why):
            check_chunks(model, load(name).facts)
    check_chunks(model, load("bert_mean").facts)


def test_a_model_that_the_library_runs_says_why_it_pools_no_chunks(load: Load) -> None:
    with pytest.raises(BadRequest, match="late chunking"):
        load("router_of_two_berts").prepare_chunks([["a"]], Prompt(), None)


def test_a_model_that_the_library_runs_tells_the_tokens_of_its_one_tokenizer(
    load: Load, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    xlnet(tmp_path / "m")
    spec = ModelSpec(id="m", model_name=str(tmp_path / "m"), dtype="float32", max_seq_length=300)
    embedder = local(spec, Config(device="cpu", model_cache_dir=tmp_path))
    assert embedder.facts.backend == "library" and embedder.preparer is None
    words = AutoTokenizer.from_pretrained(tmp_path / "m")
    given = ["the house", Pair("the old", "the new house")]
    text, pair = embedder.tokenize(given, Prompt(), special=True)
    assert [token.id for token in text] == words("the house")["input_ids"]
    assert [token.id for token in pair] == words("the old", "the new house")["input_ids"]
    ids = [[token.id for token in text]]
    assert embedder.detokenize(ids, skip_special=True) == ["the house"]
    with pytest.raises(BadRequest, match="its own limit"):
        embedder.prepare_pairs([Pair("a", "b")], Prompt(limit=9), "auto")
    with pytest.raises(BadRequest, match="not known here"):  # two sides, two tokenizers
        load("router_of_two_berts").tokenize(["a"], Prompt(), special=True)


def test_encoded_results_are_of_their_own_items(load: Load) -> None:
    embedder = load("static_embedding")
    items = embedder.prepare(["one two", "three"], Prompt(), "auto")
    chunks = embedder.prepare_chunks([["one", "two"]], Prompt(), None)
    found: Encoded = embedder.encode([items[0], *chunks, *asked(items[1:])])
    assert [set(found.row(i)) for i in range(3)] == [{"dense"}, {"chunks"}, {"tokens"}]
