"""Requests that gunicorn's parser refuses before the application sees them, on a real gunicorn."""

import json
import time

import pytest

from tests.faults.conftest import Service, until
from tests.faults.crowd import Answer, answer, statuses_of

GET = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
V1 = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
SECRET = b"sk-that-no-answer-may-hold"
REFUSED = {
    "no request line": (b"hello " + SECRET + b"\r\n\r\n", 400),
    "raw UTF-8 in the path": ("GET /é HTTP/1.1\r\nHost: x\r\n\r\n".encode(), 400),
    "a method of small letters": (b"get /health HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "HTTP/3.0": (b"GET /health HTTP/3.0\r\nHost: x\r\n\r\n", 400),
    "a preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "a bare line feed": (GET + b"X-Key: " + SECRET + b"\nX: y\r\n\r\n", 400),
    "a path of 20 kB": (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "a cookie of 9 kB": (GET + b"Cookie: " + b"a" * 9_000 + b"\r\n\r\n", 431),
    "120 headers": (GET + b"".join(b"X-%d: y\r\n" % i for i in range(120)) + b"\r\n", 431),
    "a head without end": (GET + (b"X-H: " + b"a" * 4_000 + b"\r\n") * 17, 431),
    "a header's name with a blank": (GET + b"X Key: " + SECRET + b"\r\n\r\n", 400),
    "a folded header": (GET + b"X-Key: a\r\n " + SECRET + b"\r\n\r\n", 400),
    "a NUL in a header": (GET + b"X-Key: \x00" + SECRET + b"\r\n\r\n", 400),
    "two hosts": (GET + b"Host: y\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
    "a length that is none": (POST + b"Content-Length: many\r\n\r\n", 400),
    "a length and chunks": (POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
                            b"0\r\n\r\n", 400),
    "an unknown coding": (POST + b"Transfer-Encoding: brotli\r\n\r\n", 501),
    "a coding beside chunks": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "an unknown expectation": (POST + b"Expect: cookies\r\nContent-Length: 2\r\n\r\n{}", 417),
    "two lengths on /v1": (V1 + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
    "a cookie of 9 kB on /v1": (V1 + b"Cookie: " + b"a" * 9_000 + b"\r\n\r\n", 431),
}  # fmt: skip


@pytest.fixture(scope="module")
def service(start_for_all) -> Service:
    return start_for_all("--threads", "4")


def exchange(service: Service, data: bytes, method: str = "POST") -> Answer:
    """Send raw bytes; return the answer."""
    with service.connect() as sock:
        sock.sendall(data)
        return answer(sock, method)


@pytest.mark.parametrize("name", REFUSED)
def test_each_is_refused_in_json_and_the_connection_closed(service, name) -> None:
    data, status = REFUSED[name]
    reply = exchange(service, data)
    assert reply.status == status and reply.headers["Connection"] == "close"
    assert reply.headers["Content-Type"] == "application/json"
    body = json.loads(reply.content)
    if b" /v1/" in data:
        assert set(body) == {"error", "message", "detail", "code", "type"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert (body["code"], body["detail"]) == (status, body["error"]["message"])
        assert body["error"]["type"] == "invalid_request_error"
    else:
        assert set(body) == {"error", "error_type", "request_id"}
        assert body["request_id"] == reply.headers["X-Request-ID"]
    assert SECRET not in reply.content


def test_the_log_names_the_peer_and_the_id_that_the_reply_bears(service) -> None:
    reply = exchange(service, REFUSED["two hosts"][0])
    told = f"request {reply.headers['X-Request-ID']} of 127.0.0.1 is refused with 400: "
    until(lambda: any(told in line for line in service.lines))


@pytest.mark.fault("Malformed requests")
def test_what_is_no_request_is_refused_as_everything_else_is(service) -> None:
    """A request line, header or length that cannot be read -> 4xx in JSON that echoes nothing."""
    reply = exchange(service, POST + b"Authorization : " + SECRET + b"\r\n\r\n")
    assert reply.status == 400 and "header" in json.loads(reply.content)["error"]
    assert SECRET not in reply.content


def test_a_refused_head_request_has_no_body(service) -> None:
    reply = exchange(service, GET.replace(b"GET", b"HEAD") + b"Host: y\r\n\r\n", "HEAD")
    assert reply.status == 400 and reply.content == b""


def test_a_request_that_is_refused_late_leaves_the_others_theirs(service) -> None:
    with service.connect() as sock:
        sock.sendall(GET + b"\r\n" + GET + b"Host: y\r\n\r\n")
        assert statuses_of(sock) == [200, 400]


@pytest.mark.parametrize(
    "headers",
    [b"SCRIPT_NAME: /api\r\n", b"SCRIPT_NAME: /health\r\n", b"PATH_INFO: /embed\r\n",
     b"X-Forwarded-Proto: https\r\nX-Forwarded-Proto: http\r\n",
     b"X-Forwarded-Proto: http\r\nX-Forwarded-Ssl: on\r\n"],
)  # fmt: skip
def test_headers_that_proxies_set_are_believed_from_nobody_unasked(service, headers) -> None:
    reply = exchange(service, GET + headers + b"\r\n", "GET")
    assert reply.status == 200 and json.loads(reply.content) == {"status": "alive"}


@pytest.mark.fault("Malformed requests")
def test_empty_lines_before_a_request_are_left_out(service) -> None:
    """Empty lines before a request, or after the body of the one before -> skipped."""
    with service.connect() as sock:
        for before in (b"\r\n\r\n", b"", b"\r\n"):
            sock.sendall(before + GET + b"Content-Length: 2\r\n\r\n{}\r\n")
            assert answer(sock).status == 200


def test_an_offer_to_speak_another_protocol_is_ignored(service) -> None:
    offer = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    assert exchange(service, GET + offer + b"\r\n", "GET").status == 200


@pytest.mark.parametrize(
    "body",
    [b'd;\x00\r\n{"text": "a"}\r\n0\r\n\r\n', b"zz\r\n", b"1\r\n{}\r\n0\r\n\r\n"],
    ids=["an extension that is none", "a size that is none", "a chunk longer than its size"],
)
def test_chunks_that_cannot_be_read_are_told_in_words_of_ours(service, body) -> None:
    reply = exchange(service, POST + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    assert reply.status == 400 and "chunks cannot be read" in json.loads(reply.content)["error"]


def test_leave_to_send_a_body_is_given_once(service) -> None:
    with service.connect() as sock:
        sock.sendall(POST + b"Content-Length: 13\r\nExpect: 100-continue\r\n\r\n")
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b'{"text": "a"}')
        assert sock.recv(12) == b"HTTP/1.1 200"


def test_a_head_that_comes_a_byte_at_a_time_is_read(service) -> None:
    with service.connect() as sock:
        for byte in GET + b"\r\n":
            sock.sendall(bytes([byte]))
        assert answer(sock).status == 200


def test_chunks_of_every_form_are_read(service) -> None:
    text = b'{"text": "a"}'
    forms = [
        b"d\r\n" + text + b"\r\n0\r\n\r\n",
        b"D;name=value\r\n" + text + b"\r\n0;x\r\nX-Trailer: 1\r\n\r\n",
        b"".join(b"1\r\n%c\r\n" % byte for byte in text) + b"000\r\n\r\n",
    ]
    for form in forms:
        with service.connect() as sock:
            sock.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
            for at in range(0, len(form), 7):
                sock.sendall(form[at : at + 7])
                time.sleep(0.001)  # so that they come apart
            reply = answer(sock, "POST")
            assert reply.status == 200 and not reply.will_close
