"""Whose address counts: the peer's, or what known proxies say. Real nginx, real gunicorn."""

import ipaddress
import json
import logging
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from accounts import TRIES_PER_ADDRESS
from server.proxies import Proxies, read_address
from tests.conftest import served, write_models
from tests.ops.test_deploy_page import front_of
from tests.scale.test_compose import NGINX, on_loopback
from tests.servers.fixtures import need
from tests.servers.nginx import Nginx

PASSWORD = "a-long-password"


def seen(hops: int, trusted: str = "127.0.0.1,::1", **environ: str) -> tuple[str, str]:
    """What the application is told of a request: the caller's address and the scheme."""
    told: list[dict[str, str]] = []
    networks = [ipaddress.ip_network(part) for part in trusted.split(",")]
    proxies = Proxies(lambda environ, start: told.append(environ) or [], hops, networks)
    proxies({"REMOTE_ADDR": "127.0.0.1", "wsgi.url_scheme": "http", **environ}, None)
    return told[0].get("REMOTE_ADDR", ""), told[0]["wsgi.url_scheme"]


@pytest.mark.parametrize(
    ("hops", "peer", "forwarded", "caller"),
    [
        (0, "127.0.0.1", "1.2.3.4", "127.0.0.1"),
        (1, "127.0.0.1", "1.2.3.4", "1.2.3.4"),
        (1, "127.0.0.1", "9.9.9.9, 1.2.3.4", "1.2.3.4"),
        (1, "127.0.0.1", "9.9.9.9, ::1", "::1"),
        (2, "127.0.0.1", "9.9.9.9, 1.2.3.4", "1.2.3.4"),  # which is no proxy of ours
        (2, "127.0.0.1", "9.9.9.9, 127.0.0.1", "9.9.9.9"),
        (9, "127.0.0.1", "127.0.0.1", "127.0.0.1"),
        (1, "10.0.0.1", "1.2.3.4", "10.0.0.1"),
        (1, "127.0.0.2", "1.2.3.4", "127.0.0.2"),
        (1, "::ffff:127.0.0.1", "1.2.3.4", "1.2.3.4"),
        (0, "::ffff:10.0.0.1", "", "10.0.0.1"),
        (1, "", "1.2.3.4", "1.2.3.4"),  # by a Unix socket
        (1, "127.0.0.1", "1.2.3.4:5678", "1.2.3.4"),
        (1, "127.0.0.1", '"[2001:db8::1]:80"', "2001:db8::1"),
        (1, "127.0.0.1", "1.2.3.4, unknown", "127.0.0.1"),
        (1, "127.0.0.1", "1.2.3.4,", "127.0.0.1"),
        (1, "127.0.0.1", "", "127.0.0.1"),
    ],
)
def test_a_proxy_is_believed_by_its_address_and_no_further(hops, peer, forwarded, caller) -> None:
    assert seen(hops, REMOTE_ADDR=peer, HTTP_X_FORWARDED_FOR=forwarded)[0] == caller


def test_the_scheme_is_believed_from_proxies_alone() -> None:
    said = {"HTTP_X_FORWARDED_PROTO": "https", "HTTP_X_FORWARDED_FOR": "1.2.3.4"}
    assert seen(1, **said)[1] == "https"
    assert seen(0, **said)[1] == "http"
    assert seen(1, REMOTE_ADDR="127.0.0.2", **said)[1] == "http"
    assert seen(1, HTTP_X_FORWARDED_PROTO="javascript")[1] == "http"


def test_an_address_is_read_as_proxies_write_it() -> None:
    for text in ("", "x", "1.2.3", "1.2.3.4.5", "[::1", "127.0.0.1\n.x", "0x7f.1", "_hidden"):
        assert str(read_address(text)) in ("None", "::1")


def test_a_proxy_that_is_not_believed_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    proxies = Proxies(lambda environ, start: [], 0, [])
    for _ in range(3):
        proxies({"REMOTE_ADDR": "10.0.0.1"}, None)
        assert not caplog.records
    for _ in range(3):
        proxies({"REMOTE_ADDR": "10.0.0.1", "HTTP_X_FORWARDED_FOR": "1.2.3.4"}, None)
    (record,) = caplog.records
    assert "10.0.0.1" in record.getMessage() and "TRUSTED_PROXY_HOPS" in record.getMessage()


def ask(port: int, head: str, body: str = "", *, source: str = "127.0.0.1") -> tuple[int, str]:
    """Send a request from an address of this machine; return the status and all of the answer."""
    with socket.create_connection(("127.0.0.1", port), 30, (source, 0)) as sock:
        lines = f"{head}\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall((lines + body).encode())
        answer = b""
        while part := sock.recv(65536):
            answer += part
    found = re.match(rb"HTTP/1\.\d (\d+)", answer)
    return int(found[1]) if found else 0, answer.decode("latin-1")


