"""Re-embeddings within limits: of their callers' texts a minute, and of how many run at once."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from config import Config
from documents.jobs import OF_ONE_MOST, RUNNING_MOST, Job, Jobs
from documents.reembed import Reembedder
from engine import EmbedRequest
from errors import QueueFull
from factory import create_app
from store import Item
from tests.collections.conftest import MODELS
from tests.collections.test_reembed import ended


@pytest.fixture
def make_app(config_of: Callable[..., Config]) -> Iterator[Callable[..., Flask]]:
    made: list[Flask] = []

    def make(**settings: object) -> Flask:
        made.append(create_app(config_of(MODELS, **settings), wait=True))
        return made[-1]

    yield make
    for app in made:
        app.extensions["services"].reembedder.stop()
        until(lambda: not any(each.name.startswith("reembed-") for each in threading.enumerate()))
        app.extensions["throttle"].close()
        app.extensions["services"].documents.store.close()


def limit(texts: int) -> dict[str, int]:
    """Settings: this machine's own callers are admins."""
    return {"texts_per_minute_anonymous": texts, "texts_per_minute_admin": texts}


def filled(app: Flask, name: str, texts: int) -> None:
    store = app.extensions["services"].documents.store
    store.create(name, 8, model="tests/small")
    store.upsert(name, [Item(f"{i:02}", [i + 1.0] * 8, f"text {i}") for i in range(texts)])


def start(client: FlaskClient, name: str, status: int, model: str = "wide") -> dict[str, Any]:
    reply = client.post(f"/collections/{name}/reembed", json={"model": model})
    assert reply.status_code == status, reply.text
    return reply.json


def jobs_of(app: Flask) -> Jobs:
    return Jobs(app.extensions["services"].documents.store)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.fault("Overload")
def test_a_job_keeps_to_its_callers_texts_a_minute(make_app) -> None:
    """A re-embedding of more texts than its caller may have in a minute -> each counts as the
    caller's, and it waits when they are used up. A second one meanwhile -> 429.
    """
    app = make_app(**limit(20))
    client, jobs = app.test_client(), jobs_of(app)
    for name in ("big", "second"):
        filled(app, name, 50)
    job = start(client, "big", 202)
    until(lambda: jobs.load(job["id"]).done >= 20)
    assert client.post("/embed", json={"texts": "one more"}).status_code == 429
    assert "DELETE /jobs/{id}" in start(client, "second", 429)["error"]
    now = jobs.load(job["id"])
    assert (now.state, now.total) == ("running", 50) and 20 <= now.done < 50


def test_a_jobs_later_texts_are_counted_as_its_callers_too(make_app) -> None:
    app = make_app(**limit(20))
    filled(app, "big", 50)
    services, jobs = app.extensions["services"], jobs_of(app)
    counted: list[tuple[str, int, int]] = []
    away = threading.Event()

    def count(by: str, texts: int, most: int) -> float:
        """Tell two times of three to wait."""
        counted.append((by, texts, most))
        if len(counted) == 20:
            away.set()
        return 0.001 if len(counted) % 3 or len(counted) >= 20 else 0.0

    first = Reembedder(services.engine, services.documents.store, count)
    job = first.start("big", "wide", "user:ann", 20)
    assert away.wait(60)
    first.stop()
    until(lambda: all(thread.name != f"reembed-{job.id[:8]}" for thread in threading.enumerate()))
    stopped = jobs.load(job.id)
    assert stopped.done == stopped.counted == 20 + 6 * 2
    rest: list[tuple[str, int, int]] = []
    again = Reembedder(services.engine, services.documents.store, lambda *a: rest.append(a) or 0.0)
    again.resume()
    assert ended(jobs, job.id).state == "done"
    assert set(counted) == set(rest) == {("user:ann", 2, 20)}
    assert len(rest) == (50 - stopped.done) / 2


