"""Real workers and a real Redis that dies or hangs while clients send: no reply is another."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests

from tests.cache.conftest import until
from tests.servers.redis import Redis

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
CLIENTS = 8
TEXTS = [f"text number {i} of those that everybody asks for" for i in range(16)]


def answers(url: str) -> bool:
    """Whether the worker that a fresh connection meets can encode."""
    return requests.get(f"{url}/health/ready", timeout=30).status_code == 200


@pytest.mark.long
def test_killing_redis_under_load_changes_no_status_and_no_vector(
    serve: Callable[..., str],
) -> None:
    """The cache and the rate limits lie in it, for two workers; it comes back, and dies again."""
    with Redis() as redis:
        url = serve(
            "-w", "2", CACHE="redis", REDIS_ENABLED="true", REDIS_URL=redis.url(), DEVICE="cpu",
            SUPPORTED_MODELS=MODEL, LOG_LEVEL="WARNING", REQUESTS_PER_MINUTE_ADMIN="100000",
        )  # fmt: skip
        with ThreadPoolExecutor(8) as pool:  # each worker loads for itself
            until(lambda: all(pool.map(answers, [url] * 32)))
        right = requests.post(f"{url}/embed", json={"texts": TEXTS}, timeout=30).json()
        truth = np.array(right["embeddings"])
        statuses: list[int] = []
        wrong: list[float] = []
        told: list[str] = []  # what the others said
        stopped = threading.Event()

        def client(number: int) -> None:
            with requests.Session() as session:
                while not stopped.is_set():
                    at = (number + len(statuses)) % len(TEXTS)
                    body = {"texts": [TEXTS[at], TEXTS[at - 1]]}
                    reply = session.post(f"{url}/embed", json=body, timeout=30)
                    statuses.append(reply.status_code)
                    if reply.status_code != 200:
                        told.append(reply.text)
                    else:
                        off = np.array(reply.json()["embeddings"]) - truth[[at, at - 1]]
                        wrong.extend([float(abs(off).max())] if abs(off).max() > 0.02 else [])
                    stopped.wait(0.02)  # or they take the CPU from the workers

        threads = [threading.Thread(target=client, args=(n,)) for n in range(CLIENTS)]
        for thread in threads:
            thread.start()

        def go_on(requests_more: int = 100) -> None:
            count = len(statuses)
            until(lambda: len(statuses) > count + requests_more)

        try:
            for _ in range(2):
                go_on()
                redis.kill()
                go_on()
                redis.start()
            go_on()
            redis.pause()
            go_on()
            redis.resume()
            go_on()
        finally:
            stopped.set()
            for thread in threads:
                thread.join()
    assert set(statuses) == {200} and not wrong, told
