"""Real servers stopped, paused, restarted and locked under a running service."""

import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from config import Config
from settings import open_settings
from tests.conftest import free_port, running, write_models
from tests.servers.fixtures import need
from tests.servers.mariadb import MariaDB
from tests.servers.postgres import Postgres
from tests.settings.conftest import Service, until

Start = Callable[..., Service]


@pytest.fixture(params=[MariaDB, Postgres], scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[MariaDB | Postgres]:
    """A database server of our own, to be treated badly."""
    need(request.param)
    with request.param() as running:
        yield running


def degraded(service: Service) -> str | None:
    reason = service.get("/health")["degraded"]
    assert reason is None or isinstance(reason, str)
    return reason


def keep(url: str, **values: object) -> None:
    """Keep settings as a service that ran before did."""
    settings = open_settings(Config.model_validate({"db_url": url, "use_db_settings": True}))
    settings.change(values, "ann")
    settings.stop()


def embeds(service: Service) -> bool:
    return service.post("/embed", {"texts": ["still here"]}).status_code == 200


@pytest.mark.fault("The SQL database")
def test_down_at_start_then_up(start: Start, server: MariaDB | Postgres) -> None:
    """The database is down at the start -> the environment's settings serve; the database is used
    again when it is back.
    """
    url = server.database()
    keep(url, max_texts=77)
    server.halt()
    service = start(url, MAX_TEXTS_PER_REQUEST="66")
    reason = degraded(service)
    assert reason and "test:test" not in reason and url not in reason
    assert embeds(service) and service.value("max_texts") == 66
    assert service.set("max_texts", 3).status_code == 503
    server.start()
    until(lambda: degraded(service) is None)
    assert service.value("max_texts") == 77


@pytest.mark.fault("The SQL database")
def test_hanging_later_then_going_on(start: Start, server: MariaDB | Postgres) -> None:
    """The database hangs -> the last known settings serve; changes are 503."""
    service = start(server.database())
    assert service.set("max_texts", 5).status_code == 200
    server.pause()
    try:
        until(lambda: degraded(service) is not None)
        assert embeds(service) and service.value("max_texts") == 5
        refused = service.set("max_texts", 6)
        assert refused.status_code == 503 and refused.headers["Retry-After"]
        assert service.post("/embed", {"texts": ["x"] * 6}).status_code == 413
    finally:
        server.resume()
    until(lambda: degraded(service) is None)
    assert service.set("max_texts", 7).status_code == 200


@pytest.mark.fault("The SQL database")
def test_restarted_under_idle_connections(start: Start, server: MariaDB | Postgres) -> None:
    """The database is restarted under idle connections -> they are replaced; no request fails."""
    service = start(server.database())
    assert service.set("max_texts", 5).status_code == 200
    server.restart()
    assert service.set("max_texts", 6).status_code == 200
    assert service.value("max_texts") == 6


@pytest.mark.fault("The SQL database")
def test_killed_under_load_then_back(start: Start, server: MariaDB | Postgres) -> None:
    """The database goes down -> the last known settings serve; changes are 503."""
    service = start(server.database())
    assert service.set("max_texts", 5).status_code == 200
    server.kill()
    until(lambda: degraded(service) is not None)
    assert embeds(service) and service.set("max_texts", 6).status_code == 503
    server.start()
    until(lambda: degraded(service) is None)
    assert service.value("max_texts") == 5


@pytest.mark.fault("The SQL database")
def test_a_locked_sqlite_file_is_503_and_recovers(start: Start, tmp_path: Path) -> None:
    """Another program holds SQLite's lock -> 503 after 4 s."""
    file = tmp_path / "settings.db"
    service = start(f"sqlite:///{file}")
    assert service.set("max_texts", 5).status_code == 200
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    refused = service.set("max_texts", 6)
    assert refused.status_code == 503 and refused.json()["error_type"] == "busy"
    assert embeds(service) and service.value("max_texts") == 5
    other.execute("ROLLBACK")
    other.close()
    assert service.set("max_texts", 6).status_code == 200


FOLLOWED_S = 5  # it is one where the machine has nothing else to do


def lag_s(new: Callable[[], bool]) -> float:
    """Return for how long from now a request may still be answered by a worker of before.

    Each request is a new connection, so 25 of them meet every worker.
    """
    told = last_old = time.monotonic()
    in_a_row = 0
    while in_a_row < 25:
        began = time.monotonic()
        assert began < told + 60, "a worker does not follow"
        in_a_row += 1
        if not new():
            last_old, in_a_row = began, 0
    return last_old - told


@pytest.mark.fault("Models and devices")
def test_every_worker_follows_a_change_and_a_swap(start: Start, tmp_path: Path) -> None:
    """One worker changes a setting -> every worker follows.

    Within a second, and some more where the machine is busy.
    """
    service = start(f"sqlite:///{tmp_path}/settings.db", "-w", "3")
    before = service.post("/embed", {"texts": ["a"]}).json()
    assert before["dimension"] == 8
    assert service.set("max_texts", 3).status_code == 200
    assert lag_s(lambda: service.value("max_texts") == 3) < FOLLOWED_S
    assert service.set("model_name", "wide").status_code == 200
    asked = ("/embed", {"texts": ["a"]})
    assert lag_s(lambda: service.post(*asked).json()["model"] == "tests/wide") < FOLLOWED_S
    refused = service.set("model_name", "no/such")
    assert refused.status_code == 422 and "no/such" in refused.json()["error"]
    assert lag_s(lambda: service.value("model_name") == "wide") < FOLLOWED_S

    for values in ((11, 12), (13, 14), (15, 16)):
        assert_one_after_the_other(service, values)


def assert_one_after_the_other(service: Service, values: tuple[int, int]) -> None:
    """Send two changes at once: each is stored or refused, and all agree on the last."""
    version = service.get("/settings/history")["history"][0]["version"]
    both, statuses = threading.Barrier(2, timeout=30), []

    def change(value: int) -> None:
        both.wait()
        statuses.append(service.set("max_texts", value).status_code)

    threads = [threading.Thread(target=change, args=(value,)) for value in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(statuses) in ([200, 200], [200, 409])
    newest = service.get("/settings/history")["history"][0]
    assert newest["version"] == version + statuses.count(200)
    assert newest["changes"]["max_texts"]["new"] in values
    assert (
        lag_s(lambda: service.value("max_texts") == newest["changes"]["max_texts"]["new"])
        < FOLLOWED_S
    )


def test_settings_kept_in_sql_are_there_at_the_next_start(start: Start, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/settings.db"
    keep(url, model_name="wide", cors_origins=["http://a.example"])
    later = start(url)
    assert later.post("/embed", {"texts": ["a"]}).json()["model"] == "tests/wide"
    assert later.value("cors_origins") == ["http://a.example"]


def test_a_port_kept_in_sql_is_listened_on_at_the_next_start(tmp_path: Path) -> None:
    write_models(tmp_path / "models.json", {"fake": {"type": "fake", "model_name": "tests/fake"}})
    url = f"sqlite:///{tmp_path}/settings.db"
    port = free_port()
    keep(url, port=port)
    env = {"EMBEDDING_USE_DB_SETTINGS": "true", "EMBEDDING_DB_URL": url, "HOST": "127.0.0.1"}
    env |= {"PORT": str(free_port()), "MODEL_CONFIG": str(tmp_path / "models.json")}
    env |= {"SUPPORTED_MODELS_FILE": str(tmp_path / "none")}
    with running([sys.executable, "-m", "gunicorn", "app:app"], port, env):
        assert Service(f"http://127.0.0.1:{port}", 0).value("port") == port


def test_several_workers_without_sql_say_how_to_get_it(start: Start) -> None:
    service = start("sqlite://", "-w", "2", EMBEDDING_USE_DB_SETTINGS="false")
    refused = service.set("max_texts", 3)
    assert refused.status_code == 409
    assert "EMBEDDING_USE_DB_SETTINGS=true" in refused.json()["error"]
