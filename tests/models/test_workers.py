"""Two workers and their model process: idleness and the budget are those of all workers."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import free_port, running, write_models
from tests.embedders.repositories import vectors, with_dense
from tests.faults.conftest import until

NAMES = "a", "b", "c"
ROOM_MB = 20  # for two: each takes 9.3 MB


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three models of different weights."""
    made = {}
    for number, name in enumerate(NAMES):
        folder = with_dense(tmp_path_factory.mktemp("models") / name)
        weights = load_file(folder / "model.safetensors")
        source = torch.Generator().manual_seed(number)
        for tensor in weights.values():
            if tensor.is_floating_point():
                tensor += 0.1 * torch.randn(tensor.shape, generator=source)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        made[name] = folder
    return made


@pytest.fixture
def url(folders: dict[str, Path], tmp_path: Path) -> Iterator[str]:
    entries = {name: {"model_name": str(folder)} for name, folder in folders.items()}
    entries["b"]["load"] = "first_use"
    port = free_port()
    env = {
        "HOST": "127.0.0.1", "PORT": str(port), "MODELS_MEMORY_MB": str(ROOM_MB),
        "MODELS_IDLE_UNLOAD": "1.5",
        "MODEL_CONFIG": str(write_models(tmp_path / "m.json", entries)),
        "SUPPORTED_MODELS_FILE": "/nonexistent", "DEVICE": "cpu", "DTYPE": "float32",
        "CACHE": "none", "EMBEDDING_MODEL_CACHE_DIR": str(tmp_path / "cache"),
    }  # fmt: skip
    command = [sys.executable, "-m", "gunicorn", "-w", "2", "app:app"]
    with running(command, port, env, ready="/health/ready"):
        yield f"http://127.0.0.1:{port}"


def states(url: str) -> set[str]:
    """Return the states of all models, as either worker has them."""
    replies = [requests.get(f"{url}/models", timeout=30).json() for _ in range(12)]
    return {row["status"] for reply in replies for row in reply["data"]}


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def metric(url: str, name: str, **labels: str) -> float:
    """Return the sum of the series of this name with these labels."""
    lines = requests.get(f"{url}/metrics", timeout=30).text.splitlines()
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    rows = [line for line in lines if line.startswith(name + "{")]
    return sum(float(row.split()[-1]) for row in rows if all(each in row for each in wanted))


def test_workers_share_the_budget_and_what_none_of_them_uses_is_unloaded(
    url: str, folders: dict[str, Path]
) -> None:
    until(lambda: "loading" not in states(url))
    right = {name: unit(vectors(folder)) for name, folder in folders.items()}
    texts = ["one", "a longer text than the other", "die Fassade, façade und 中文"]
    failures: list[object] = []
    largest = [0.0]

    def send(number: int) -> None:
        for turn in range(6):
            name = NAMES[(number + turn) % 3]
            body = {"model": name, "texts": texts}
            reply = requests.post(f"{url}/embed", json=body, timeout=120)
            if reply.status_code != 200:
                failures.append((name, reply.status_code, reply.text))
                continue
            given = np.array(reply.json()["embeddings"])
            if not np.allclose(given, right[name], atol=1e-4):
                failures.append((name, "the vectors of another model", given))
            largest[0] = max(largest[0], metric(url, "embedding_model_bytes"))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert failures == []
    assert 0 < largest[0] <= ROOM_MB << 20
    assert metric(url, "embedding_model_unloads_total", reason="budget") > 0

    until(lambda: metric(url, "embedding_model_bytes") == 0)
    assert metric(url, "embedding_model_unloads_total", reason="idle") > 0
    until(lambda: states(url) == {"unloaded"})
    assert requests.get(f"{url}/health", timeout=30).status_code == 200
    reply = requests.post(f"{url}/embed", json={"model": "b", "texts": texts}, timeout=120)
    assert np.allclose(np.array(reply.json()["embeddings"]), right["b"], atol=1e-4)