def sign_in(port: int, user: str, password: str, source: str, forwarded: str = "") -> int:
    """Try a password; return the status."""
    forged = f"\r\nX-Forwarded-For: {forwarded}\r\nX-Real-IP: {forwarded}" if forwarded else ""
    head = f"POST /token HTTP/1.1\r\nContent-Type: application/json{forged}"
    body = json.dumps({"username": user, "password": password})
    return ask(port, head, body, source=source)[0]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A service with accounts that believes one proxy; its port."""
    need(Nginx)
    folder: Path = tmp_path_factory.mktemp("proxies")
    models = write_models(folder / "m.json", {"f": {"type": "fake", "model_name": "tests/fake"}})
    with served(
        MODEL_CONFIG=str(models), SUPPORTED_MODELS_FILE="/nonexistent", AUTH_ENABLED="true",
        JWT_SECRET_KEY="k" * 43, ADMIN_PASSWORD=PASSWORD, TRUSTED_PROXY_HOPS="1",
    ) as url:  # fmt: skip
        yield int(url.rpartition(":")[2])


def guess(port: int, source: str) -> list[int]:
    """Try more passwords than an address may, each as if from another one."""
    tries = range(TRIES_PER_ADDRESS + 2)
    return [sign_in(port, f"u{i}", "wrong", source, f"198.51.100.{i}") for i in tries]


@pytest.mark.fault("Hostile clients")
def test_a_forged_address_lets_nobody_past_the_sign_in_limit(service: int) -> None:
    """A client behind the proxy forges `X-Forwarded-For` -> not believed: 429 after 20 wrong
    passwords.
    """
    statuses = guess(service, "127.0.0.7")
    assert statuses == [401] * TRIES_PER_ADDRESS + [429] * 2
    assert sign_in(service, "admin", PASSWORD, "127.0.0.8") == 200


FRONTS: dict[str, Callable[[int], str]] = {
    "nginx.conf": front_of,
    "nginx.scale.conf": lambda port: on_loopback(NGINX, [port]),
}


@pytest.mark.parametrize("name", FRONTS)
def test_behind_nginx_each_caller_has_its_own_limit(service: int, name: str) -> None:
    stranger = f"127.0.1.{list(FRONTS).index(name) + 1}"
    with Nginx(FRONTS[name](service)) as nginx:
        assert guess(nginx.port, stranger)[-1] == 429
        assert sign_in(nginx.port, "admin", PASSWORD, "127.0.0.9") == 200


@pytest.mark.parametrize("name", FRONTS)
def test_the_longest_path_of_a_record_gets_through(service: int, name: str) -> None:
    """A collection's name of 255 characters, and an id of 512 of four bytes each."""
    with Nginx(FRONTS[name](service)) as nginx:
        path = f"/collections/{'c' * 255}/vectors/{'%F0%9F%98%80' * 512}"
        for method in ("GET", "DELETE"):
            assert ask(nginx.port, f"{method} {path} HTTP/1.1")[0] == 401  # by the service


SPELLINGS = r"""
/metrics /metrics/ //metrics //metrics// /./metrics /metrics/. /x/../metrics /health/../metrics
/metrics%2f /metrics%2F /metrics%2f%2f /%6detrics /%6D%65%74rics/ /%2e/metrics /x/..%2fmetrics
/x/%2e%2e/metrics /metrics; /metrics;x=1 /;/metrics /metrics?a=b /metrics#a /METRICS /Metrics/
/metrics%20 /metrics%09 /metrics%0a /metrics%00 /metrics%3b /metrics%252f /metrics\ /%5cmetrics
/metrics%ff /metrics. /metrics* http://x/metrics http://x//metrics/ /metrics/../metrics /metrics/x
"""


@pytest.mark.fault("Deployment")
def test_no_spelling_of_a_closed_route_gets_past_nginx(service: int) -> None:
    """Another machine asks for `/metrics` as `/metrics/`, `%2f`, `//`, `/./` ... -> nginx refuses
    all of them.
    """
    with Nginx(front_of(service)) as nginx:
        key = "Authorization: Bearer " + token(nginx.port)
        for path in SPELLINGS.split():
            head = f"GET {path} HTTP/1.1\r\n{key}\r\nAccept: text/plain"
            status, answer = ask(nginx.port, head, source="127.0.0.2")
            assert status >= 300 and "embedding_" not in answer, path
        status, answer = ask(nginx.port, f"GET /metrics HTTP/1.1\r\n{key}\r\nAccept: text/plain")
        assert status == 200 and "embedding_requests_total" in answer


def token(port: int) -> str:
    """Sign in as the admin, from an address that guessed nothing."""
    body = json.dumps({"username": "admin", "password": PASSWORD})
    head = "POST /token HTTP/1.1\r\nContent-Type: application/json"
    return json.loads(ask(port, head, body, source="127.0.0.10")[1].partition("\r\n\r\n")[2])[
        "access_token"
    ]


def test_headers_of_a_proxy_break_no_request_of_somebody_local(service: int) -> None:
    for said in (
        "SCRIPT_NAME: /api",
        "X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off",
        "X-Forwarded-Proto: http\r\nX-Forwarded-Proto: https",
        "X-Forwarded-Protocol: ssl\r\nX-Forwarded-Proto: http",
    ):
        assert ask(service, f"GET /health/live HTTP/1.1\r\n{said}")[0] == 200, said
