"""A model runs by the fastest backend that gives the library's vectors, and by no other."""

import json
import os
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from config import Config, ModelSpec
from embedders import backends, proven
from embedders.base import Embedder, Prompt, Vectors
from embedders.graph import WIDEST
from embedders.layers import TorchLayers
from embedders.loading import LoadedModel
from embedders.local import LocalEmbedder
from embedders.packed import Packed
from embedders.proof import Proof
from embedders.tokens import TextTokenizer
from tests.embedders.test_sparse import masked_bert
from tests.zoo.layouts import changed
from tests.zoo.layouts_bert import QUERY_AND_PASSAGE, bert
from tests.zoo.layouts_decoders import llama_mean


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with prompts, small enough to be proven in a tenth of a second."""
    folder = tmp_path_factory.mktemp("backends") / "bert"
    bert(folder, "mean", limit=1100, facts={"max_position_embeddings": 1200},
         prompts=QUERY_AND_PASSAGE)  # fmt: skip
    return folder


@pytest.fixture
def load(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Embedder]:
    """Load the model, or another one, with verdicts kept in a folder of this test."""
    monkeypatch.setattr(proven, "is_busy", lambda: False)

    def make(
        other: Path | None = None, cache: Path = tmp_path / "cache", **entry: object
    ) -> Embedder:
        given = {"id": "m", "model_name": str(other or folder), "dtype": "float32", **entry}
        settings = Config(device="cpu", model_cache_dir=cache)
        return backends.local(ModelSpec.model_validate(given), settings)

    return make


def library(folder: Path, texts: list[str], **how: str) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").encode(texts, **how)


def vectors(embedder: Embedder, texts: list[str], prompt: Prompt | None = None) -> np.ndarray:
    items = embedder.prepare(texts, prompt or embedder.prompt(None, None), "auto")
    return embedder.encode(items).vectors


TEXTS = ["a", "a few words", "and many more of them " * 90]


def test_the_fastest_backend_that_is_right_is_taken(load: Callable[..., Embedder]) -> None:
    assert load(max_seq_length=WIDEST + 1).facts.backend == "packed"
    assert load(max_seq_length=WIDEST).facts.backend == "onnx"
    assert load(backend="torch").facts.backend == "torch"


def wrong_for_long_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    right = TorchLayers.__call__

    def run(self, states, slots, used):  # noqa: ANN001, ANN202
        found = right(self, states, slots, used)
        return found * (1 + 0.1 * torch.arange(found.shape[1])) if used > 900 else found

    monkeypatch.setattr(TorchLayers, "__call__", run)


def wrong_beside_other_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    right = TorchLayers.__call__

    def run(self, states, slots, used):  # noqa: ANN001, ANN202
        found = right(self, states, slots, used)
        return found.roll(1, 0) if len(slots) > 1 else found

    monkeypatch.setattr(TorchLayers, "__call__", run)


def wrong_in_the_fourth_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    right = TorchLayers.__call__

    def run(self, states, slots, used):  # noqa: ANN001, ANN202
        found = right(self, states, slots, used)
        noise = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
        return found + 0.03 * found.std() * noise[:1]

    monkeypatch.setattr(TorchLayers, "__call__", run)


def not_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchLayers, "__call__", lambda self, states, slots, used: states * np.nan)


def an_operator_that_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_reorder'")

    monkeypatch.setattr(TorchLayers, "__init__", fail)


@pytest.mark.parametrize(
    "broken",
    [wrong_for_long_texts, wrong_beside_other_texts, wrong_in_the_fourth_digit, not_a_number,
     an_operator_that_changed],
)  # fmt: skip
def test_a_packed_copy_that_differs_gives_way_to_the_network_itself(
    load: Callable[..., Embedder], folder: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, broken: Callable[[pytest.MonkeyPatch], None],
) -> None:  # fmt: skip
    broken(monkeypatch)
    embedder = load()
    assert embedder.facts.backend == "torch"
    assert "cannot run by packed" in caplog.text
    np.testing.assert_allclose(vectors(embedder, TEXTS), library(folder, TEXTS), atol=1e-5)


def shifted(right: Callable[..., Vectors]) -> Callable[..., Vectors]:
    def run(self: LocalEmbedder, items: list) -> Vectors:
        return np.roll(right(self, items), 1, axis=1)

    return run


def forgotten_prompts(right: Callable[..., list]) -> Callable[..., list]:
    def prepare(self: TextTokenizer, inputs: list, prompt: Prompt, truncate: str) -> list:
        return right(self, inputs, Prompt(), truncate)

    return prepare


def one_token_more(right: Callable[..., list]) -> Callable[..., list]:
    def prepare(self: TextTokenizer, inputs: list, prompt: Prompt, truncate: str) -> list:
        self.limits = type(self.limits)(1101)
        return right(self, inputs, prompt, truncate)

    return prepare


@pytest.mark.parametrize(
    ("place", "name", "change"),
    [
        (LocalEmbedder, "_forward", shifted),
        (TextTokenizer, "prepare", forgotten_prompts),
        (TextTokenizer, "prepare", one_token_more),
    ],
)
def test_where_nothing_of_ours_is_right_the_library_runs_the_model_and_that_is_said(
    load: Callable[..., Embedder], folder: Path, monkeypatch: pytest.MonkeyPatch,
    place: type, name: str, change: Callable,
) -> None:  # fmt: skip
    monkeypatch.setattr(place, name, change(getattr(place, name)))
    embedder = load()
    assert embedder.facts.backend == "library"
    assert any("sentence-transformers itself" in note for note in embedder.facts.notes)
    monkeypatch.undo()
    passages = embedder.prompt(None, None, "document")
    assert passages.text == "passage: "
    expected = library(folder, TEXTS, prompt_name="passage")
    np.testing.assert_allclose(vectors(embedder, TEXTS, passages), expected, atol=1e-5)


def never(self: Proof, embedder: Embedder) -> str:
    raise AssertionError("it was proven again")


def test_a_restart_goes_by_the_verdict_of_the_start_before(
    load: Callable[..., Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load()
    monkeypatch.setattr(Proof, "difference", never)
    assert load().facts == first.facts


@pytest.mark.parametrize("what", ["version", "_processor", "_code"])
def test_another_library_processor_or_version_of_this_service_is_proven_again(
    load: Callable[..., Embedder], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    load()
    monkeypatch.setattr(proven, what, lambda *_: "another")
    monkeypatch.setattr(Proof, "difference", lambda *_: "differs")
    assert load().facts.backend == "library"


def test_another_byte_of_the_model_is_proven_again(
    load: Callable[..., Embedder], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(folder, other)
    first = load(other)
    changed(other / "1_Pooling" / "config.json", include_prompt=False)
    monkeypatch.setattr(Proof, "difference", lambda *_: "differs")
    second = load(other)
    assert second.facts.backend == "library"
    assert second.facts.fingerprint != first.facts.fingerprint


def test_a_verdict_that_says_library_is_kept_too(
    load: Callable[..., Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Proof, "difference", lambda *_: "differs")
        assert load().facts.backend == "library"
    monkeypatch.setattr(Proof, "difference", never)
    assert load().facts.backend == "library"


def test_a_damaged_verdict_is_no_verdict(load: Callable[..., Embedder], tmp_path: Path) -> None:
    load()
    (kept,) = (tmp_path / "cache").rglob("proofs/*.json")
    for content in ("", "[]", '{"backend": 7}', json.dumps({"backend": "by magic"})):
        kept.write_text(content)
        assert load().facts.backend == "packed"


def test_a_cache_that_cannot_be_written_costs_a_proof_and_no_start(
    load: Callable[..., Embedder], tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.write_text("no folder can be made here, by root neither")
    os.chmod(closed, stat.S_IRUSR)
    assert load(cache=closed / "cache").facts.backend == "packed"


def test_a_model_that_the_library_cannot_run_in_bfloat16_runs_in_float32(
    load: Callable[..., Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.bert.modeling_bert import BertSelfAttention

    right = BertSelfAttention.forward

    def forward(self, hidden_states, *args, **kwargs):  # noqa: ANN001, ANN002, ANN003, ANN202
        if hidden_states.dtype == torch.bfloat16:
            raise RuntimeError("expected scalar type Float but found BFloat16")
        return right(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(BertSelfAttention, "forward", forward)
    embedder = load(dtype="bfloat16")
    assert embedder.facts.dtype == "float32"
    assert any("cannot run it in bfloat16 (RuntimeError" in note for note in embedder.facts.notes)


def test_no_buffer_is_rounded_to_the_dtype_of_the_weights(
    load: Callable[..., Embedder], tmp_path: Path
) -> None:
    llama_mean(tmp_path / "llama")
    embedder = load(tmp_path / "llama", dtype="bfloat16")
    assert isinstance(embedder, LocalEmbedder)
    network = embedder._network.auto_model
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    buffers = [b.dtype for b in network.buffers() if b.is_floating_point()]
    assert buffers and set(buffers) == {torch.float32}


def test_what_follows_the_network_is_as_exact_as_its_file(
    load: Callable[..., Embedder], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    from tests.zoo.layouts_decoders import embedding_gemma

    embedding_gemma(tmp_path / "gemma")
    embedder = load(tmp_path / "gemma", dtype="bfloat16")
    assert isinstance(embedder, LocalEmbedder)
    dense = next(head for head in embedder._heads if type(head).__name__ == "Dense")
    stored = load_file(tmp_path / "gemma" / "2_Dense" / "model.safetensors")["linear.weight"]
    torch.testing.assert_close(dense.linear.weight, stored, rtol=0, atol=0)


class Fails:
    """Makes the rows of chosen passes not finite, as float16 does that overflows."""

    def __init__(self, embedder: LocalEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = False
        right = embedder._forward

        def forward(items: list) -> Vectors:
            found = right(items)
            return found * np.nan if self.now and embedder.facts.dtype != "float32" else found

        monkeypatch.setattr(embedder, "_forward", forward)


@pytest.fixture
def half(load: Callable[..., Embedder], tmp_path: Path) -> LocalEmbedder:
    llama_mean(tmp_path / "llama")
    embedder = load(tmp_path / "llama", dtype="bfloat16")
    assert isinstance(embedder, LocalEmbedder)
    return embedder


def passed(embedder: LocalEmbedder, texts: list[str]) -> np.ndarray:
    """Encode as the service's passes do: rows that are not finite once more, exactly."""
    from observability.metrics import ModelMetrics
    from serving.forward import Forward

    rows, _ = Forward(embedder, 60, ModelMetrics()).rows(embedder.prepare(texts, Prompt(), "auto"))
    return np.stack([row["dense"] for row in rows])


