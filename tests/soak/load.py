"""Clients that ask for everything the service does, know every right answer, and note wrong ones.

A reply is right if it is the text's own vector, the record that was asked for, or the refusal that
the input deserves. `503` and `429` with `Retry-After` are right too: they are counted apart. A
connection may break only while a worker is being killed (`Load.shaky`).
"""

import base64
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from typing import Any

import numpy as np

from tests.conftest import ROOT
from tests.soak.service import POISON

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
CLIENTS = 5
TEXTS, STORED, WORDS = 256, 100, 12
PAUSE_S = 0.02
BAD: list[tuple[str, object, int]] = [
    ("/embed", {"texts": []}, 422),
    ("/embed", {"texts": [None]}, 422),
    ("/embed", {"texts": ["x"], "model": "none"}, 400),
    ("/embed", {"texts": ["x"], "dimensions": 9999}, 400),
    ("/v1/embeddings", {"model": MODEL}, 400),
    ("/collections/none/search", {"text": "x"}, 404),
    ("/nowhere", {}, 404),
]
Reply = tuple[int, dict[str, str], Any]


class Wrong(Exception):
    """An answer that is not the right one."""


class Load:
    """Clients of one service, until stopped; `wrong` must stay empty."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.done: Counter[str] = Counter()  # right answers, by kind
        self.refused = 0
        self.broken = 0
        self.wrong: list[str] = []
        self.shaky = threading.Event()  # a worker is being killed
        self.paused = threading.Event()  # while it is set, no request is sent
        self._stop = threading.Event()
        words = (ROOT / "docs" / "api.md").read_text().split()
        rng = random.Random(7)
        self.texts = [" ".join(rng.choices(words, k=WORDS)) for _ in range(TEXTS)]
        self.vectors = np.empty((0, 0), np.float32)
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(CLIENTS)]

    def learn(self) -> None:
        """Learn every text's vector and fill the collection, before anything breaks."""
        status, _, body = self.ask("/batch-embed", {"texts": self.texts})
        assert status == 200, body
        self.vectors = np.array(body["embeddings"], np.float32)
        assert np.allclose(np.linalg.norm(self.vectors, axis=1), 1, atol=1e-3)
        self._store(range(STORED))

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, once every client has its last answer."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def ask(self, path: str, body: object = None, timeout: float = 60) -> Reply:
        """Send one request on a connection of its own."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            data = None if body is None else json.dumps(body)
            headers = {"Content-Type": "application/json"}
            connection.request("GET" if body is None else "POST", path, data, headers)
            reply = connection.getresponse()
            return reply.status, dict(reply.getheaders()), json.loads(reply.read())
        finally:
            connection.close()

    # -- what is asked ---------------------------------------------------------------------------

    def _run(self, number: int) -> None:
        rng = random.Random(number)
        kinds: list[Callable[[random.Random], None]] = [
            self._single, self._single, self._batch, self._openai, self._write, self._search,
            self._settings, self._refusal, self._poison,
        ]  # fmt: skip
        while not self._stop.wait(PAUSE_S):
            if self.paused.is_set():
                continue
            kind = rng.choice(kinds)
            shaky = self.shaky.is_set()
            try:
                kind(rng)
                self.done[kind.__name__.strip("_")] += 1
            except Wrong as exc:
                self.wrong.append(f"{kind.__name__}: {exc}")
            except (OSError, HTTPException) as exc:
                self.broken += 1
                if not (shaky or self.shaky.is_set()):
                    self.wrong.append(f"{kind.__name__}: {type(exc).__name__} {exc}")

    def _get(self, expected: int, path: str, body: object = None) -> Any:
        """Ask until the answer is no "come back later"."""
        while True:
            status, headers, content = self.ask(path, body)
            if status not in (429, 503):
                break
            self.refused += 1
            if not headers.get("Retry-After", "").isdigit():
                raise Wrong(f"{path}: {status} without Retry-After: {content}")
            if self._stop.wait(0.2):
                return None
        if status != expected:
            raise Wrong(f"{path}: {status}, not {expected}: {str(content)[:300]}")
        return content

    def _same(self, rows: Any, places: list[int]) -> None:
        got = np.array(rows, np.float32)
        if got.shape != (len(places), self.vectors.shape[1]):
            raise Wrong(f"a shape of {got.shape}")
        cosines = (got * self.vectors[places]).sum(axis=1)
        if not cosines.min() > 0.999:  # bfloat16 passes differ by less
            raise Wrong(f"another text's vector: cosine {cosines.min()}")

    def _single(self, rng: random.Random) -> None:
        place = rng.randrange(TEXTS)
        if reply := self._get(200, "/embed", {"texts": self.texts[place]}):
            self._same(reply["embeddings"], [place])

    def _batch(self, rng: random.Random) -> None:
        places = rng.sample(range(TEXTS), 16)
        if reply := self._get(200, "/batch-embed", {"texts": [self.texts[i] for i in places]}):
            self._same(reply["embeddings"], places)

    def _openai(self, rng: random.Random) -> None:
        places = rng.sample(range(TEXTS), 4)
        body = {"model": MODEL, "input": [self.texts[i] for i in places]}
        if reply := self._get(200, "/v1/embeddings", {**body, "encoding_format": "base64"}):
            raw = [base64.b64decode(row["embedding"]) for row in reply["data"]]
            self._same([np.frombuffer(row, "<f4") for row in raw], places)

    def _store(self, places: Any) -> None:
        texts, ids = [self.texts[i] for i in places], [f"text-{i}" for i in places]
        self._get(201, "/embed-and-store", {"collection": "soak", "texts": texts, "ids": ids})

    def _write(self, rng: random.Random) -> None:
        self._store(rng.sample(range(STORED), 8))

    def _search(self, rng: random.Random) -> None:
        place = rng.randrange(STORED)
        body = {"text": self.texts[place], "k": 3}
        if reply := self._get(200, "/collections/soak/search", body):
            first = reply["results"][0]
            if first["id"] != f"text-{place}" or first["text"] != self.texts[place]:
                raise Wrong(f"found {first['id']} for text-{place}")

    def _settings(self, rng: random.Random) -> None:
        if (reply := self._get(200, "/settings")) is not None and not reply:
            raise Wrong("no settings")

    def _refusal(self, rng: random.Random) -> None:
        path, body, status = rng.choice(BAD)
        self._get(status, path, body)

    def _poison(self, rng: random.Random) -> None:
        place = rng.randrange(TEXTS)
        self._get(422, "/embed", {"texts": [self.texts[place], POISON]})


def until(condition: Callable[[], object], limit_s: float) -> bool:
    """Wait for a condition; return whether it came true."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False
