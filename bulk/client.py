"""Sends texts to a running service, and waits and tries again when it says so."""

import contextlib
import time
from typing import Any

import numpy as np
import requests
from numpy.typing import NDArray

from bulk.rows import Row, Stop

ATTEMPTS = 8  # of one request, while the service is busy, restarting or out of reach
PATIENCE_S = 120.0  # the longest single wait that a Retry-After is granted


class Client:
    """Sends batches to the service and waits when it says so."""

    def __init__(self, url: str, model: str | None, key: str | None, parallel: int) -> None:
        self._url = url.rstrip("/")
        self._model = model
        self._session = requests.Session()
        self._session.mount("http", requests.adapters.HTTPAdapter(pool_maxsize=parallel))
        if key:
            self._session.headers["Authorization"] = f"Bearer {key}"

    def embed(self, rows: list[Row]) -> NDArray[np.float32]:
        """Return the (n, d) float32 vectors of rows."""
        body: dict[str, Any] = {"texts": [row.text for row in rows]}
        if self._model:
            body["model"] = self._model
        return np.asarray(self._post("/embed", body)["embeddings"], np.float32)

    def store(self, collection: str, prefix: str, rows: list[Row]) -> None:
        """Store rows under ids that a repetition writes again, so none is there twice."""
        ids = [row.id if row.id is not None else f"{prefix}-{row.index}" for row in rows]
        body: dict[str, Any] = {"collection": collection, "ids": ids}
        body["texts"] = [row.text for row in rows]
        if self._model:
            body["model"] = self._model
        self._post("/embed-and-store", body)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        problem = ""
        for attempt in range(ATTEMPTS):
            wait = min(2.0**attempt / 4, 15.0)
            try:
                reply = self._session.post(self._url + path, json=body, timeout=(5, 600))
            except requests.RequestException as exc:
                problem = f"{self._url} cannot be reached ({type(exc).__name__})"
            else:
                if reply.ok:
                    return reply.json()
                problem = f"the service answered {reply.status_code}: {_message(reply)}"
                if reply.status_code not in (408, 429, 500, 502, 503, 504):
                    break
                with contextlib.suppress(ValueError):
                    wait = max(wait, float(reply.headers.get("Retry-After", 0)))
            time.sleep(min(wait, PATIENCE_S))
        raise Stop(problem)


def _message(reply: requests.Response) -> str:
    try:
        return str(reply.json()["error"])
    except (ValueError, KeyError, TypeError):
        return reply.reason
