"""HTTP client of a running service: sends batches of texts, waits and retries when asked to."""

import base64
import contextlib
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import numpy as np
import requests
import urllib3
from numpy.typing import NDArray

from tools.records import Stop
from tools.rows import Row
from tools.service import START, UNREADABLE, checked_url, error_of, session

ATTEMPTS = 8  # of one request, while the service fails, restarts or is out of reach
FIRST_ATTEMPTS = 5  # 4 s: before any answer, the address is more likely wrong than the service down
MAX_WAIT_S = 120.0  # longest wait that a Retry-After header can ask for
RETRYABLE = (408, 429, 500, 502, 503, 504)
# Statuses and fields by which the service refuses one row, and not the whole request.
ROW_STATUSES = (400, 413, 422)
ROW_FIELDS = ("input", "text", "id", "metadata", "document", "item", "vector")
REQUEST_CODES = ("model_not_found", "dimension_mismatch")
# So many rows refused with one code, and none accepted: the request is wrong, not each row.
SAME_REFUSALS = 20


class Refusal(Stop):
    """The service refused a request; `one_row` if that may be the fault of one row."""

    def __init__(self, message: str, status: int, one_row: bool, code: str) -> None:
        super().__init__(message)
        self.status, self.one_row, self.code = status, one_row, code


@dataclass
class Answer:
    """What became of a batch."""

    kept: list[Row] = field(default_factory=list)
    vectors: list[tuple[NDArray[np.float32], str]] = field(default_factory=list)  # with their space
    refused: list[tuple[Row, str]] = field(default_factory=list)
    cut: int = 0  # texts longer than the model's limit


