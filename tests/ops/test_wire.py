"""What a client may send that is no request for vectors, on a real gunicorn."""

import itertools
import json
import re
import time
from collections.abc import Iterator

import pytest

from tests.ops.conftest import Watched
from tests.test_server import exchange

HEAD = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def raw(watched: Watched, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    """Send one request without a body; return status, headers and body."""
    request = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    head, _, body = exchange(watched.port, request.encode()).partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in rest)}
    return int(first.split()[1]), headers, body


@pytest.mark.fault("Clients")
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("TRACE", "/embed", 405), ("PUT", "/embed", 405), ("GET", "/embed", 405),
     ("FOO", "/embed", 405), ("GET", "/nothing", 404), ("TRACE", "/nothing", 404),
     ("DELETE", "/health", 405)],
)  # fmt: skip
def test_wrong_paths_and_methods_are_answered_in_json(watched, method, path, status) -> None:
    """A wrong path or method -> 404 or 405 in JSON, with `Allow`."""
    got, headers, body = raw(watched, method, path)
    assert got == status and json.loads(body)["error_type"] and json.loads(body)["request_id"]
    assert status != 405 or {"POST", "OPTIONS"} & set(headers["allow"].split(", "))


@pytest.mark.fault("Clients")
def test_head_and_options_and_a_trailing_slash_are_answered(watched) -> None:
    """HEAD, OPTIONS, a trailing slash -> answered."""
    assert raw(watched, "HEAD", "/health")[::2] == (200, b"")
    status, headers, body = raw(watched, "OPTIONS", "/embed")
    assert (status, body) == (200, b"") and "POST" in headers["allow"]
    assert raw(watched, "GET", "/health/")[0] == 200


@pytest.mark.fault("Clients")
@pytest.mark.parametrize(
    "data",
    [b"GET /health HTTP/1.1\nHost: x\n\n", HEAD + b"Transfer-Encoding: chunked\n\r\n0\r\n\r\n",
     HEAD + b"Host: y\r\nContent-Length: 2\r\n\r\n{}",
     b"GET /he\x00alth HTTP/1.1\r\nHost: x\r\n\r\n",
     HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;\r\n{}\r\nGET /health HTTP/1.1\r\n\r\n"],
    ids=["bare line feeds", "a header ended by a bare line feed", "two hosts", "a NUL in the path",
         "a chunk that is not as long as it says"],
)  # fmt: skip
def test_what_could_be_read_as_two_requests_is_refused_or_cut_off(watched, data) -> None:
    """A request that could be read as two -> 4xx, or the connection ends."""
    answers = re.findall(rb"HTTP/1\.1 (\d+)", exchange(watched.port, data))
    assert len(answers) <= 1 and not {a for a in answers if a.startswith((b"2", b"5"))}


def flood() -> Iterator[tuple[str, str, dict | None]]:
    """Requests that each name something that is not there, all of them different."""
    numbers = itertools.count()
    while True:
        n = next(numbers)
        yield "POST", f"/embed?model_id=m{n}", {"texts": ["a"]}
        yield "POST", "/v1/embeddings", {"model": f"m{n}", "input": "a"}
        yield "POST", "/embed", {"texts": ["a"], "prompt_name": f"p{n}", f"f{n}": 1}
        yield "GET", f"/collections/c{n}", None
        yield "POST", f"/collections/c{n}/search", {"text": "a"}
        yield "GET", f"/models/m{n}", None
        yield f"MADE{n}", f"/x{n}", None


@pytest.mark.fault("Clients")
def test_a_flood_of_made_up_names_makes_no_series(watched: Watched) -> None:
    """Made-up model names -> no metric series of their own."""

    def series() -> set[str]:
        text = watched.get("/metrics")[0].decode()
        return set(re.findall(r"^(embedding_[^ ]+) ", text, re.MULTILINE))

    def send(count: int, requests: Iterator[tuple[str, str, dict | None]]) -> None:
        for method, path, body in itertools.islice(requests, count):
            data = b"" if body is None else json.dumps(body).encode()
            head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
            rest = f"Content-Type: application/json\r\nX-Request-ID: r{path[-9:]}\r\n"
            request = f"{head}{rest}Connection: close\r\n\r\n".encode() + data
            assert not re.match(rb"HTTP/1.1 5", exchange(watched.port, request))

    requests = flood()
    send(14, requests)  # once each status is known, no more come
    while "embedding_store_bytes" not in series():  # measured soon after the first call
        time.sleep(0.05)
    before = series()
    send(140, requests)
    assert series() == before
    assert not [name for name in before if re.search(r"\b[mcxp]\d+\b", name)]
