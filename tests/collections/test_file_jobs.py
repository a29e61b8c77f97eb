"""Jobs that store files: killed, held up, limited, stopped; and who sees them."""

import io
import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from documents.files import WAITS_S, Loader
from documents.jobs import OF_ONE_MOST, RUNNING_MOST, Job
from engine import EmbedRequest
from tests.accounts.conftest import add_user, bearer, make_app, token_of
from tests.collections.test_files import (
    ended,
    files_alone,
    give,
    held,
    records,
    rejects,
    stored,
    until,
)
from tests.collections.test_jobs import (
    another,
    eventually,
    job_of,
    json_of,
    kill_all,
    patiently,
    runner_of,
    serving,
)
from tests.conftest import free_port
from tests.faults.conftest import Service
from tools.layout import Layout

__all__ = ["make_app"]  # a fixture

ROWS = 1500


@pytest.fixture
def alone(config_of: Callable[..., Any]) -> Iterator[Callable[..., FlaskClient]]:
    with files_alone(config_of) as make:
        yield make


@pytest.fixture
def docs(alone: Callable[..., FlaskClient]) -> FlaskClient:
    return alone()


def loader_of(client: FlaskClient) -> Loader:
    return client.application.extensions["services"].loader


def folder_of(client: FlaskClient) -> Path:
    return loader_of(client).spool.file("x").parent.parent


class Killed(BaseException):
    """Stands for the end of the process."""


