"""Sends texts to a running service, and waits and tries again when it says so."""

import base64
import binascii
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import requests
from numpy.typing import NDArray

from bulk.records import Stop
from bulk.rows import Row

ATTEMPTS = 8  # of one request, while the service fails, restarts or is out of reach
FIRST_ATTEMPTS = 5  # 4 s: of one that has never answered the address is wrong, more likely
PATIENCE_S = 120.0  # the longest single wait that a Retry-After is granted
AGAIN = (408, 429, 500, 502, 503, 504)
# What may be wrong with one row of a request, and is no fault of the request as a whole.
OF_A_ROW = (400, 413, 422)
ROW_FIELDS = ("input", "text", "id", "metadata", "document", "item", "vector")
NOT_OF_A_ROW = ("model_not_found", "dimension_mismatch")


class NotTaken(Stop):
    """The service refuses a request, or something in it."""

    def __init__(self, message: str, status: int, one_row: bool) -> None:
        super().__init__(message)
        self.status = status
        self.one_row = one_row  # it may be the fault of one row


@dataclass
class Answer:
    """What became of a batch."""

    kept: list[Row] = field(default_factory=list)
    vectors: list[tuple[NDArray[np.float32], str]] = field(default_factory=list)  # with their space
    refused: list[tuple[Row, str]] = field(default_factory=list)
    cut: int = 0  # texts that were longer than the model takes


class Client:
    """Sends batches to the service, from many threads. Raises Stop."""

    def __init__(self, url: str, model: str | None, key: str | None, parallel: int) -> None:
        self._url = _checked_url(url)
        self.told: Callable[[str], object] = lambda why: None  # is shown why a request waits
        self._stopped = threading.Event()
        self._answered = False
        self._session = requests.Session()
        self._session.mount("http", requests.adapters.HTTPAdapter(pool_maxsize=parallel))
        self._session.auth = _Bearer(key)
        self._model = model

    @cached_property
    def model(self) -> str:
        """The model that was asked for, or the service's."""
        return self._model or str(self._read(lambda: self._ask("GET", "/info").json()["id"]))

    def embed(self, rows: list[Row], skip: bool) -> Answer:
        """Return the vectors of rows. Of those refused, only the first unless `skip`."""
        return self._divided(rows, skip, self._embed)

    def store(self, collection: str, rows: list[Row], skip: bool) -> Answer:
        """Store rows under their ids. Of those refused, only the first is told unless `skip`."""
        return self._divided(rows, skip, lambda part, answer: self._store(collection, part, answer))

    def stored(self, collection: str) -> int:
        """Return how many records a collection holds; none if it is not there."""
        try:
            reply = self._ask("GET", f"/collections/{quote(collection, safe='')}")
        except NotTaken as exc:
            if exc.status == 404:
                return 0
            raise
        return int(self._read(lambda: reply.json()["count"]))

    def close(self) -> None:
        """End every wait: what is not sent yet is not sent any more."""
        self._stopped.set()

    def _divided(
        self, rows: list[Row], skip: bool, send: Callable[[list[Row], Answer], None]
    ) -> Answer:
        """Send rows; halve what is refused, until the rows that are at fault stand alone."""
        answer = Answer()
        waiting = [rows]
        while waiting and (skip or not answer.refused):
            part = waiting.pop()
            try:
                send(part, answer)
                answer.kept += part
            except NotTaken as exc:
                if not exc.one_row:
                    raise
                if len(part) > 1:
                    half = len(part) // 2
                    waiting += [part[half:], part[:half]]
                else:
                    answer.refused.append((part[0], f"was refused: {exc}"))
        return answer

    def _embed(self, rows: list[Row], answer: Answer) -> None:
        body = {"model": self.model, "input": [row.text for row in rows]}
        reply = self._ask("POST", "/v1/embeddings", {**body, "encoding_format": "base64"})
        vectors = self._read(lambda: _vectors(reply.json()["data"], len(rows)))
        answer.vectors.append((vectors, reply.headers.get("X-Embedding-Fingerprint", "")))
        answer.cut += _cut(reply)

    def _store(self, collection: str, rows: list[Row], answer: Answer) -> None:
        body = {
            "collection": collection,
            "model": self.model,
            "ids": [row.id for row in rows],
            "texts": [row.text for row in rows],
            "metadata": [row.metadata for row in rows],
        }
        answer.cut += _cut(self._ask("POST", "/embed-and-store", body))

    def _read(self, take: Callable[[], Any]) -> Any:
        """Take something out of an answer. Raises Stop if it is not there."""
        try:
            return take()
        except (ValueError, KeyError, TypeError, binascii.Error):
            raise Stop(
                f"{self._url} does not answer as this service does; is it the address?"
            ) from None

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> requests.Response:
        failures = 0
        while not self._stopped.is_set():
            told: float | None = None
            try:
                reply = self._session.request(
                    method, self._url + path, json=body, timeout=(5, 600), allow_redirects=False
                )
            except requests.RequestException as exc:
                problem = f"{self._url} cannot be reached ({type(exc).__name__})"
                if isinstance(exc, ValueError):  # the address, a proxy or a header cannot be used
                    raise Stop(problem) from None
            else:
                self._answered = True
                if reply.ok and not reply.is_redirect:
                    return reply
                problem = f"the service answered {reply.status_code}: {_message(reply)}"
                if reply.status_code not in AGAIN or reply.headers.get("X-Should-Retry") == "false":
                    raise NotTaken(problem, reply.status_code, _of_a_row(reply))
                with contextlib.suppress(ValueError):
                    told = float(reply.headers.get("Retry-After", ""))
                if reply.status_code == 429 and told is not None:
                    failures -= 1  # a limit is no failure: it passes when it says
            failures += 1
            if failures == (ATTEMPTS if self._answered else FIRST_ATTEMPTS):
                raise Stop(problem)
            wait = min(max(2.0 ** max(failures, 1) / 8, told or 0), PATIENCE_S)
            self.told(f"waits {wait:.0f} s: {problem}"[:60])
            self._stopped.wait(wait)
        raise Stop("stopped")


