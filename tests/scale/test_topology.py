"""The topology of docker-compose.scale.yml without containers: nginx over two services.

PostgreSQL, Redis and nginx are real processes too. One service is killed -9 under load: what was
acknowledged is there, readers see no error (at most an answer cut off half
way), and the copy that comes back takes its share again.
"""

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from tests.conftest import running
from tests.scale.test_compose import NGINX, on_loopback
from tests.servers.fixtures import need
from tests.servers.nginx import Nginx
from tests.servers.postgres import Postgres
from tests.servers.process import children, free_port
from tests.servers.redis import Redis
from tests.servers.warm import GUNICORN


class Service:
    """One gunicorn of the service on a port of its own."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.port = free_port()
        folder.mkdir()
        (folder / "models.json").write_text(
            json.dumps({"default": "m", "models": {"m": {"type": "fake", "model_name": "t/fake"}}})
        )
        self.env = {
            **env, "HOST": "127.0.0.1", "PORT": str(self.port), "THREADS": "16",
            "STORE_DIR": str(folder / "store"), "SUPPORTED_MODELS_FILE": str(folder / "none"),
            "MODEL_CONFIG": str(folder / "models.json"),
        }  # fmt: skip
        self._stack = ExitStack()

    def start(self) -> None:
        self._stack.close()
        self.process = self._stack.enter_context(
            running([*GUNICORN, "app:app"], self.port, self.env)
        )

    def kill(self) -> None:
        """Kill -9 the master and its workers."""
        for pid in [self.process.pid, *children(self.process.pid)]:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self._stack.close()


@pytest.fixture
def services(tmp_path: Path) -> Iterator[tuple[str, list[Service]]]:
    """The address of nginx, and the two services behind it."""
    need(Postgres, Redis, Nginx)
    with Postgres() as postgres, Redis() as redis:
        env = {"STORE_URL": postgres.url(), "REDIS_ENABLED": "true", "REDIS_URL": redis.url()}
        both = [Service(tmp_path / name, env) for name in ("one", "two")]
        try:
            for service in both:
                service.start()
            with Nginx(on_loopback(NGINX, [service.port for service in both])) as nginx:
                yield nginx.url(), both
        finally:
            for service in both:
                service.stop()


class Load:
    """Clients that write and clients that search, until `stop` is set."""

    def __init__(self, url: str) -> None:
        self.url, self.stop = url, threading.Event()
        self.acknowledged: list[str] = []
        self.repeated, self.searches = 0, 0
        self.wrong: list[str] = []
        self.cut: list[str] = []  # answers that broke off half way
        self.threads = [threading.Thread(target=self.write, args=(i,)) for i in range(4)]
        self.threads += [threading.Thread(target=self.search) for _ in range(2)]

    def write(self, worker: int) -> None:
        """Write records; one that is not acknowledged is sent again, as clients do."""
        with requests.Session() as session:
            number = 0
            while not self.stop.is_set():
                id_ = f"{worker}-{number}"
                body = {"collection": "docs", "text": f"text {id_}", "id": id_}
                body["metadata"] = {"key": id_}
                try:
                    reply = session.post(f"{self.url}/embed-and-store", json=body, timeout=30)
                except requests.RequestException:
                    self.repeated += 1
                    continue
                if reply.status_code == 201:
                    self.acknowledged.append(id_)
                    number += 1
                    self.stop.wait(0.02)  # or they take the CPU from the service that starts
                elif reply.status_code in (502, 503, 504):
                    self.repeated += 1
                else:
                    self.wrong.append(f"{reply.status_code} {reply.text[:200]}")
                    return

    def search(self) -> None:
        """Search for what is known to be there; it must be found, whoever answers."""
        with requests.Session() as session:
            while not self.stop.is_set():
                if not self.acknowledged:
                    time.sleep(0.01)
                    continue
                id_ = random.choice(self.acknowledged)
                body = {"text": f"text {id_}", "k": 1, "filter": {"key": id_}}
                self.searches += 1
                try:
                    address = f"{self.url}/collections/docs/search"
                    reply = session.post(address, json=body, timeout=30)
                except requests.RequestException as error:
                    self.cut.append(repr(error))
                    continue
                if reply.status_code != 200 or f'"{id_}"' not in reply.text:
                    self.wrong.append(f"{id_}: {reply.status_code} {reply.text[:200]}")
                self.stop.wait(0.02)


def test_a_service_killed_under_load_loses_no_acknowledged_write(services) -> None:
    url, (one, two) = services
    made = {"name": "docs", "model": "m"}
    assert requests.post(f"{url}/collections", json=made, timeout=30).status_code == 201
    load = Load(url)
    for thread in load.threads:
        thread.start()
    try:
        until(lambda: len(load.acknowledged) > 200)
        one.kill()
        dead_from = len(load.acknowledged)
        until(lambda: len(load.acknowledged) > dead_from + 200)
        one.start()
        until(lambda: worked(one) > 20)  # nginx found it again
    finally:
        load.stop.set()
        for thread in load.threads:
            thread.join(60)
    assert load.wrong == []
    assert len(load.cut) <= 2, load.cut  # one for each reader, had it one under way
    assert load.searches > 50
    for service in (one, two):  # every copy sees every write
        stored = ids_of(f"http://127.0.0.1:{service.port}")
        assert set(load.acknowledged) <= stored
        assert len(stored) <= len(load.acknowledged) + 4  # at most one unanswered each


def until(true, limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)


def worked(service: Service) -> int:
    """The number of searches and writes in a service's log since it last started."""
    return service.process.log.read_text().rpartition("Listening at")[2].count("docs/search")


def ids_of(url: str) -> set[str]:
    ids: set[str] = set()
    cursor = None
    while True:
        body = {"limit": 1000, "include": []} | ({"cursor": cursor} if cursor else {})
        page = requests.post(f"{url}/collections/docs/vectors/scroll", json=body, timeout=30).json()
        ids |= {record["id"] for record in page["vectors"]}
        if (cursor := page["next_cursor"]) is None:
            return ids