class Client:
    """Sends batches to the service, from many threads. Raises Stop."""

    def __init__(self, url: str, model: str | None, key: str | None, parallel: int) -> None:
        self.url = checked_url(url)
        self.on_wait: Callable[[str], object] = lambda why: None  # gets the reason of each wait
        self._stopped = threading.Event()
        self._answered = False  # whether the service has ever answered
        self._session = session(key, parallel)  # its own, so that ~/.netrc is never read
        if model is not None and not (model.strip() and model.isprintable()):
            raise Stop(
                f"--model {ascii(model)[:100]}: no model has such a name; GET /models lists all"
            )
        self._model = model
        self._lock = threading.Lock()
        self.under_way = 0  # requests that wait for their answers
        self._accepted = False  # whether any row was
        self._refused: dict[str, int] = {}  # single rows refused, by error code

    @functools.cached_property
    def model(self) -> str:
        """The requested model, or else the service's default."""
        return self._model or str(self._read(lambda: self._ask("GET", "/info").json()["id"]))

    def embed(self, rows: list[Row], skip: bool) -> Answer:
        """Embed rows. Stops at the first refused row unless `skip`."""
        return self._send_in_parts(rows, skip, self._embed)

    def store(self, collection: str, rows: list[Row], skip: bool) -> Answer:
        """Store rows under their ids. Stops at the first refused row unless `skip`."""
        return self._send_in_parts(rows, skip, functools.partial(self._store, collection))

    def stored(self, collection: str) -> int:
        """Return the number of records in a collection; 0 if it does not exist."""
        try:
            reply = self._ask("GET", f"/collections/{quote(collection, safe='')}")
        except Refusal as exc:
            if exc.status == 404:
                return 0
            raise
        return int(self._read(lambda: reply.json()["count"]))

    def close(self) -> None:
        """End every wait; send nothing more."""
        self._stopped.set()

    def _send_in_parts(
        self, rows: list[Row], skip: bool, send: Callable[[list[Row], Answer], None]
    ) -> Answer:
        """Send rows; halve a refused batch until each refused row is alone."""
        answer = Answer()
        waiting = [rows]
        while waiting and (skip or not answer.refused):
            part = waiting.pop()
            try:
                send(part, answer)
                self._accepted = True
                answer.kept += part
            except Refusal as exc:
                # A 413 may be a proxy's limit on the request: fewer rows may pass.
                if not exc.one_row and (exc.status != 413 or len(part) == 1):
                    raise
                if len(part) > 1:
                    half = len(part) // 2
                    waiting += [part[half:], part[:half]]
                else:
                    self._check_same_refusal(exc)
                    answer.refused.append((part[0], f"was refused: {exc}"))
        return answer

    def _check_same_refusal(self, exc: Refusal) -> None:
        """Raise Stop if many single rows were refused for one reason, and none was accepted."""
        with self._lock:
            count = self._refused[exc.code] = self._refused.get(exc.code, 0) + 1
        if not self._accepted and count >= SAME_REFUSALS:
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
        columns = {"ids": [row.id for row in rows], "texts": [row.text for row in rows],
                   "metadata": [row.metadata for row in rows]}  # fmt: skip
        body = {"collection": collection, "model": self.model, **columns}
        reply = self._ask("POST", "/embed-and-store", body)
        if self._read(lambda: reply.json()["ids"]) != columns["ids"]:
            raise self._stranger()
        answer.cut += _cut(reply)

    def _read(self, take: Callable[[], Any]) -> Any:
        """Read part of a reply. Raises Stop if this is not our service's reply."""
        try:
            return take()
        except UNREADABLE:
            raise self._stranger() from None

    def _stranger(self) -> Stop:
        return Stop(f"{self.url} does not answer as this service does; is it the address?")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> requests.Response:
        failures = 0
        while not self._stopped.is_set():
            retry_after: float | None = None
            try:
                reply = self._request(method, path, body)
            except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as exc:
                problem = f"{self.url} cannot be reached ({type(exc).__name__})"
                if isinstance(exc, ValueError):
                    why = "it, or a proxy of the environment, is no address"
                    raise Stop(f"{problem}: {why}") from None
            else:
                self._answered = True
                if reply.status_code in (200, 201):
                    return reply
                refusal = _refusal(reply)
                final = reply.headers.get("X-Should-Retry") == "false"
                if final or reply.status_code not in RETRYABLE:
                    raise refusal
                problem = str(refusal)
                with contextlib.suppress(ValueError):
                    retry_after = float(reply.headers.get("Retry-After", ""))
                if reply.status_code == 429 and retry_after is not None:
                    failures -= 1  # a rate limit is not a failure
            failures += 1
            if failures == (ATTEMPTS if self._answered else FIRST_ATTEMPTS):
                raise Stop(problem if self._answered else f"{problem}{START}")
            wait = min(max(2.0 ** max(failures, 1) / 8, retry_after or 0), MAX_WAIT_S)
            self.on_wait(f"waits {wait:.0f} s: {problem}"[:60])
            self._stopped.wait(wait)
        raise Stop("stopped")

    def _request(self, method: str, path: str, body: dict[str, Any] | None) -> requests.Response:
        with self._lock:
            self.under_way += 1
        try:
            return self._session.request(
                method, self.url + path, json=body, timeout=(5, 600), allow_redirects=False
            )
        finally:
            with self._lock:
                self.under_way -= 1


def _vectors(data: list[dict[str, str]], count: int) -> NDArray[np.float32]:
    """Return the vectors of a reply, (count, d) float32. Raises ValueError for any other shape."""
    raw = [base64.b64decode(row["embedding"]) for row in data]
    if len(raw) != count or len(set(map(len, raw))) != 1 or not raw[0]:
        raise ValueError
    return np.frombuffer(b"".join(raw), "<f4").reshape(count, -1)


def _cut(reply: requests.Response) -> int:
    count = reply.headers.get("X-Truncated-Inputs", "0")
    return int(count) if count.isdecimal() and len(count) < 10 else 0


def _refusal(reply: requests.Response) -> Refusal:
    """Return what an error reply says, and whether it may be the fault of one row."""
    message, code, param = error_of(reply)
    status = reply.status_code
    one_row = status in ROW_STATUSES and code not in ("", *REQUEST_CODES)
    one_row = one_row and (param is None or param.startswith(ROW_FIELDS))
    return Refusal(f"the service answered {status}: {message}", status, one_row, code)