class _Bearer(requests.auth.AuthBase):
    """Sends the key, if there is one; with it no ~/.netrc is asked."""

    def __init__(self, key: str | None) -> None:
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            raise Stop(
                "EMBEDDING_API_KEY has a blank, a line's end or another character that no key has"
            )
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        requests.Request("GET", url).prepare()
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or parts.username is not None:
        shown = "" if "@" in url else f" {url}"  # it may hold a password
        raise Stop(
            f"--url{shown}: it needs http:// or https:// and a host, as in http://localhost:8001; "
            "a key goes into EMBEDDING_API_KEY"
        )
    return url.rstrip("/")


def _vectors(data: list[dict[str, str]], count: int) -> NDArray[np.float32]:
    """Return the (count, d) vectors of an answer. Raises ValueError if it has others."""
    if len(data) != count:
        raise ValueError
    raw = b"".join(base64.b64decode(row["embedding"]) for row in data)
    return np.frombuffer(raw, "<f4").reshape(count, -1)


def _cut(reply: requests.Response) -> int:
    count = reply.headers.get("X-Truncated-Inputs", "0")
    return int(count) if count.isdecimal() else 0


def _error(reply: requests.Response) -> dict[str, Any]:
    """Return an error's `message`, `code` and `param`, as both dialects have them."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        body = reply.json()
        error = body["error"]
        if isinstance(error, dict):
            return error
        return {"message": error, "code": body.get("error_type"), "param": body.get("param")}
    return {}


def _message(reply: requests.Response) -> str:
    if reply.is_redirect:
        return f"it is at {reply.headers['Location']}; give that address as --url"
    return str(_error(reply).get("message", reply.reason))


def _of_a_row(reply: requests.Response) -> bool:
    error = _error(reply)
    param = error.get("param")
    return (
        reply.status_code in OF_A_ROW
        and error.get("code") not in NOT_OF_A_ROW
        and (param is None or str(param).startswith(ROW_FIELDS))
    )
