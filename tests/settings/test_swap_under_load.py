"""The swap itself: real gunicorn, two real models, clients that never stop sending.

`SWAPS=20 pytest -k sqlite tests/settings/test_swap_under_load.py` is the long form.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import requests

from config.addresses import driver_url
from tests.servers.process import children
from tests.settings.conftest import BUNDLED, Service, until

LONG = int(os.environ.get("SWAPS", "0"))
# Of the model; then comes one more, of how much of a text the small one reads.
SWAPS = {"sqlite": LONG or 2, "mysql": LONG or 1, "postgresql": LONG or 1}
CLIENTS = {"sqlite": 16, "mysql": 16, "postgresql": 16}
PAUSE_S = 0.05 if LONG else 0.2  # or they take the CPU from the swap
# With what was computed remembered, a vector of the other model would be found there.
CACHES = {"sqlite": "none", "mysql": "memory", "postgresql": "none"}
FEW_TOKENS = 5
# The aim of the long form; in the short one the first batches weigh more, and a model that were
# kept would be 15 %.
GROWTH = 1.05 if LONG else 1.10
# The numeric library keeps what it compiled for every shape of batch it met, swaps or none: with
# few shapes that memory is soon complete, and what grows is the swap's.
FEW_SHAPES = {"EMBEDDING_MAX_BATCH_SIZE": "2"} if LONG < 20 else {}
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
                    self.stop.wait(PAUSE_S)
                except requests.RequestException as exc:
                    self.failures.append(type(exc).__name__)


@dataclass(frozen=True)
class Truth:
    """What one state of the model answers: its name, its fingerprint, each text's vector."""

    model: str
    mark: str
    vectors: dict[str, np.ndarray]

    def matches(self, client: Client, answer: bytes) -> bool:
        """Whether both vectors of an answer are these, but for rounding."""
        wanted = np.stack([self.vectors[text] for text in client.texts])
        got = np.frombuffer(answer, np.float32)
        return got.size == wanted.size and bool(
            np.abs(got.reshape(wanted.shape) - wanted).max() < 2e-3
        )


def alone(service: Service) -> Truth:
    """Ask for each text one at a time."""
    vectors = {}
    for text in TEXTS:
        reply = service.post("/embed", {"texts": [text]})
        vectors[text] = np.asarray(reply.json()["embeddings"][0], np.float32)
    return Truth(reply.json()["model"], reply.headers["X-Embedding-Fingerprint"], vectors)


def change(service: Service, **settings: object) -> None:
    reply = service.post("/settings/bulk", {"settings": settings})
    assert reply.status_code == 200, reply.text


def let_each_answer(clients: list[Client]) -> None:
    """Wait until every client had two more replies: the first may be of the model before."""
    before = [client.replies for client in clients]
    until(lambda: all(c.replies > n + 1 for c, n in zip(clients, before, strict=True)), 180)


@pytest.mark.parametrize(
    "db_url",
    ["sqlite", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("mariadb", "postgres"))],
    indirect=True,
)
@pytest.mark.fault("Models and devices")
def test_no_request_is_lost_or_mixed_while_models_are_swapped(
    start: Callable[..., Service], small_model: Path, db_url: str
) -> None:
    """The model is swapped under load -> no request is lost or mixes two models."""
    kind = driver_url(db_url).get_backend_name()
    cache = CACHES[kind]
    env = {"EMBEDDING_MODEL": BUNDLED, "EMBEDDING_DTYPE": "float32", "CACHE": cache, **FEW_SHAPES}
    env["MODEL_DIRS"] = str(small_model.parent)
    service, small = start(db_url, **env), str(small_model)
    truths = [alone(service)]
    for settings in ({"model_name": small}, {"max_seq_length": FEW_TOKENS}):
        change(service, **settings)
        truths.append(alone(service))
    assert service.post("/settings/rollback", {"version": 0}).status_code == 200

    stop = threading.Event()
    clients = [Client(service.url, i, stop) for i in range(CLIENTS[kind])]
    for client in clients:
        client.start()
    let_each_answer(clients)
    memory = []

    swaps = [{"model_name": (small, BUNDLED)[number % 2]} for number in range(SWAPS[kind])]
    for settings in (*swaps, {"model_name": small, "max_seq_length": FEW_TOKENS}):
        change(service, **settings)
        memory.append(memory_mb(service))
        let_each_answer(clients)
    stop.set()
    for client in clients:
        client.join(60)

    replies = sum(client.replies for client in clients)
    print(f"\n{kind}: {replies} replies, MB after each swap: {[round(m) for m in memory]}")
    assert [f for client in clients for f in client.failures] == []
    assert len({truth.mark for truth in truths}) == 3
    for client in clients:
        assert {mark for _, mark, _ in client.seen} == {truth.mark for truth in truths}
        for model, mark, answer in client.seen:
            for truth in truths:  # those of the others are the control
                assert truth.matches(client, answer) == (truth.mark == mark), (model, truth.model)
                assert (truth.mark == mark) <= (truth.model == model)
    same = memory[:-1][(len(swaps) - 1) % 2 :: 2]  # after the swaps to the same model
    assert same[-1] <= same[0] * GROWTH, memory
