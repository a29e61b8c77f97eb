"""One service that all clients talk to, and what each of them got from it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import fake_service
from tests.dialects.clients.answers import (
    LONG,
    QUERY,
    TEXTS,
    Answers,
    Raw,
    cohere_7_answers,
    node_answers,
    python_answers,
)

KEY = "a-fixed-key-of-these-tests-only"


def rerankers(folder: Path) -> dict[str, dict[str, Any]]:
    """Write a reranker and a classifier with random weights; return their entries."""
    import torch

    from tests.embedders.rerankers import encoder, ms_marco_minilm
    from tests.zoo import vocabularies

    torch.manual_seed(0)
    (folder / "reranker").mkdir(parents=True)
    ms_marco_minilm(folder / "reranker")
    (folder / "classes").mkdir()
    names = {"0": "sad", "1": "glad", "2": "neither"}
    ids = {name: int(i) for i, name in names.items()}
    encoder(folder / "classes", "Bert", vocabularies.bert(), labels=3,
            options={"id2label": names, "label2id": ids})  # fmt: skip
    return {
        "reranker": {"model_name": str(folder / "reranker"), "dtype": "float32",
                     "aliases": ["rerank-v3.5"]},
        "classes": {"model_name": str(folder / "classes"), "dtype": "float32"},
    }  # fmt: skip


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The real model, a reranker and a classifier; sparse vectors and prompts are a fake's."""
    folder: Path = tmp_path_factory.mktemp("clients")
    models = {
        "minilm": {
            "type": "sentence_transformer", "normalize": True, "dtype": "float32",
            "model_name": "sentence-transformers/all-MiniLM-L6-v2",
            "aliases": ["text-embedding-3-small", "text-embedding-ada-002", "embed-english-v3.0"],
        },
        "prompted": {"type": "fake", "model_name": "tests/prompted", "max_seq_length": 64},
        "sparse": {"type": "fake", "model_name": "tests/sparse+sparse", "max_seq_length": 64},
        **rerankers(folder),
    }  # fmt: skip
    with fake_service(folder, models, EMBEDDING_DEVICE="cpu") as base:
        yield base


@pytest.fixture(scope="session")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service that asks for a key."""
    models: dict[str, dict] = {
        "fake": {"type": "fake", "model_name": "tests/fake", "max_seq_length": 64},
        "ranks": {"type": "fake", "model_name": "tests/ranks+score", "max_seq_length": 64},
    }
    env = {"AUTH_ENABLED": "true", "JWT_SECRET_KEY": "signs-the-tokens-of-these-tests-only",
           "API_KEY_SECRET": KEY}  # fmt: skip
    with fake_service(tmp_path_factory.mktemp("locked"), models, **env) as base:
        yield base


@pytest.fixture(scope="session")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service that takes the texts once a minute; callers on this machine are its admins."""
    once = {"TEXTS_PER_MINUTE_ADMIN": str(len(TEXTS))}
    with fake_service(tmp_path_factory.mktemp("crowded"), **once) as base:
        yield base


@pytest.fixture(scope="session")
def given(url: str, locked: str, crowded: str) -> dict[str, Any]:
    """What every client is told."""
    return {"url": url, "locked": locked, "crowded": crowded, "key": KEY, "texts": TEXTS,
            "query": QUERY, "long": LONG}  # fmt: skip


@pytest.fixture(scope="session")
def python(given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What the Python clients got."""
    return python_answers(given, tmp_path_factory.mktemp("python"))


@pytest.fixture(scope="session")
def cohere_7(given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What the newest Cohere client got."""
    return cohere_7_answers(given, tmp_path_factory.mktemp("cohere"))


@pytest.fixture(scope="session")
def node(given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What Node's clients got."""
    return node_answers(given, tmp_path_factory.mktemp("node"))


@pytest.fixture(scope="session")
def raw(url: str) -> Raw:
    """Sends requests as programs without a client library do."""
    return Raw(url)


@pytest.fixture(scope="session")
def raw_locked(locked: str) -> Raw:
    """The same, to the service that asks for a key."""
    return Raw(locked)
