"""Networks of any architecture run as a copy whose linear layers have oneDNN's layout."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from config import Config, ModelSpec
from embedders import layers
from embedders.backends import local
from embedders.base import Embedder, Prompt
from embedders.local import LocalEmbedder
from tests.zoo.layouts_decoders import qwen3_last_token
from tests.zoo.layouts_encoders import (
    albert,
    deberta_v2,
    distilbert,
    gte,
    modernbert_mean,
    mpnet,
    nomic_of_8192_tokens,
    t5_encoder,
)

TEXTS = ["a", "a few words", *("more of them " * count for count in range(3, 40, 3))]
REPACKED = [
    albert, deberta_v2, distilbert, gte, modernbert_mean, mpnet, nomic_of_8192_tokens,
    qwen3_last_token, t5_encoder,
]  # fmt: skip


def load(folder: Path, **entry: object) -> Embedder:
    spec = ModelSpec.model_validate(
        {"id": "m", "model_name": str(folder), "dtype": "float32", **entry}
    )
    return local(spec, Config(device="cpu", model_cache_dir=folder / "cache"))


def vectors(embedder: Embedder, texts: list[str] = TEXTS) -> np.ndarray:
    """Return the vectors of texts, normalised."""
    found = embedder.encode(embedder.prepare(texts, Prompt(), "auto")).vectors
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def library(folder: Path) -> np.ndarray:
    """Return the library's vectors of the texts, each computed alone."""
    model = SentenceTransformer(str(folder), device="cpu")
    return np.stack([model.encode(text, prompt="", normalize_embeddings=True) for text in TEXTS])


@pytest.mark.parametrize("build", REPACKED, ids=lambda build: build.__name__)
def test_a_repacked_network_gives_the_librarys_vectors(
    build: Callable[[Path], None], tmp_path: Path
) -> None:
    build(tmp_path / "model")
    embedder = load(tmp_path / "model")
    assert embedder.facts.backend == "torch+packed"
    np.testing.assert_allclose(vectors(embedder), library(tmp_path / "model"), atol=1e-5)
    embedder.close()


def test_many_threads_get_their_own_vectors(tmp_path: Path) -> None:
    mpnet(tmp_path / "model")
    embedder = load(tmp_path / "model")
    expected = vectors(embedder)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: vectors(embedder), range(40)):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    embedder.close()


def test_the_networks_own_weights_are_freed(tmp_path: Path) -> None:
    mpnet(tmp_path / "model")
    embedder = load(tmp_path / "model")
    assert isinstance(embedder, LocalEmbedder)
    for network in (embedder._network, next(iter(embedder._loaded.modules))):
        linear = [m for m in network.modules() if type(m) is torch.nn.Linear]
        assert all(module.weight.numel() == 0 for module in linear)
    embedder.close()


def test_a_copy_that_differs_gives_way_to_the_network_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mpnet(tmp_path / "model")
    right = layers.Linear.__call__
    monkeypatch.setattr(layers.Linear, "__call__", lambda self, x: right(self, x) * 1.01)
    embedder = load(tmp_path / "model")
    assert embedder.facts.backend == "torch" and "cannot run by torch+packed" in caplog.text
    np.testing.assert_allclose(vectors(embedder), library(tmp_path / "model"), atol=1e-5)


def test_padded_torch_is_what_was_asked_for(tmp_path: Path) -> None:
    mpnet(tmp_path / "model")
    assert load(tmp_path / "model", backend="torch").facts.backend == "torch"
