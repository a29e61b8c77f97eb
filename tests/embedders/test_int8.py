"""Models in int8: near float32, alone as in company, small, and refused where they cannot be."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flask import Flask

import embedders
from config import Config, ModelSettings, ModelSpec
from embedders import backends, quantized
from embedders.base import Embedder, Pair, Prompt, Vectors
from embedders.pair_proof import SHARE_INT8, WORDS
from embedders.proof import CENTRED_INT8, EQUAL_INT8, Proof, cosines, words_of
from embedders.size import weights_of
from embedders.table import RoundedTable
from errors import ModelUnavailable
from factory import create_app
from tests.embedders.repositories import MINILM, NAME
from tests.embedders.rerankers import ms_marco_electra, ms_marco_minilm
from tests.embedders.test_sparse import masked_bert
from tests.zoo.layouts_decoders import llama_mean

Load = Callable[..., Embedder]
QUESTIONS = ["what is a matrix", "How do I sort a list in Python?", "Wo ist der Bahnhof?"]
# Texts whose states are unlike those of others.
HOSTILE = ["\x00" * 50, "🙂" * 200, "[MASK] " * 200, "z" * 600, "﷽" * 100, "", "1 " * 250]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Load a model, in int8 unless told otherwise, with one folder of verdicts."""
    cache = tmp_path_factory.mktemp("cache")

    def make(name: str = NAME, **entry: object) -> Embedder:
        given = {"id": "m", "model_name": name, "dtype": "int8", "device": "cpu", **entry}
        settings = Config(model_cache_dir=cache)
        return embedders.build(ModelSpec.model_validate(given), settings)

    return make


@pytest.fixture(scope="module")
def int8(load: Load) -> Embedder:
    return load()


@pytest.fixture(scope="module")
def exact(load: Load) -> Embedder:
    return load(dtype="float32")


def vectors(embedder: Embedder, texts: list[str]) -> Vectors:
    return embedder.encode(embedder.prepare(texts, Prompt(), "auto")).vectors


def test_the_vectors_are_near_those_of_float32(int8: Embedder, exact: Embedder) -> None:
    assert (int8.facts.dtype, int8.facts.backend) == ("int8", "onnx")
    texts = [*QUESTIONS, *HOSTILE]
    found, expected = vectors(int8, texts), vectors(exact, texts)
    assert cosines(found, expected).min() > EQUAL_INT8
    middle = expected.mean(axis=0)
    assert cosines(found - middle, expected - middle).min() > CENTRED_INT8
    assert cosines(found, expected).min() < 0.9999, "it is float32"


def test_no_text_beside_it_changes_a_text(int8: Embedder) -> None:
    alone = vectors(int8, QUESTIONS)
    for other in HOSTILE:
        beside = vectors(int8, [*QUESTIONS, other])[: len(QUESTIONS)]
        assert cosines(alone, beside).min() > 0.99999, other[:10]


def test_its_vectors_are_never_taken_for_those_of_another_dtype(
    int8: Embedder, exact: Embedder, load: Load
) -> None:
    half = load(dtype="bfloat16")
    assert len({each.facts.fingerprint for each in (int8, exact, half)}) == 3


