"""Sends texts to a running service, and waits and tries again when it says so."""

import base64
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import requests
import urllib3
from numpy.typing import NDArray

from tools.records import Stop
from tools.rows import Row

ATTEMPTS = 8  # of one request, while the service fails, restarts or is out of reach
FIRST_ATTEMPTS = 5  # 4 s: of one that has never answered the address is wrong, more likely
PATIENCE_S = 120.0  # the longest single wait that a Retry-After is granted
AGAIN = (408, 429, 500, 502, 503, 504)
# What may be wrong with one row of a request, and is no fault of the request as a whole.
OF_A_ROW = (400, 413, 422)
ROW_FIELDS = ("input", "text", "id", "metadata", "document", "item", "vector")
NOT_OF_A_ROW = ("model_not_found", "dimension_mismatch")
# So many rows refused alike, and none taken before: it is the request that is wrong, not each row.
ALIKE = 20
MOST_SAID = 500  # characters of what an answer says
# What reading an answer of anything may raise.
STRANGE = (ValueError, LookupError, TypeError, OverflowError, RecursionError)


class NotTaken(Stop):
    """The service refuses a request, or something in it."""

    def __init__(self, message: str, status: int, one_row: bool, code: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code
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
        if model is not None and not (model.strip() and model.isprintable()):
            raise Stop(
                f"--model {ascii(model)[:100]}: no model has such a name; GET /models lists all"
            )
        self._model = model
        self._lock = threading.Lock()
        self.under_way = 0  # requests that wait for their answers
        self._taken = False  # whether any row was
        self._alone: dict[str, int] = {}  # how many rows alone were refused, by the code of it

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
                self._taken = True
                answer.kept += part
            except NotTaken as exc:
                # A proxy may limit whole requests: fewer rows may pass it.
                if not exc.one_row and (exc.status != 413 or len(part) == 1):
                    raise
                if len(part) == 1:
                    self._check_alike(exc)
                if len(part) > 1:
                    half = len(part) // 2
                    waiting += [part[half:], part[:half]]
                else:
                    answer.refused.append((part[0], f"was refused: {exc}"))
        return answer

    def _check_alike(self, exc: NotTaken) -> None:
        """Raise Stop if it is not one row that is at fault, as it seems."""
        with self._lock:
            count = self._alone[exc.code] = self._alone.get(exc.code, 0) + 1
        if not self._taken and count >= ALIKE:
            raise Stop(
                f"the first {count} rows, each sent alone, are all refused alike, so it is hardly "
                f"the rows: {exc}"
            )

    def _embed(self, rows: list[Row], answer: Answer) -> None:
        body = {"model": self.model, "input": [row.text for row in rows]}
        reply = self._ask("POST", "/v1/embeddings", {**body, "encoding_format": "base64"})
        vectors = self._read(lambda: _vectors(reply.json()["data"], len(rows)))
        answer.vectors.append((vectors, reply.headers.get("X-Embedding-Fingerprint", "")))
        answer.cut += _cut(reply)

    def _store(self, collection: str, rows: list[Row], answer: Answer) -> None:
        ids = [row.id for row in rows]
        body = {
            "collection": collection,
            "model": self.model,
            "ids": ids,
            "texts": [row.text for row in rows],
            "metadata": [row.metadata for row in rows],
        }
        reply = self._ask("POST", "/embed-and-store", body)
        self._read(lambda: _check_ids(reply.json()["ids"], ids))
        answer.cut += _cut(reply)

    def _read(self, take: Callable[[], Any]) -> Any:
        """Take something out of an answer. Raises Stop if it is not there."""
        try:
            return take()
        except STRANGE:
            raise Stop(
                f"{self._url} does not answer as this service does; is it the address?"
            ) from None

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> requests.Response:
        failures = 0
        while not self._stopped.is_set():
            told: float | None = None
            try:
                reply = self._request(method, path, body)
            except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as exc:
                problem = f"{self._url} cannot be reached ({type(exc).__name__})"
                if isinstance(exc, ValueError):
                    raise Stop(
                        f"{problem}: it, or a proxy of the environment, is no address"
                    ) from None
            else:
                self._answered = True
                if reply.status_code in (200, 201):
                    return reply
                problem = f"the service answered {reply.status_code}: {_message(reply)}"
                if reply.status_code not in AGAIN or reply.headers.get("X-Should-Retry") == "false":
                    raise NotTaken(problem, reply.status_code, _of_a_row(reply), _code(reply))
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

    def _request(self, method: str, path: str, body: dict[str, Any] | None) -> requests.Response:
        with self._lock:
            self.under_way += 1
        try:
            return self._session.request(
                method, self._url + path, json=body, timeout=(5, 600), allow_redirects=False
            )
        finally:
            with self._lock:
                self.under_way -= 1


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
    raw = [base64.b64decode(row["embedding"]) for row in data]
    if len(raw) != count or len(set(map(len, raw))) != 1 or not raw[0]:
        raise ValueError
    return np.frombuffer(b"".join(raw), "<f4").reshape(count, -1)


def _check_ids(told: object, sent: list[str | None]) -> None:
    """Raise ValueError if an answer does not say that these were stored."""
    if told != sent:
        raise ValueError


def _cut(reply: requests.Response) -> int:
    count = reply.headers.get("X-Truncated-Inputs", "0")
    return int(count) if count.isdecimal() and len(count) < 10 else 0


def _error(reply: requests.Response) -> dict[str, Any]:
    """Return an error's `message`, `code` and `param`, as both dialects have them."""
    with contextlib.suppress(*STRANGE):
        body = reply.json()
        error = body["error"]
        if isinstance(error, dict):
            return error
        return {"message": error, "code": body.get("error_type"), "param": body.get("param")}
    return {}


def _message(reply: requests.Response) -> str:
    if reply.is_redirect:
        return f"it is at {reply.headers['Location']}; give that address as --url"
    return str(_error(reply).get("message") or reply.reason)[:MOST_SAID]


def _code(reply: requests.Response) -> str:
    """Return the code that this service's refusals have; none of a proxy's."""
    return str(_error(reply).get("code") or "")


def _of_a_row(reply: requests.Response) -> bool:
    code, param = _code(reply), _error(reply).get("param")
    return (
        reply.status_code in OF_A_ROW
        and bool(code)
        and code not in NOT_OF_A_ROW
        and (param is None or str(param).startswith(ROW_FIELDS))
    )
