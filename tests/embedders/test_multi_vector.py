"""Late-interaction models of every published layout give the library's token vectors."""

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder
from tokenizers import AddedToken
from transformers import BertModel, ModernBertConfig, ModernBertModel

from config import Config, ModelSpec
from embedders import build
from embedders.base import Embedder, Encoded
from embedders.multi_vector import TokenReference
from embedders.proof import Proof
from embedders.tokens import preparer_of
from errors import ModelUnavailable
from tests.zoo import vocabularies
from tests.zoo.layouts import FIRST, SHAPE, bare, changed, modules, wild, write
from tests.zoo.layouts_bert import small_bert
from tests.zoo.words import prose

TEXTS = ["hello, world!", "what is the weather (today)?", prose(30, 1), prose(90, 2), "..."]
WIDTH = 32


def projection(folder: Path, seed: int = 3, **config: Any) -> None:
    """Write a Dense module without a bias."""
    weight = torch.randn(WIDTH, 64, generator=torch.Generator().manual_seed(seed)) / 8
    given = {"in_features": 64, "out_features": WIDTH, "bias": False,
             "activation_function": "torch.nn.modules.linear.Identity", **config}  # fmt: skip
    write(folder / "config.json", given)
    save_file({"linear.weight": weight}, folder / "model.safetensors")


def pylate(folder: Path, attend: bool = False, **config: Any) -> None:
    """Write a BERT as PyLate saves it: two modules, all else beside the prompts."""
    tokenizer = vocabularies.bert(model_max_length=512)
    tokenizer.add_tokens([AddedToken("[Q] "), AddedToken("[D] ")])
    network = small_bert(tokenizer, kind=BertModel)
    bare(folder, network, tokenizer)
    write(folder / "sentence_bert_config.json", {"max_seq_length": 179, "do_lower_case": False})
    projection(folder / "1_Dense")
    given = {
        "model_type": "ColBERT", "prompts": {}, "default_prompt_name": None,
        "similarity_fn_name": "MaxSim", "query_prefix": "[Q] ", "document_prefix": "[D] ",
        "query_length": 32, "document_length": 60, "attend_to_expansion_tokens": attend,
        "skiplist_words": list(string.punctuation), "do_query_expansion": True, **config,
    }  # fmt: skip
    write(folder / "config_sentence_transformers.json", given)
    modules(folder, [FIRST, "pylate.models.Dense.Dense"])


def pylate_that_attends(folder: Path) -> None:
    """Write one whose queries see their mask tokens."""
    pylate(folder, attend=True)


def pylate_without_expansion(folder: Path) -> None:
    """Write one whose queries are not filled up."""
    pylate(folder, do_query_expansion=False, skiplist_words=[])


def stanford(folder: Path) -> None:
    """Write a BERT as Stanford's ColBERT saves it: the projection is among its weights."""
    tokenizer = vocabularies.bert(model_max_length=512)
    tokenizer.add_tokens(["[unused0]", "[unused1]"])
    bare(folder, small_bert(tokenizer, kind=BertModel), tokenizer)
    tensors = {f"bert.{name}": value for name, value in
               load_file(folder / "model.safetensors").items()}  # fmt: skip
    source = torch.Generator().manual_seed(4)
    tensors["linear.weight"] = torch.randn(WIDTH, 64, generator=source) / 8
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    changed(folder / "config.json", architectures=["HF_ColBERT"])
    metadata = {
        "query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_maxlen": 32,
        "doc_maxlen": 50, "mask_punctuation": True, "attend_to_mask_tokens": False,
    }  # fmt: skip
    (folder / "artifact.metadata").write_text(json.dumps(metadata))


def of_the_library(folder: Path) -> None:
    """Save a ModernBERT as sentence-transformers 6 does."""
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    tokenizer = vocabularies.euro(model_max_length=300)
    config = ModernBertConfig(vocab_size=len(tokenizer), intermediate_size=96, pad_token_id=0,
                              cls_token_id=2, bos_token_id=2, sep_token_id=3, eos_token_id=3,
                              **SHAPE)  # fmt: skip
    plain = folder.parent / "plain"
    bare(plain, wild(ModernBertModel(config)), tokenizer)
    first = Transformer(
        str(plain), query_expansion={"strategy": "min", "length": 24, "attend": False},
        document_length=80, query_length=48,
    )  # fmt: skip
    torch.manual_seed(6)
    dense = Dense(64, WIDTH, bias=False, activation_function=torch.nn.Identity(),
                  module_input_name="token_embeddings")  # fmt: skip
    parts = [first, dense, MultiVectorMask(skiplist_words=list(".,")),
             Normalize(module_input_name="token_embeddings")]  # fmt: skip
    model = MultiVectorEncoder(modules=parts, device="cpu",
                               prompts={"query": "search: ", "document": ""})  # fmt: skip
    model.save(str(folder), create_model_card=False)


