"""Sends texts to a running service, and waits and tries again when it says so."""

import base64
import contextlib
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import numpy as np
import requests
from numpy.typing import NDArray

from bulk.rows import Row, Stop

ATTEMPTS = 8  # of one request, while the service fails, restarts or is out of reach
PATIENCE_S = 120.0  # the longest single wait that a Retry-After is granted
AGAIN = (408, 429, 500, 502, 503, 504)


class Client:
    """Sends batches to the service, from many threads. `told` is shown why one waits."""

    def __init__(
        self,
        url: str,
        model: str | None,
        key: str | None,
        parallel: int,
        told: Callable[[str], object] = lambda why: None,
    ) -> None:
        self._url = url.rstrip("/")
        self._told = told
        self._stopped = threading.Event()
        self._session = requests.Session()
        self._session.mount("http", requests.adapters.HTTPAdapter(pool_maxsize=parallel))
        if key:
            self._session.headers["Authorization"] = f"Bearer {key}"
        self.model: str = model or self._ask("GET", "/info").json()["id"]

    def embed(self, rows: list[Row]) -> tuple[NDArray[np.float32], str]:
        """Return the (n, d) float32 vectors of rows, and the fingerprint of their space."""
        body = {"model": self.model, "input": [row.text for row in rows]}
        reply = self._ask("POST", "/v1/embeddings", {**body, "encoding_format": "base64"})
        raw = [base64.b64decode(row["embedding"]) for row in reply.json()["data"]]
        vectors = np.frombuffer(b"".join(raw), "<f4").reshape(len(rows), -1)
        return vectors, reply.headers.get("X-Embedding-Fingerprint", "")

    def store(self, collection: str, prefix: str, rows: list[Row]) -> None:
        """Store rows under ids that a repetition writes again, so none is there twice."""
        ids = [row.id if row.id is not None else f"{prefix}-{row.index}" for row in rows]
        body = {
            "collection": collection,
            "model": self.model,
            "ids": ids,
            "texts": [row.text for row in rows],
            "metadata": [row.metadata for row in rows],
        }
        self._ask("POST", "/embed-and-store", body)

    def stored(self, collection: str) -> int:
        """Return how many records a collection holds; none if it is not there."""
        try:
            reply = self._ask("GET", f"/collections/{quote(collection, safe='')}")
        except Stop:
            return 0
        return int(reply.json()["count"])

    def close(self) -> None:
        """End every wait: what is not sent yet is not sent any more."""
        self._stopped.set()

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> requests.Response:
        failures = 0
        while not self._stopped.is_set():
            told: float | None = None
            try:
                reply = self._session.request(method, self._url + path, json=body, timeout=(5, 600))
            except requests.RequestException as exc:
                problem = f"{self._url} cannot be reached ({type(exc).__name__})"
            else:
                if reply.ok:
                    return reply
                problem = f"the service answered {reply.status_code}: {_message(reply)}"
                if reply.status_code not in AGAIN or reply.headers.get("X-Should-Retry") == "false":
                    raise Stop(problem)
                with contextlib.suppress(ValueError):
                    told = float(reply.headers.get("Retry-After", ""))
                if reply.status_code == 429 and told is not None:
                    failures -= 1  # a limit is no failure: it passes when it says
            failures += 1
            if failures == ATTEMPTS:
                raise Stop(problem)
            wait = min(max(2.0 ** max(failures, 1) / 8, told or 0), PATIENCE_S)
            self._told(f"waits {wait:.0f} s: {problem}"[:60])
            self._stopped.wait(wait)
        raise Stop("stopped")


def _message(reply: requests.Response) -> str:
    try:
        error = reply.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return reply.reason
