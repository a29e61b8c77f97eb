"""A small real model beside the bundled one, the three databases, and a service on them."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from embedders.weights import BUNDLES, find
from settings import Prepared
from tests.conftest import free_port, running, write_models

BUNDLED = next(iter(BUNDLES))


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model folder: two random layers of width 64 under the bundled tokenizer."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    base = tmp_path_factory.mktemp("small") / "base"
    tokenizer = AutoTokenizer.from_pretrained(find(BUNDLED))
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(1)
    config = BertConfig(vocab_size=len(tokenizer), intermediate_size=128, **shape)
    BertModel(config).save_pretrained(base)
    tokenizer.save_pretrained(base)
    modules = [Transformer(str(base), max_seq_length=128), Pooling(64, "mean"), Normalize()]
    folder = base.parent / "model"
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    return folder


@pytest.fixture(params=["sqlite", "mariadb", "postgres"])
def db_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/db/settings.db"
    return str(request.getfixturevalue(request.param).database())


class Steps(Prepared):
    """A prepared change of nothing, which notes how it ended."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    def commit(self) -> None:
        self.taken.append("commit")

    def abort(self) -> None:
        self.taken.append("abort")


class Service:
    """A running service, and short ways to ask it."""

    def __init__(self, url: str, pid: int) -> None:
        self.url, self.pid = url, pid

    def get(self, path: str) -> Any:
        reply = requests.get(self.url + path, timeout=30)
        return reply.json()

    def post(self, path: str, body: Any, timeout: float = 90) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=timeout)

    def embeds(self) -> bool:
        return self.post("/embed", {"text": "x"}).status_code == 200

    def set(self, key: str, value: Any) -> requests.Response:
        return self.post("/settings", {"key": key, "value": value})

    def value(self, key: str) -> Any:
        return self.get("/settings")["settings"][key]["value"]


def until(condition: Callable[[], bool], limit_s: float = 90) -> None:
    """Wait until the condition holds."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Start gunicorn with settings in SQL, on a fake model unless the environment says other."""
    models = write_models(
        tmp_path / "models.json",
        {
            "fake": {"type": "fake", "model_name": "tests/fake"},
            "wide": {"type": "fake", "model_name": "tests/wide", "dimensions": 12},
        },
    )
    with ExitStack() as stack:

        def begin(db_url: str, *flags: str, **env: str) -> Service:
            port = free_port()
            given = {
                "HOST": "127.0.0.1",
                "PORT": str(port),
                "MODEL_CONFIG": str(models),
                "SUPPORTED_MODELS_FILE": str(tmp_path / "none"),
                "LOG_LEVEL": "WARNING",  # nobody reads the pipe: a line a request would fill it
                "EMBEDDING_USE_DB_SETTINGS": "true",
                "EMBEDDING_DB_URL": db_url,
                **env,
            }
            command = [sys.executable, "-m", "gunicorn", *flags, "app:app"]
            process = stack.enter_context(running(command, port, given))
            service = Service(f"http://127.0.0.1:{port}", process.pid)
            if "-w" in flags:  # one that is ready answers for all, while others still load
                with ThreadPoolExecutor(8) as pool:
                    until(lambda: all(pool.map(lambda _: service.embeds(), range(32))))
            return service

        yield begin


def body(texts: list[str]) -> bytes:
    """The body of `POST /embed`."""
    return json.dumps({"texts": texts}).encode()
