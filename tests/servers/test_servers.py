"""The servers of the other tests start, stop, hang and come back as their methods promise."""

import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from tests.servers.fixtures import need
from tests.servers.mariadb import MariaDB
from tests.servers.nginx import Nginx
from tests.servers.postgres import Postgres
from tests.servers.process import Server, children
from tests.servers.redis import Redis


def test_postgres_has_pgvector_and_private_databases(postgres):
    one, two = postgres.database(), postgres.database()
    assert one != two
    name = one.rpartition("/")[2]
    postgres.sql("CREATE EXTENSION vector", name)
    assert postgres.sql("SELECT '[1,0]'::vector <=> '[0,1]'::vector", name) == "1"
    assert postgres.sql("SHOW server_version").startswith("18")


def test_mariadb_answers(mariadb):
    assert mariadb.database() != mariadb.database()
    assert mariadb.sql("SELECT 1 + 1") == "2"


def test_redis_answers(redis_server):
    redis_server.flush()
    assert redis_server.ready()


def test_nginx_serves_what_it_is_told():
    need(Nginx)
    with Nginx("server { listen 127.0.0.1:{port}; location / { return 200 'hello'; } }") as nginx:
        assert urllib.request.urlopen(nginx.url()).read() == b"hello"


@pytest.mark.parametrize("kind", [Postgres, MariaDB, Redis])
def test_a_killed_server_is_wholly_gone_and_comes_back(kind: type[Server]):
    need(kind)
    with kind() as server:
        started = server.process
        assert started is not None
        server.kill()
        assert started.poll() == -9
        assert children(started.pid) == []
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=1)
        server.start()
        assert server.ready()


def test_a_paused_server_holds_its_port_and_says_nothing():
    need(Redis)
    with Redis() as server:
        server.pause()
        with socket.create_connection(("127.0.0.1", server.port), timeout=0.3) as link:
            link.sendall(b"PING\r\n")
            with pytest.raises(TimeoutError):
                link.recv(16)
            server.resume()
            link.settimeout(60)
            assert link.recv(16) == b"+PONG\r\n"


def test_stopping_leaves_nothing_behind():
    need(Redis)
    with Redis() as server:
        folder, process = server.folder, server.process
    assert process is not None and process.poll() is not None
    assert not folder.exists()


def test_a_server_that_cannot_start_says_why():
    need(Redis)
    server = Redis("--no-such-option", "1")
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="no-such-option"):
        server.start()
    server.stop()
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(("ci", "outcome"), [("true", "1 failed"), ("", "1 skipped")])
def test_a_missing_server_skips_and_fails_in_ci(ci: str, outcome: str, tmp_path):
    (tmp_path / "test_it.py").write_text(
        "from tests.servers.redis import Redis\n"
        "from tests.servers.fixtures import need\n"
        "class Absent(Redis):\n"
        "    program = 'no-such-server'\n"
        "def test_it():\n"
        "    need(Absent)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(tmp_path)],
        env={"CI": ci, "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert outcome in done.stdout
    assert "apt-get install redis-server" in done.stdout