def mortal(real: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    """Return a function that dies instead of doing its work when nothing is left."""

    def call(*args: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return real(*args, **named)

    return call


def test_a_job_goes_on_after_a_kill_at_any_step(
    docs: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("documents.runner.STEP", 5)
    services = docs.application.extensions["services"]
    rows = "".join("\0bad\n" if i % 4 == 3 else f"text {i // 2}\n" for i in range(24))
    for n in range(100):
        dying = Loader(services.documents, folder_of(docs))
        dying._run_aside = lambda id_: None  # type: ignore[method-assign]
        job = dying.take("docs", "a.txt", io.BytesIO(rows.encode()).read)
        dying.start(job, Layout())
        left = [n]
        for part, name in (
            (dying.spool, "reject"), (dying.jobs, "update"), (dying.spool, "drop_file"),
            (dying, "_add"),
        ):  # fmt: skip
            setattr(part, name, mortal(getattr(part, name), left))
        try:
            dying._run(job.id)
        except Killed:
            Loader(services.documents, folder_of(docs)).resume()
        after = ended(docs, job.id)
        assert (after["state"], after["done"], after["file"]["rejected"]) == ("done", 24, 6)
        assert [line for line, _ in rejects(docs, job.id)] == list(range(4, 25, 4))
        assert len(records(docs)) == 18
        docs.delete(f"/jobs/{job.id}")
        if left[0] >= 0:
            break
    assert n > 8


def upload(service: Service, name: str, content: bytes) -> str:
    url = f"{service.url}/collections/notes/files?filename={name}"
    with urllib.request.urlopen(urllib.request.Request(url, content), timeout=60) as reply:
        return str(json.load(reply)["id"])


def table() -> bytes:
    rows = (f"{i:04},text {i}" if i % 100 else f"{i:04},bad,row" for i in range(ROWS))
    return ("id,text\n" + "\n".join(rows) + "\n").encode()


def check_all_there(service: Service, job: str) -> None:
    done = job_of(service, job)
    assert done["state"] == "done", done
    assert (done["done"], done["file"]["rejected"]) == (ROWS, ROWS // 100)
    assert json_of(service, "/collections/notes")["count"] == ROWS - ROWS // 100
    lines = service.ask(f"/jobs/{job}/rejects")[2].decode().splitlines()
    assert [json.loads(line)["line"] for line in lines] == list(range(2, ROWS + 2, 100))


@pytest.mark.fault("Files")
def test_a_file_whose_service_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    """Master and workers are killed (SIGKILL) in the midst of a file -> after the start the rest is
    stored, no row twice, none lost.
    """
    port, allowed = free_port(), tmp_path / "allowed"
    allowed.write_text("600")
    with ExitStack() as stack:
        first = stack.enter_context(serving(tmp_path, port, 1))
        assert first.ask("/collections", {"name": "notes", "model": "slow"})[0] == 201
        job = upload(first, "rows.csv", table())
        until(lambda: job_of(first, job)["done"] > 0)
        kill_all(first)
        allowed.unlink()
        second = stack.enter_context(serving(tmp_path, port, 1))
        until(lambda: job_of(second, job)["state"] != "running")
        check_all_there(second, job)
        assert [path.name for path in (tmp_path / "store" / "files" / job).iterdir()] == [
            "rejects.jsonl"
        ]


def test_a_worker_takes_over_from_a_dead_one_and_no_two_run_a_job(tmp_path: Path) -> None:
    port, allowed = free_port(), tmp_path / "allowed"
    allowed.write_text("300")
    with serving(tmp_path, port, 2) as service:
        assert service.ask("/collections", {"name": "notes", "model": "slow"})[0] == 201
        job = upload(service, "rows.csv", table())
        runner = eventually(lambda: runner_of(tmp_path, job))
        assert runner in service.workers()
        os.kill(runner, signal.SIGKILL)
        assert eventually(lambda: patiently(service, job) and another(tmp_path, job, runner))
        allowed.unlink()
        until(lambda: patiently(service, job)["state"] != "running")
        check_all_there(service, job)


@pytest.mark.fault("Files")
def test_the_same_file_twice_at_once_is_the_same_records(docs: FlaskClient) -> None:
    """Two callers give the same file at the same moment -> its records once."""
    content = "".join(f"text {i % 400}\n" for i in range(600))
    jobs = [give(docs, "a.txt", content).json["id"] for _ in range(2)]
    assert [ended(docs, job)["state"] for job in jobs] == ["done", "done"]
    assert len(records(docs)) == 600


def gated(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, list[Any]]:
    """Hold each step of a file until told: `(began, go, the requests of steps)`."""
    began, go, asked = threading.Event(), threading.Event(), []
    engine = client.application.extensions["services"].engine
    embed = engine.embed

    def slow(request: EmbedRequest) -> Any:
        if request.lane == "bulk":
            asked.append(request)
            began.set()
            assert go.wait(60)
        return embed(request)

    monkeypatch.setattr(engine, "embed", slow)
    return began, go, asked


def test_a_file_is_embedded_in_the_bulk_lane(
    docs: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, go, asked = gated(docs, monkeypatch)
    go.set()
    stored(docs, "a.txt", "one\n")
    assert [request.lane for request in asked] == ["bulk"]


def test_a_file_that_is_stopped_keeps_what_is_stored(
    docs: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("documents.runner.STEP", 2)
    began, go, _ = gated(docs, monkeypatch)
    id_ = give(docs, "a.txt", "".join(f"text {i}\n" for i in range(50))).json["id"]
    assert began.wait(60)
    assert docs.delete(f"/jobs/{id_}").status_code == 200
    go.set()
    until(lambda: not any(t.name == f"file-{id_[:8]}" for t in threading.enumerate()))
    assert docs.get(f"/jobs/{id_}").status_code == 404
    assert docs.get("/jobs").json == {"jobs": []}
    assert len(records(docs)) == 2 and not (folder_of(docs) / id_).exists()


@pytest.mark.fault("Files")
def test_a_file_goes_into_no_other_collection_of_the_name(
    docs: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collection is deleted and made again while a file is stored -> the job fails; nothing
    goes into the new one.
    """
    began, go, _ = gated(docs, monkeypatch)
    id_ = give(docs, "a.txt", "one\ntwo\n").json["id"]
    assert began.wait(60)
    docs.delete("/collections/docs")
    docs.post("/collections", json={"name": "docs", "model": "small"})
    go.set()
    job = ended(docs, id_)
    assert job["state"] == "failed" and "dropped or replaced" in job["error"]
    assert records(docs) == {} and not (folder_of(docs) / id_).exists()


def test_a_file_follows_its_collection_through_a_re_embedding(
    docs: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(docs, "first.txt", "zero\n")
    monkeypatch.setattr("documents.runner.STEP", 1)
    began, go, asked = gated(docs, monkeypatch)
    id_ = give(docs, "a.txt", "one\ntwo\nthree\n").json["id"]
    assert began.wait(60)
    other = docs.post("/collections/docs/reembed", json={"model": "wide"}).json["id"]
    go.set()
    assert ended(docs, id_)["state"] == "done" and ended(docs, other)["state"] == "done"
    assert docs.get("/collections/docs").json["model"] == "tests/wide"
    assert {text for text, _ in held(docs)} == {"zero", "one", "two", "three"}


def limit(texts: int) -> dict[str, int]:
    """Settings: this machine's own callers are admins."""
    return {"texts_per_minute_anonymous": texts, "texts_per_minute_admin": texts}


@pytest.mark.fault("Overload")
def test_a_file_keeps_to_its_callers_texts_a_minute(alone: Callable[..., FlaskClient]) -> None:
    """A file of more texts than its caller may have in a minute -> each counts as the caller's, and
    the job waits when they are used up. A second one meanwhile -> 429, and it is not kept.
    """
    client = alone(**limit(20))
    id_ = give(client, "a.txt", "".join(f"text {i}\n" for i in range(50))).json["id"]
    until(lambda: client.get(f"/jobs/{id_}").json["done"] >= 20)
    assert client.post("/embed", json={"texts": "one more"}).status_code == 429
    reply = give(client, "b.txt", "one\n")
    assert reply.status_code == 429 and "DELETE /jobs/{id}" in reply.json["error"]
    jobs = client.get("/jobs").json["jobs"]
    assert [(job["id"], job["state"]) for job in jobs] == [(id_, "running")]
    assert 20 <= jobs[0]["done"] < 50 and len(list(folder_of(client).glob("*/"))) == 1
    client.delete(f"/jobs/{id_}")


def test_a_minute_that_is_used_up_begins_no_job(alone: Callable[..., FlaskClient]) -> None:
    client = alone(**limit(4))
    assert client.post("/embed", json={"texts": ["a", "b", "c"]}).status_code == 200
    assert give(client, "a.txt", "one\ntwo\n").status_code == 429
    assert client.get("/jobs").json == {"jobs": []}
    assert give(client, "a.txt", "one\n").status_code == 202


def test_so_many_files_wait_and_run_and_old_ones_go(docs: FlaskClient) -> None:
    ids = [give(docs, "a.txt", f"text {i}\n", start="false").json["id"] for i in range(OF_ONE_MOST)]
    reply = give(docs, "a.txt", "one\n", start="false")
    assert reply.status_code == 429 and "POST /jobs/{id}/start" in reply.json["error"]
    jobs = loader_of(docs).jobs
    old = jobs.load(ids[0])
    jobs.save(replace(old, created=time.time() - WAITS_S - 1))
    assert give(docs, "a.txt", "one\n", start="false").status_code == 202
    assert docs.get(f"/jobs/{ids[0]}").status_code == 404
    assert not (folder_of(docs) / ids[0]).exists()
    for i in range(RUNNING_MOST):
        jobs.save(Job(f"{i:032x}", "elsewhere", "x", "wide", by=f"user:{i}"))
    assert docs.post(f"/jobs/{ids[1]}/start", json={}).status_code == 429
    assert docs.get(f"/jobs/{ids[1]}").json["state"] == "waiting"


def test_what_a_kill_left_of_files_goes(docs: FlaskClient) -> None:
    folder = folder_of(docs)
    kept = give(docs, "a.txt", "one\n", start="false").json["id"]
    (folder / ("0" * 32)).mkdir()
    (folder / ("0" * 32) / "given").write_bytes(b"half")
    loader_of(docs)._sweep()
    assert len(list(folder.glob("*/"))) == 2  # it may be one that comes in
    os.utime(folder / ("0" * 32), (0, 0))
    loader_of(docs)._sweep()
    assert {path.name for path in folder.glob("*/")} == {kept}


def test_the_files_of_another_machine_are_left_alone(docs: FlaskClient, tmp_path: Path) -> None:
    """Two machines on one store: each runs what it was given."""
    here = docs.application.extensions["services"]
    there = Loader(here.documents, tmp_path / "elsewhere")
    job = there.take("docs", "a.txt", io.BytesIO(b"one\n").read)
    assert docs.post(f"/jobs/{job.id}/preview", json={}).status_code == 409
    there._run_aside = lambda id_: None  # type: ignore[method-assign]
    there.start(job, Layout())
    here.loader._run(job.id)
    assert docs.get(f"/jobs/{job.id}").json["state"] == "running" and records(docs) == {}
    there._run(job.id)
    assert docs.get(f"/jobs/{job.id}").json["state"] == "done" and len(records(docs)) == 1


@pytest.fixture
def people(make_app: Callable[..., Flask]) -> tuple[FlaskClient, dict[str, dict[str, str]]]:  # noqa: F811
    """A service with accounts, and who signs in: two users, a reader, an admin, a limited key."""
    client = make_app().test_client()
    admin = bearer(token_of(client, "admin", "admin-password-1"))
    who = {"admin": admin} | {name: add_user(client, admin, name) for name in ("uma", "ben")}
    who["rita"] = add_user(client, admin, "rita", "reader")
    for name in ("docs", "other"):
        body = {"name": name, "model": "fake"}
        assert client.post("/collections", json=body, headers=admin).status_code == 201
    key = client.post("/users/uma/api-key", json={"collections": ["other"]}, headers=who["uma"])
    assert key.status_code == 201, key.text
    who["key"] = {"X-API-Key": key.json["api_key"]}
    return client, who


def test_nobody_sees_another_ones_files(people) -> None:
    client, who = people
    path = "/collections/docs/files?filename=a.txt"
    for name, status in (("rita", 403), ("key", 403), ("uma", 202)):
        reply = client.post(path, data=b"one\n\0\n", headers=who[name])
        assert reply.status_code == status, (name, reply.text)
    id_ = reply.json["id"]
    until(lambda: client.get(f"/jobs/{id_}", headers=who["uma"]).json["state"] == "done")
    for name in ("ben", "rita", "key"):
        assert client.get("/jobs", headers=who[name]).json == {"jobs": []}
        for where in (f"/jobs/{id_}", f"/jobs/{id_}/rejects"):
            assert client.get(where, headers=who[name]).status_code == 404
        for where in (f"/jobs/{id_}/preview", f"/jobs/{id_}/start"):
            status = client.post(where, json={}, headers=who[name]).status_code
            assert status == (403 if name == "rita" else 404), (name, where)
        assert client.delete(f"/jobs/{id_}", headers=who[name]).status_code in (403, 404)
    for name in ("uma", "admin"):
        assert b"NUL" in client.get(f"/jobs/{id_}/rejects", headers=who[name]).data
    path = "/collections/other/files?filename=a.txt"
    assert client.post(path, data=b"one\n", headers=who["key"]).status_code == 202


def test_a_new_user_has_nothing_of_a_deleted_one_of_the_name(people) -> None:
    """Neither the files, nor what was rejected of them, nor the place in the queue."""
    client, who = people
    path = "/collections/docs/files?filename=a.txt"
    given = [client.post(f"{path}&start=false", data=b"secret\n", headers=who["uma"]).json["id"]]
    given.append(client.post(path, data=b"one\n\0\n", headers=who["uma"]).json["id"])
    for id_ in given:
        assert client.get(f"/jobs/{id_}", headers=who["uma"]).status_code == 200
    assert client.delete("/users/uma", headers=who["admin"]).status_code == 200
    new = add_user(client, who["admin"], "uma")
    assert client.get("/jobs", headers=new).json == {"jobs": []}
    for id_ in given:
        for where in (f"/jobs/{id_}", f"/jobs/{id_}/rejects"):
            assert client.get(where, headers=new).status_code == 404
        for where in (f"/jobs/{id_}/preview", f"/jobs/{id_}/start"):
            assert client.post(where, json={}, headers=new).status_code == 404
        assert client.delete(f"/jobs/{id_}", headers=new).status_code == 404
        assert client.delete(f"/jobs/{id_}", headers=who["admin"]).status_code == 200
    key = client.post("/users/uma/api-key", headers=new).json["api_key"]
    mine = client.post(path, data=b"two\n", headers={"X-API-Key": key}).json["id"]
    assert client.get(f"/jobs/{mine}", headers=new).status_code == 200, "by key or token alike"


def test_nothing_is_embedded_of_a_collection_that_is_not_there(docs: FlaskClient) -> None:
    reply = docs.post("/collections/none/files?filename=a.txt", data=b"one\n")
    assert reply.status_code == 404 and not list(folder_of(docs).glob("*/"))
