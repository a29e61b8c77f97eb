"""A local model with a second copy of this service beside it: one space, and none is missed."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import pytest
from flask import Flask

from config import Config
from factory import create_app
from tests.conftest import Server, free_port, running, write_models
from tests.servers.process import children

NAME = "sentence-transformers/all-MiniLM-L6-v2"
NETWORK = {"provider_networks": "127.0.0.0/8", "provider_http_hosts": "127.0.0.1"}
TEXTS = [f"text number {i} of a few" for i in range(12)]


class Copy:
    """A second copy of this service, on a port of its own."""

    def __init__(self, stack: ExitStack, models: str) -> None:
        self.port = free_port()
        self._stack, self._models = stack, models
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        env = {"HOST": "127.0.0.1", "PORT": str(self.port), "EMBEDDING_DTYPE": "float32"}
        env |= {"MODEL_CONFIG": self._models, "SUPPORTED_MODELS": NAME, "CACHE": "none"}
        command = [sys.executable, "-m", "gunicorn", "app:app"]
        self.process: Server = self._stack.enter_context(running(command, self.port, env))

    def kill(self) -> None:
        for pid in [self.process.pid, *children(self.process.pid)]:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    models = write_models(tmp_path_factory.mktemp("copy") / "m.json", {"m": {"model_name": NAME}})
    with ExitStack() as stack:
        yield Copy(stack, str(models))


@pytest.fixture
def beside(config_of: Callable[..., Config]) -> Iterator[Callable[..., Flask]]:
    """Make an application on the bundled model with replicas beside it."""
    made: list[Flask] = []

    def make(url: str, **entry: object) -> Flask:
        entry = {"model_name": NAME, "devices": ["cpu"], "base_urls": [url], **entry}
        config = config_of({"m": entry}, dtype="float32", cache="none", **NETWORK)
        made.append(create_app(config, wait=True))
        return made[-1]

    yield make
    for app in made:
        loaded = app.extensions["services"].engine.registry.default.held
        if loaded is not None:
            loaded.encoder.close()
        app.extensions["services"].providers.close()


def replicas(app: Flask) -> list[dict]:
    return app.test_client().get("/models/m").json["replicas"]


def until(condition: Callable[[], object], limit_s: float = 120) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def states(app: Flask) -> list[str]:
    return [row["status"] for row in replicas(app)]


def embed(app: Flask, texts: list[str], **options: object) -> np.ndarray:
    reply = app.test_client().post("/embed", json={"texts": texts, **options})
    assert reply.status_code == 200, reply.text
    return np.asarray(reply.json["embeddings"], np.float32)


def test_no_request_fails_when_the_copy_beside_is_killed_and_comes_back(
    copy: Copy, beside: Callable[..., Flask]
) -> None:
    app = beside(copy.url)
    truth = app.extensions["services"].engine.registry.default.loaded.embedder
    assert truth.facts.device == "cpu"
    until(lambda: states(app) == ["up", "up"])
    wanted = {text: embed(app, [text])[0] for text in TEXTS}
    wrong: list[object] = []
    stop = threading.Event()

    def work(turn: int) -> None:
        while not stop.is_set():
            texts = TEXTS[turn::3]
            try:
                got = embed(app, texts)
                if np.abs(got - [wanted[text] for text in texts]).max() > 1e-4:
                    wrong.append(texts)
            except AssertionError as exc:
                wrong.append(exc)
            stop.wait(0.05)  # or they take the CPU from the copy that starts

    threads = [threading.Thread(target=work, args=(turn % 3,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: all(row["served"] > 10 for row in replicas(app)))
        copy.kill()
        until(lambda: states(app) == ["up", "down"])
        served = replicas(app)[0]["served"]
        until(lambda: replicas(app)[0]["served"] > served + 8)
        copy.start()
        until(lambda: states(app) == ["up", "up"])
        served = replicas(app)[1]["served"]
        until(lambda: replicas(app)[1]["served"] > served + 8)
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert wrong == []


def test_a_copy_of_another_space_is_never_asked(copy: Copy, beside: Callable[..., Flask]) -> None:
    app = beside(copy.url, max_seq_length=64)  # of the same weights and width
    until(lambda: states(app) == ["up", "down"])
    row = replicas(app)[1]
    assert "it does not serve the same model in the same way" in row["reason"]
    embed(app, TEXTS)
    assert replicas(app)[1]["served"] == 0


def test_prompts_token_ids_and_lengths_are_those_of_the_local_copy(
    copy: Copy, beside: Callable[..., Flask]
) -> None:
    app = beside(copy.url)
    until(lambda: states(app) == ["up", "up"])
    lane = app.extensions["services"].engine.registry.default.loaded.encoder
    local, far = (place.encoder for place in lane.places)
    embedder = local.embedder
    for inputs in (["a text", "word " * 400, ""], [[101, 7592, 102], [7592]]):
        prompt = embedder.prompt(None, "query: " if isinstance(inputs[0], str) else None)
        items = embedder.prepare(inputs, prompt, "left")
        ours, theirs = (each.encode(items) for each in (local, far))
        np.testing.assert_allclose(ours.vectors, theirs.vectors, atol=1e-5)
        assert sum(ours.tokens) == sum(theirs.tokens)


def test_addresses_alone_do_not_make_a_local_model_remote(beside: Callable[..., Flask]) -> None:
    app = beside("http://127.0.0.1:1/v1", devices=[])
    page = app.test_client().get("/models/m").json
    assert page["status"] == "unavailable"
    assert '"base_urls" only together with "devices"' in page["reason"]