def test_what_is_counted_for_a_job_is_the_callers(make_app) -> None:
    app = make_app(**limit(20))
    limits, client = app.extensions["throttle"], app.test_client()
    filled(app, "small", 1)
    start(client, "small", 202)
    by = jobs_of(app).all()[0].by
    assert limits.count_for(by, 18, 20) == 0
    assert client.post("/embed", json={"texts": ["a", "b"]}).status_code == 429
    assert 0 < limits.count_for(by, 20, 20) <= 120


def test_a_job_within_a_minutes_texts_is_done_at_once(make_app) -> None:
    app = make_app(**limit(50))
    filled(app, "small", 50)
    job = start(app.test_client(), "small", 202)
    assert ended(jobs_of(app), job["id"]).state == "done"


def test_a_minute_that_is_used_up_begins_no_job(make_app) -> None:
    app = make_app(**limit(4))
    filled(app, "c", 2)
    client = app.test_client()
    assert client.post("/embed", json={"texts": ["a", "b", "c"]}).status_code == 200
    start(client, "c", 429)
    assert client.get("/jobs").json == {"jobs": []}


def test_so_many_jobs_run_at_once(make_app) -> None:
    app = make_app()
    filled(app, "c", 2)
    jobs = jobs_of(app)
    for _ in range(RUNNING_MOST):
        jobs.save(Job(uuid.uuid4().hex, "elsewhere", uuid.uuid4().hex, "wide"))
    reply = start(app.test_client(), "c", 429)
    assert f"{RUNNING_MOST} jobs are running" in reply["error"]
    jobs.forget(jobs.running()[0])
    job = start(app.test_client(), "c", 202)
    assert ended(jobs, job["id"]).state == "done"


@pytest.mark.fault("Overload")
def test_one_caller_does_not_take_all_jobs(make_app) -> None:
    """One caller starts more than half of the re-embeddings that may run at once -> 429; others may
    start one.
    """
    app = make_app()
    filled(app, "c", 2)
    jobs, services = jobs_of(app), app.extensions["services"]
    for _ in range(OF_ONE_MOST):
        jobs.save(Job(uuid.uuid4().hex, "elsewhere", uuid.uuid4().hex, "wide", by="user:ann"))
    with pytest.raises(QueueFull, match="of your jobs are running"):
        services.reembedder.start("c", "wide", "user:ann")
    job = services.reembedder.start("c", "wide", "user:bob")
    assert ended(jobs, job.id).state == "done"


def test_a_job_that_is_stopped_changes_nothing(make_app, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where another one of the same collection has begun before it noticed."""
    app = make_app()
    filled(app, "c", 5)
    client, services = app.test_client(), app.extensions["services"]
    began, go, embed = threading.Event(), threading.Event(), services.engine.embed

    def slow(request: EmbedRequest) -> Any:
        if request.model == "wide":
            began.set()
            assert go.wait(30)
        return embed(request)

    monkeypatch.setattr(services.engine, "embed", slow)
    stopped = start(client, "c", 202)["id"]
    assert began.wait(30)
    assert client.delete(f"/jobs/{stopped}").json == {"deleted": stopped}
    assert client.get(f"/jobs/{stopped}").status_code == 404
    store = services.documents.store
    assert store.names() == ["c"] and store.delete("c", ["00"]) == 1  # writes go on
    second = start(client, "c", 202, "other")["id"]
    assert ended(jobs_of(app), second).state == "done"
    go.set()
    name = f"reembed-{stopped[:8]}"
    until(lambda: all(thread.name != name for thread in threading.enumerate()))
    assert [job["id"] for job in client.get("/jobs").json["jobs"]] == [second]
    info = store.info("c")
    assert (info.model, info.dim, info.count) == ("tests/other", 8, 4)
    assert store.names() == ["c"]
    assert client.delete(f"/jobs/{second}").status_code == 200
    assert client.delete(f"/jobs/{second}").status_code == 404
    assert store.count("c") == 4