def test_what_overflows_is_made_again_in_float32_from_the_files_themselves(
    half: LocalEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = Fails(half, monkeypatch)
    fails.now = True
    expected = library(tmp_path / "llama", TEXTS)
    np.testing.assert_allclose(passed(half, TEXTS), expected, atol=1e-5)
    assert half.facts.dtype == "bfloat16"


def test_a_dtype_that_fails_twice_in_a_row_is_given_up(
    half: LocalEmbedder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fails, before = Fails(half, monkeypatch), half.facts.fingerprint
    for fails.now in (True, False, True, False):
        passed(half, TEXTS)
    assert half.facts.dtype == "bfloat16"
    for fails.now in (True, True):
        passed(half, TEXTS)
    assert half.facts.dtype == "float32"
    assert half.facts.fingerprint == before
    assert "it runs in float32 from now on" in caplog.text
    monkeypatch.setattr(half, "_forward_exactly", never)
    passed(half, TEXTS)


@pytest.mark.parametrize("way", ["packed", "sparse", "library"])
def test_rows_that_two_threads_make_again_at_once_come_from_one_copy(
    way: str, load: Callable[..., Embedder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, entry = None, {}
    if way == "sparse":
        other, entry = tmp_path / "sparse", {"type": "sparse"}
        masked_bert(other)
    if way == "library":
        monkeypatch.setattr(Proof, "difference", lambda proof, embedder: "it is another's")
    embedder = load(other, dtype="bfloat16", **entry)
    assert embedder.facts.backend == way.replace("sparse", "packed")
    right, loads, found = LoadedModel.exactly, [], []
    items = embedder.prepare(TEXTS, Prompt(), "auto")
    second = threading.Thread(target=lambda: found.append(embedder.encode_exactly(items)))

    def exactly(loaded: LoadedModel, *notes: str) -> LoadedModel:
        loads.append(loaded)
        if len(loads) == 1:
            second.start()
            second.join(0.5)  # it waits for this load, or else has ended
        return right(loaded, *notes)

    monkeypatch.setattr(LoadedModel, "exactly", exactly)
    first = embedder.encode_exactly(items)
    second.join()
    assert len(loads) == len(found) == 1
    (output,) = embedder.facts.outputs
    for one, same in zip(first.columns[output], found[0].columns[output], strict=True):
        np.testing.assert_equal(one, same)


def test_a_pass_goes_on_while_another_one_replaces_the_network(
    load: Callable[..., Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = load(dtype="bfloat16")
    assert isinstance(embedder, LocalEmbedder) and embedder.facts.backend == "packed"
    items, module = embedder.prepare(TEXTS, Prompt(), "auto"), sys.modules[Packed.__module__]
    shares_of: Callable[..., Any] = vars(module)["shares_of"]
    before = embedder.encode(items).vectors

    def replaced(*given: Any) -> Any:
        embedder._replace_by(LocalEmbedder(embedder._loaded.exactly(), embedder._tokenizer.limits))
        return shares_of(*given)

    monkeypatch.setattr(module, "shares_of", replaced)
    np.testing.assert_allclose(embedder.encode(items).vectors, before, atol=0.02)
    assert (embedder.facts.dtype, embedder.facts.backend) == ("float32", "torch")