def test_a_restart_goes_by_the_verdict_of_the_start_before(
    int8: Embedder, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> str:
        raise AssertionError("it was proven again")

    monkeypatch.setattr(Proof, "difference", never)
    assert load().facts == int8.facts


def test_auto_never_means_int8() -> None:
    from embedders.device import choose_dtype

    assert choose_dtype("auto", torch.device("cpu")) in (torch.bfloat16, torch.float32)


def test_where_the_result_is_too_far_it_is_refused_with_the_figure_and_what_to_do(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounded = quantized.rounded

    def coarse(weight: torch.Tensor) -> Any:
        values, scales = rounded(weight)
        return (values // 32) * 32, scales

    monkeypatch.setattr(quantized, "rounded", coarse)
    # Another limit, as the verdict of the same model is kept.
    with pytest.raises(ModelUnavailable) as refused:
        load(max_seq_length=100)
    for word in ("int8 does not suit", "has cosine -?0.[0-9]+", "set its dtype to bfloat16"):
        assert re.search(word, refused.value.message)


def test_a_text_that_depends_on_its_company_is_refused(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = quantized.QuantizedLayers.__call__

    def run(self, states, slots, used):  # noqa: ANN001, ANN202
        found = right(self, states, slots, used)
        noise = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
        return found + 0.06 * found.std() * noise if len(slots) > 1 else found

    monkeypatch.setattr(quantized.QuantizedLayers, "__call__", run)
    with pytest.raises(ModelUnavailable, match="a text in a pass has cosine 0.99[0-9]+ to its"):
        load(max_seq_length=101)


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        ({"backend": "packed"}, "set its backend to onnx or auto, not packed"),
        ({"device": "cuda"}, "runs on a CPU only, not on cuda: set its device to cpu"),
        ({"type": "openai", "name": "text-embedding-3-small"}, "runs at its provider"),
    ],
)
def test_what_cannot_be_in_int8_is_refused_with_what_to_do(
    load: Load, monkeypatch: pytest.MonkeyPatch, entry: dict[str, str], word: str
) -> None:
    from embedders import device

    if entry.get("device") == "cuda":
        monkeypatch.setattr(device, "choose_device", lambda wanted: torch.device(wanted))
    with pytest.raises(ModelUnavailable) as refused:
        load(entry.pop("name", NAME), **entry)
    assert word in refused.value.message


def test_a_device_that_is_left_open_is_the_cpu(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    from embedders import device

    monkeypatch.setattr(device, "choose_device", lambda wanted: torch.device(wanted))
    assert load(device="auto").facts.device == "cpu"


def test_other_layouts_and_kinds_are_refused_by_their_name(load: Load, tmp_path: Path) -> None:
    llama_mean(tmp_path / "llama")
    masked_bert(tmp_path / "sparse")
    ms_marco_electra(tmp_path / "electra")
    for name, entry, word in (
        ("llama", {}, "this is a LlamaModel"),
        ("sparse", {"type": "sparse"}, "is a sparse model"),
        ("electra", {}, "this is a ElectraModel"),
    ):
        with pytest.raises(ModelUnavailable) as refused:
            load(str(tmp_path / name), **entry)
        assert word in refused.value.message
        assert "set its dtype to bfloat16 or float32" in refused.value.message


def test_a_reranker_scores_nearly_as_in_float32(load: Load, tmp_path: Path) -> None:
    ms_marco_minilm(tmp_path / "m")
    int8, exact = load(str(tmp_path / "m")), load(str(tmp_path / "m"), dtype="float32")
    assert (int8.facts.dtype, int8.facts.backend) == ("int8", "onnx")
    pairs = [Pair(words_of(query), words_of(document)) for query, document in WORDS]
    found, expected = (
        each.encode(each.prepare_pairs(pairs, Prompt(), "auto")).columns["score"]
        for each in (int8, exact)
    )
    assert np.abs(found - expected).max() <= SHARE_INT8 * np.ptp(expected)
    assert int8.facts.fingerprint != exact.facts.fingerprint


def test_products_are_exact_with_either_kind_of_matrix(
    load: Load, int8: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized, "saturates", lambda: not quantized._sums_are_right(np.int8(0)))
    usual = vectors(load(max_seq_length=102), QUESTIONS)
    monkeypatch.setattr(quantized, "saturates", lambda: True)
    np.testing.assert_array_equal(vectors(load(max_seq_length=103), QUESTIONS), usual)


def test_a_row_of_a_table_keeps_its_zeros_and_its_largest_numbers() -> None:
    rows = torch.tensor([[0.0, 0.0], [1.0, -3.0], [1e-5, 2e-5]])
    found = RoundedTable(rows, None)(torch.tensor([2, 0, 1]))
    torch.testing.assert_close(found, rows[[2, 0, 1]], rtol=0, atol=3 / 127 / 2)
    assert found[1].tolist() == [0.0, 0.0] and found[2, 1] == pytest.approx(-3)


MEMORY = """
import sys
from pathlib import Path
from config import Config, ModelSpec
from embedders.backends import local
from embedders.base import Prompt
from server.memory import give_back_memory
def loaded(dtype):
    spec = ModelSpec.model_validate({"id": "m", "model_name": sys.argv[1], "dtype": dtype})
    return local(spec, Config(device="cpu", model_cache_dir=Path(sys.argv[2])))
def mb():
    give_back_memory()
    rows = Path("/proc/self/status").read_text().splitlines()
    return int(next(row for row in rows if row.startswith("VmRSS")).split()[1]) / 1024
first = loaded("int8")
first.encode(first.prepare(["ok"], Prompt(), "auto"))
first.close()
del first
before = mb()
kept = loaded("int8")
print(mb() - before)
"""


def test_a_model_takes_about_a_quarter_of_float32(tmp_path: Path) -> None:
    given = [sys.executable, "-c", MEMORY, NAME, str(tmp_path)]
    done = subprocess.run(given, capture_output=True, text=True, check=True)
    grown = float(done.stdout.split()[-1])
    full = (MINILM / "model.safetensors").stat().st_size / (1 << 20)
    # By ONNX Runtime both have the layers twice: float32 takes 2.2 to 2.4 times its weights.
    assert grown < 0.75 * full, f"{grown:.0f} of {full:.0f} MB"
    shown = [
        weights_of(ModelSpec(id="m", model_name=NAME, dtype=dtype, device="cpu"), ModelSettings())
        for dtype in ("int8", "float32")
    ]
    assert 0.2 < shown[0] / shown[1] < 0.27


def test_it_is_served_and_shown(config_of: Callable[..., Config], tmp_path: Path) -> None:
    entry = {"model_name": NAME, "dtype": "int8", "device": "cpu"}
    app: Flask = create_app(config_of({"m": entry}, model_cache_dir=tmp_path), wait=True)
    client = app.test_client()
    shown = client.get("/models/m").json
    assert (shown["dtype"], shown["backend"]) == ("int8", "onnx")
    reply = client.post("/v1/embeddings", json={"model": "m", "input": QUESTIONS}).json
    found = np.array([row["embedding"] for row in reply["data"]])
    expected = vectors(backends.local(
        ModelSpec.model_validate({"id": "m", "model_name": NAME, "dtype": "float32"}),
        Config(device="cpu", model_cache_dir=tmp_path),
    ), QUESTIONS)  # fmt: skip
    assert cosines(found, expected).min() > EQUAL_INT8
