"""All kinds of models and two dense ones in one process: mixed load, a swap, an idle unload."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask import Flask

from config import Config
from factory import create_app
from tests.faults.conftest import until
from tests.models.folders import copies, kinds

TEXTS = ["hello world", "what is the weather today?"]
ASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("/embed", {"model": "dense", "texts": TEXTS}),
    "other": ("/embed", {"model": "other", "texts": TEXTS}),
    "reranker": ("/rerank", {"model": "reranker", "query": "hello", "documents": TEXTS}),
    "sparse": ("/embed", {"model": "sparse", "texts": TEXTS, "outputs": ["sparse"]}),
    "multi_vector": (
        "/embed", {"model": "multi_vector", "texts": TEXTS, "outputs": ["multi_vector"]},
    ),
    "m3": ("/embed", {"model": "m3", "texts": TEXTS, "outputs": ["dense", "sparse"]}),
}  # fmt: skip


@pytest.fixture
def app(tmp_path: Path, config_of: Callable[..., Config]) -> Flask:
    first, second = copies(tmp_path, 2)
    entries = {
        "dense": {"model_name": str(first)},
        "other": {"model_name": str(second), "load": "first_use", "idle_unload_s": 1},
        **kinds(tmp_path),
    }
    given = {"device": "cpu", "dtype": "float32", "model_cache_dir": tmp_path / "cache"}
    return create_app(config_of(entries, **given), wait=True)


def numbers(name: str, reply: dict[str, Any]) -> list[np.ndarray]:
    """Return what a reply holds, as arrays."""
    if name == "reranker":
        rows = sorted(reply["results"], key=lambda row: row["index"])
        return [np.array([row["relevance_score"] for row in rows])]
    found: list[Any] = [*reply.get("embeddings", ()), *reply.get("multi_vector", ())]
    found += [row["values"] for row in reply.get("sparse", ())]
    return [np.array(each) for each in found]


def test_all_kinds_serve_under_mixed_load_through_a_swap_and_an_idle_unload(app: Flask) -> None:
    def ask(name: str) -> list[np.ndarray]:
        route, body = ASKS[name]
        reply = app.test_client().post(route, json=body)
        assert reply.status_code == 200, (name, reply.text)
        return numbers(name, json.loads(reply.data))

    def state(name: str) -> str:
        return str(app.test_client().get(f"/models/{name}").json["status"])

    assert state("other") == "unloaded"
    right = {name: ask(name) for name in ASKS}
    failures: list[object] = []
    stop, rests = threading.Event(), threading.Event()
    served = dict.fromkeys(ASKS, 0)

    def send(name: str) -> None:
        while not stop.is_set():
            if name == "other" and rests.is_set():
                time.sleep(0.05)
                continue
            try:
                for given, wanted in zip(ask(name), right[name], strict=True):
                    np.testing.assert_allclose(given, wanted, atol=2e-4)
                served[name] += 1
                stop.wait(0.1)  # or they take the CPU from what the test waits for
            except Exception as exc:
                failures.append((name, exc))

    threads = [threading.Thread(target=send, args=(name,)) for name in ASKS]
    for thread in threads:
        thread.start()
    try:
        until(lambda: failures or all(count > 2 for count in served.values()))
        rests.set()
        until(lambda: failures or state("other") == "unloaded")
        changed = app.test_client().post("/settings", json={"key": "max_seq_length", "value": 200})
        assert changed.status_code == 200, changed.text
        before = dict(served)
        rests.clear()
        until(lambda: failures or all(served[name] > before[name] + 2 for name in ASKS))
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert failures == []
    assert state("other") == "ready" and not [name for name in ASKS if state(name) != "ready"]
