"""The swap itself: real gunicorn, two real models, clients that never stop sending.

`SWAPS=20 pytest tests/settings/test_swap_under_load.py` is the long form.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import requests

from tests.servers.process import children
from tests.settings.conftest import BUNDLED, Service, until

CLIENTS = 32
SWAPS = int(os.environ.get("SWAPS", "6"))
# The numeric library keeps what it compiled for every shape of batch it met, swaps or none: with
# few shapes that memory is soon complete, and what grows is the swap's.
FEW_SHAPES = {"EMBEDDING_MAX_BATCH_SIZE": "2"} if SWAPS < 20 else {}
TEXTS = [f"{word} number {i} of the swap" for i in range(8) for word in ("alpha", "beta")]


def memory_mb(service: Service) -> float:
    """Resident memory of the one worker."""
    worker = children(service.pid)[0]
    rows = Path(f"/proc/{worker}/status").read_text().splitlines()
    return int(next(r for r in rows if r.startswith("VmRSS")).split()[1]) / 1024


class Client(threading.Thread):
    """Sends two texts again and again, and keeps what came back that was not as it must be."""

    def __init__(self, url: str, number: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.url, self.stop = url, stop
        self.texts = [TEXTS[number % len(TEXTS)], TEXTS[(number * 7 + 3) % len(TEXTS)]]
        self.failures: list[str] = []
        self.seen: set[tuple[str, str, bytes]] = set()  # model, fingerprint, vectors
        self.replies = 0

    def run(self) -> None:
        with requests.Session() as session:
            while not self.stop.is_set():
                try:
                    reply = session.post(
                        f"{self.url}/embed", json={"texts": self.texts}, timeout=60
                    )
                    if reply.status_code != 200:
                        self.failures.append(f"{reply.status_code} {reply.text[:200]}")
                        continue
                    answer = reply.json()
                    vectors = np.asarray(answer["embeddings"], np.float32).round(3)
                    mark = reply.headers["X-Embedding-Fingerprint"]
                    self.seen.add((answer["model"], mark, vectors.tobytes()))
                    self.replies += 1
                except requests.RequestException as exc:
                    self.failures.append(type(exc).__name__)


def alone(url: str) -> dict[str, np.ndarray]:
    """Each text's vector from the model that serves now, asked for one at a time."""
    found = {}
    for text in TEXTS:
        answer = requests.post(f"{url}/embed", json={"texts": [text]}, timeout=60).json()
        found[text] = np.asarray(answer["embeddings"][0], np.float32)
    return found


def matches(client: Client, answer: bytes, truth: dict[str, np.ndarray]) -> bool:
    """Whether both vectors of an answer are those of one model, but for rounding."""
    width = len(truth[TEXTS[0]])
    got = np.frombuffer(answer, np.float32)
    if got.size != 2 * width:
        return False
    wanted = np.stack([truth[text] for text in client.texts])
    return bool(np.abs(got.reshape(2, width) - wanted).max() < 2e-3)


def let_each_answer(clients: list[Client]) -> None:
    """Wait until every client had two more replies: the first may be of the model before."""
    before = [client.replies for client in clients]
    until(lambda: all(c.replies > n + 1 for c, n in zip(clients, before, strict=True)), 60)


def test_no_request_is_lost_or_mixed_while_models_are_swapped(
    start: Callable[..., Service], small_model: Path, tmp_path: Path
) -> None:
    env = {"EMBEDDING_MODEL": BUNDLED, "EMBEDDING_DTYPE": "float32", "CACHE": "none", **FEW_SHAPES}
    service = start(f"sqlite:///{tmp_path}/settings.db", **env)
    small = str(small_model)
    truth = {BUNDLED: alone(service.url)}
    assert service.set("model_name", small).status_code == 200
    truth[small] = alone(service.url)
    assert service.set("model_name", BUNDLED).status_code == 200

    stop = threading.Event()
    clients = [Client(service.url, i, stop) for i in range(CLIENTS)]
    for client in clients:
        client.start()
    memory = []
    for swap in range(SWAPS):
        wanted = (small, BUNDLED)[swap % 2]
        reply = service.set("model_name", wanted)
        assert reply.status_code == 200, reply.text
        memory.append(memory_mb(service))
        let_each_answer(clients)
    stop.set()
    for client in clients:
        client.join(60)

    replies = sum(client.replies for client in clients)
    print(f"\n{SWAPS} swaps, {replies} replies, MB after each: {[round(m) for m in memory]}")
    assert [f for client in clients for f in client.failures] == []
    for client in clients:
        assert {model for model, _, _ in client.seen} == {BUNDLED, small}
        assert len({mark for _, mark, _ in client.seen}) == 2
        for model, _, answer in client.seen:
            assert matches(client, answer, truth[model]), f"not the vectors of {model}"
            other = small if model == BUNDLED else BUNDLED
            assert not matches(client, answer, truth[other])  # the control of the line above
    # the same model serves after every second swap
    assert memory[-1] <= memory[1] * 1.05, memory
