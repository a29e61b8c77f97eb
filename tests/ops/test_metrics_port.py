"""The metrics' own port: it answers with the metrics alone, and whoever else holds a connection."""

import resource
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger

from server import metrics_port
from tests.conftest import free_port, write_models
from tests.faults.conftest import Service, starting, until
from tests.ops.test_prometheus import Prometheus
from tests.servers.fixtures import need

TOKEN = "a-token-of-sixteen-characters"


def ask(port: int, authorization: str = "", path: str = "/", data: bytes | None = None):
    """Send a request to the metrics' port; return status and body."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data)
    if authorization:
        request.add_header("Authorization", authorization)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Start gunicorn on a fake model."""
    models = {"fake": {"type": "fake", "model_name": "tests/fake"}}
    with starting(write_models(tmp_path / "m.json", models)) as begin:
        yield begin


@pytest.fixture
def many_files() -> Iterator[None]:
    """Give this process more descriptors than is usual."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.fault("Hostile clients")
def test_idle_connections_keep_no_scrape_out(many_files, start) -> None:
    """1,500 idle connections on the metrics' port -> the longest silent ones are closed, and
    Prometheus is still answered.
    """
    need(Prometheus)
    port = free_port()
    service: Service = start(ENABLE_METRICS="true", METRICS_PORT=str(port))
    with ExitStack() as idle:
        for _ in range(1500):
            idle.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
        with Prometheus(port) as prometheus:
            until(lambda: prometheus.numbers("embedding_build_info") == [1.0])
        assert service.healthy()


def test_the_port_answers_with_the_metrics_alone_and_only_to_the_token(start) -> None:
    port = free_port()
    service: Service = start(ENABLE_METRICS="true", METRICS_PORT=str(port), METRICS_TOKEN=TOKEN)
    for given in ("", "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer \xe9"):
        status, body = ask(port, given)
        assert status == 401 and b"embedding_" not in body
    embed = b'{"texts": ["a"]}'
    for path, data in (("/metrics", None), ("/embed", embed), ("/health/live", None)):
        assert ask(port, path=path, data=data)[0] == 401
        status, body = ask(port, f"bearer {TOKEN}", path, data)
        assert status == 200 and b"embedding_build_info{" in body and b"embeddings" not in body
    assert service.ask("/health/live")[0] == 200  # the main port needs no token
    old = set(service.workers())
    service.signal(signal.SIGHUP)
    until(lambda: not old & set(service.workers()) and service.healthy())
    assert ask(port, f"bearer {TOKEN}")[0] == 200


def test_a_new_master_does_not_get_the_port(monkeypatch, caplog) -> None:
    monkeypatch.setattr(metrics_port, "_listeners", {})
    config = Config()
    server = SimpleNamespace(LISTENERS=["main"], cfg=config, log=Logger(config))
    port = free_port()
    metrics_port.listen(server, "127.0.0.1", port)
    _, ours = server.LISTENERS
    with closing(ours):
        metrics_port.listen(server, "127.0.0.1", port)  # a reload
        assert len(server.LISTENERS) == 2 and not caplog.records
        metrics_port.leave_out(server)
        assert server.LISTENERS == ["main"]
    server.LISTENERS = ["other"]  # a reload with another address: gunicorn has closed all
    metrics_port.listen(server, "127.0.0.1", port)
    with closing(server.LISTENERS[1]) as again:
        assert again.getsockname() == ("127.0.0.1", port)