LAYOUTS = {
    made.__name__: made
    for made in (pylate, pylate_that_attends, pylate_without_expansion, stanford, of_the_library)
}
Load = Callable[..., tuple[Embedder, Path]]


@pytest.fixture(scope="module", params=LAYOUTS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layout. The folder's name tells nothing."""
    made = tmp_path_factory.mktemp("multi") / "model"
    LAYOUTS[request.param](made)
    return made


def loaded(folder: Path, cache: Path, **given: Any) -> Embedder:
    """Return the embedder that the service makes of a folder."""
    entry = {"id": "m", "model_name": str(folder), "dtype": "float32", **given}
    settings = Config.model_validate({"device": "cpu", "model_cache_dir": cache})
    return build(ModelSpec.model_validate(entry), settings)


def rows(embedder: Embedder, texts: list[str], role: str | None) -> list[np.ndarray]:
    """Return each text's token vectors, of one pass."""
    prompt = embedder.prompt(None, None, role)
    encoded = embedder.encode(embedder.prepare(texts, prompt, "auto"))
    return [np.asarray(value) for value in encoded.columns["multi_vector"]]


def library(folder: Path) -> MultiVectorEncoder:
    return MultiVectorEncoder(str(folder), device="cpu")


@pytest.fixture(scope="module")
def embedder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return loaded(folder, tmp_path_factory.mktemp("cache"))


def test_both_sides_have_the_librarys_token_vectors(embedder: Embedder, folder: Path) -> None:
    model = library(folder)
    assert embedder.facts.outputs == ("multi_vector",)
    assert embedder.facts.kind == "multi_vector"
    assert embedder.facts.dimension == WIDTH
    assert embedder.facts.backend != "library"
    queries = model.encode_query(TEXTS, convert_to_numpy=True)
    documents = model.encode_document(TEXTS, convert_to_numpy=True)
    for role, right in (("query", queries), ("document", documents), (None, documents)):
        got = rows(embedder, TEXTS, role)
        assert [each.shape for each in got] == [each.shape for each in right]
        for ours, theirs in zip(got, right, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
            assert ours.dtype == np.float32


def test_queries_and_documents_of_one_pass_keep_their_own_rules(embedder: Embedder) -> None:
    sides = [embedder.prompt(None, None, role) for role in ("query", "document") * 2]
    items = [
        embedder.prepare([text], side, "auto")[0]
        for text, side in zip(TEXTS[:4], sides, strict=True)
    ]
    together = embedder.encode(items).columns["multi_vector"]
    for item, ours in zip(items, together, strict=True):
        alone = embedder.encode([item]).columns["multi_vector"][0]
        np.testing.assert_allclose(np.asarray(ours), np.asarray(alone), atol=1e-5)


def test_its_preparer_can_be_made_again_of_json(embedder: Embedder) -> None:
    assert embedder.preparer is not None
    again = preparer_of(json.loads(json.dumps(embedder.preparer.recipe())))
    for role in ("query", "document", None):
        prompt = embedder.prompt(None, None, role)
        assert again.prepare(TEXTS, prompt, "auto") == embedder.prepare(TEXTS, prompt, "auto")


def test_every_way_gives_the_same(folder: Path, embedder: Embedder, tmp_path: Path) -> None:
    for backend in ("torch", "flat", "packed"):
        other = loaded(folder, tmp_path, backend=backend)
        assert other.facts.backend in (backend, "torch")  # ModernBERT has no packed layers
        for role in ("query", "document"):
            right = rows(embedder, TEXTS, role)
            for ours, theirs in zip(rows(other, TEXTS, role), right, strict=True):
                np.testing.assert_allclose(ours, theirs, atol=2e-5)


def without_projection(folder: Path) -> None:
    """Write a network whose name alone says ColBERT."""
    words = vocabularies.bert()
    bare(folder, small_bert(words), words)


def without_metadata(folder: Path) -> None:
    """Write Stanford's layout without the file that has its lengths and tokens."""
    stanford(folder)
    (folder / "artifact.metadata").unlink()


def with_a_lost_module(folder: Path) -> None:
    """Write PyLate's layout without its projection."""
    pylate(folder, model_type="SentenceTransformer")
    modules(folder, [FIRST])


def with_damaged_metadata(folder: Path) -> None:
    """Write Stanford's layout with a half of its metadata."""
    stanford(folder)
    (folder / "artifact.metadata").write_text('{"query_maxlen": ')


def with_other_names(folder: Path) -> None:
    """Write PyLate's layout with a projection whose weights have another name."""
    pylate(folder)
    save_file({"weight": torch.ones(WIDTH, 64)}, folder / "1_Dense" / "model.safetensors")


@pytest.mark.parametrize(
    ("make", "why"),
    [(without_projection, "no trained Dense"), (with_a_lost_module, "no trained Dense"),
     (without_metadata, "lacks artifact.metadata"),
     (with_damaged_metadata, "artifact.metadata is damaged"),
     (with_other_names, "Dense: Missing key.*linear.weight")],
)  # fmt: skip
def test_a_model_without_a_part_of_it_is_refused_by_the_parts_name(
    make: Callable[[Path], None], why: str, tmp_path: Path
) -> None:
    """The library would put random numbers in its place."""
    make(tmp_path / "colbert")
    with pytest.raises(ModelUnavailable, match=why):
        loaded(tmp_path / "colbert", tmp_path)


def test_markers_that_the_vocabulary_lacks_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    stanford(folder)
    given = json.loads((folder / "artifact.metadata").read_text())
    (folder / "artifact.metadata").write_text(json.dumps({**given, "doc_token_id": "[unused7]"}))
    (note,) = loaded(folder, tmp_path / "cache").facts.notes
    assert "no token [unused7]" in note


@pytest.mark.parametrize("role", [None, "clustering", "image"])
def test_what_is_on_no_side_is_marked_as_a_document(role: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    stanford(folder)
    embedder = loaded(folder, tmp_path / "cache")
    assert embedder.prompt(None, None, role) == embedder.prompt(None, None, "document")
    assert embedder.prompt(None, None, role).text == "[unused1] "
    assert embedder.prompt(None, "title: ", None).task == "document"
    assert embedder.prompt(None, "title: ", "query").task == "query"


class WrongOnOneSide(Embedder):
    """An embedder whose vectors for one side are another's."""

    portable = False

    def __init__(self, embedder: Embedder, side: str) -> None:
        self._embedder, self._side, self.facts = embedder, side, embedder.facts
        self.prepare = embedder.prepare  # type: ignore[method-assign]

    def encode(self, items: Any, deadline: Any = None, gone: Any = None) -> Encoded:
        """Return vectors of which those of one side have their numbers in another order."""
        found = self._embedder.encode(items)
        values = [np.asarray(value) for value in found.columns["multi_vector"]]
        wrong = [item.prompt.task == self._side for item in items]
        column = [each[:, ::-1] if bad else each for each, bad in zip(values, wrong, strict=True)]
        return Encoded({"multi_vector": column}, found.tokens)


def test_the_proof_compares_both_sides_where_their_prompts_are_equal(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    of_the_library(folder)
    embedder = loaded(folder, tmp_path / "cache", prompts={"query": "", "document": ""})
    model = library(folder)
    model.prompts = {"query": "", "document": ""}
    proof = Proof(TokenReference(model), 300, half=False)
    assert proof.difference(embedder) is None
    for side in ("query", "document"):
        assert "cosine" in str(proof.difference(WrongOnOneSide(embedder, side)))


def test_half_precision_is_as_near_as_the_librarys(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    stanford(folder)
    embedder = loaded(folder, tmp_path / "cache", dtype="bfloat16")
    assert embedder.facts.dtype == "bfloat16"
    right = library(folder).encode_document(TEXTS, convert_to_numpy=True)
    for ours, theirs in zip(rows(embedder, TEXTS, "document"), right, strict=True):
        assert (ours * theirs).sum(1).min() > 0.995
    exact = embedder.encode_exactly(
        embedder.prepare(TEXTS, embedder.prompt(None, None, "document"), "auto")
    ).columns["multi_vector"]
    for ours, theirs in zip(exact, right, strict=True):
        np.testing.assert_allclose(np.asarray(ours), theirs, atol=1e-5)
