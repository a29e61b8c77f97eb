"""Re-embedding without a server: killed at each step, the store away, a writer in the middle."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from config import Config
from documents.jobs import KEPT, Job, Jobs
from documents.reembed import Reembedder
from engine import EmbedRequest
from errors import Busy, Corrupt, Full, Unavailable
from factory import create_app
from store.base import successor
from tests.collections.conftest import MODELS

CHANGES = {"create", "drop", "swap", "upsert", "put", "replace"}


class Killed(BaseException):
    """Stands for the end of the process."""


class Dying:
    """A store, or its notes, whose user dies instead of making its n-th change."""

    def __init__(self, real: Any, left: list[int]) -> None:
        self._real, self._left = real, left

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if name == "notes":
            return Dying(found, self._left)
        return self._dying(found) if name in CHANGES else found

    def _dying(self, change: Any) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            self._left[0] -= 1
            if self._left[0] < 0:
                raise Killed
            return change(*args, **named)

        return call


@pytest.fixture
def services(app):
    return app.extensions["services"]


def fill(client: FlaskClient, name: str, texts: int = 3) -> None:
    body = {"collection": name, "model": "small", "texts": [f"text {i}" for i in range(texts)],
            "ids": [str(i) for i in range(texts)]}  # fmt: skip
    assert client.post("/embed-and-store", json=body).status_code == 201


def ended(jobs: Jobs, id_: str) -> Job:
    end = time.monotonic() + 60
    while (job := jobs.load(id_)).state == "running":
        assert time.monotonic() < end, job
        time.sleep(0.005)
    return job


def test_a_kill_before_any_change_blocks_nothing(client: FlaskClient, services) -> None:
    store, jobs = services.documents.store, Jobs(services.documents.store)
    for n in range(100):
        fill(client, name := f"c{n}")
        dying = Reembedder(services.engine, Dying(store, [n]))
        dying._run_aside = lambda id_: None
        try:
            dying._run(dying.start(name, "wide").id)
            killed = False
        except Killed:
            killed = True
        Reembedder(services.engine, store).resume()
        states = {ended(jobs, job.id).state for job in jobs.all() if job.collection == name}
        assert states == ({"done"} if n else set())
        assert store.identity(name).dim == (12 if n else 8)
        late = {"collection": name, "text": "late"}
        assert client.post("/embed-and-store", json=late).status_code == 201
        assert store.count(name) == 4
        if not killed:
            break
    assert n > 6
    assert store.names() == sorted(f"c{i}" for i in range(n + 1))


def test_a_re_embedded_collection_keeps_its_declared_fields(client: FlaskClient, services) -> None:
    body = {"name": "notes", "model": "small", "indexed": ["n", "author.name"]}
    assert client.post("/collections", json=body).status_code == 201
    fill(client, "notes")
    job = services.reembedder.start("notes", "wide")
    assert ended(Jobs(services.documents.store), job.id).state == "done"
    info = services.documents.store.info("notes")
    assert (info.dim, info.indexed) == (12, ("n", "author.name"))


@pytest.mark.parametrize("error", [Unavailable, Busy, Full])
def test_a_store_away_for_a_moment_is_waited_for(
    client: FlaskClient, services, monkeypatch: pytest.MonkeyPatch, error: type
) -> None:
    store = services.documents.store
    fill(client, "notes")
    failures = dict.fromkeys(("create", "upsert", "scroll", "swap", "drop"), 2)

    def failing(operation: str, real: Any) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            if failures[operation]:
                failures[operation] -= 1
                raise error("away", retry_after_s=0.01)
            return real(*args, **named)

        return call

    for operation in failures:
        monkeypatch.setattr(store, operation, failing(operation, getattr(store, operation)))
    job = services.reembedder.start("notes", "wide")
    done = ended(Jobs(store), job.id)
    assert (done.state, done.error, done.done) == ("done", None, 3), done
    assert set(failures.values()) == {0}
    assert store.identity("notes").dim == 12


def test_damage_ends_a_job_and_lets_writes_go_on(
    client: FlaskClient, services, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = services.documents.store
    fill(client, "notes")

    def scroll(*args: Any, **named: Any) -> Any:
        raise Corrupt("byte 7 is damaged")

    with monkeypatch.context() as patched:
        patched.setattr(store, "scroll", scroll)
        job = ended(Jobs(store), services.reembedder.start("notes", "wide").id)
    assert (job.state, job.error) == ("failed", "byte 7 is damaged")
    assert store.names() == ["notes"]
    fill(client, "notes", 4)


class Held:
    """An engine whose pass over certain texts waits until it is let go."""

    def __init__(self, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real, self.gates = engine.embed, dict[str, threading.Event]()
        self.met = dict[str, threading.Event]()
        monkeypatch.setattr(engine, "embed", self._embed)

    def hold(self, text: str, model: str | None = None) -> None:
        key = f"{model or ''}:{text}"
        self.gates[key], self.met[key] = threading.Event(), threading.Event()

    def _embed(self, request: EmbedRequest) -> Any:
        keys = (f":{request.inputs[0]}", f"{request.model}:{request.inputs[0]}")
        for key in keys:
            if key in self.gates and not self.gates[key].is_set():
                self.met[key].set()
                assert self.gates[key].wait(60)
        return self._real(request)


class Writer(threading.Thread):
    """Replaces record 1 of the notes by a text, and keeps the answer."""

    def __init__(self, app: Any, text: str) -> None:
        super().__init__()
        self._app, self._text, self.reply = app, text, None
        self.start()

    def run(self) -> None:
        body = {"collection": "notes", "text": self._text, "id": "1"}
        self.reply = self._app.test_client().post("/embed-and-store", json=body)


@pytest.mark.parametrize("model", ["wide", "other"])
def test_an_update_embedded_over_a_whole_re_embedding_gets_the_new_vectors(
    client: FlaskClient, app, services, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    fill(client, "notes")
    held = Held(services.engine, monkeypatch)
    held.hold("late")
    writer = Writer(app, "late")
    assert held.met[":late"].wait(60)
    store = services.documents.store
    job = ended(Jobs(store), services.reembedder.start("notes", model).id)
    assert job.state == "done", job
    held.gates[":late"].set()
    writer.join()
    assert writer.reply.status_code == 201, writer.reply.text
    [record] = store.get("notes", ["1"])
    assert record.text == "late"
    wanted = services.engine.embed(EmbedRequest(["late"], model)).vectors[0]
    np.testing.assert_allclose(record.vector, wanted, rtol=1e-6)


def test_an_update_that_ends_within_a_re_embedding_is_refused_and_not_half_there(
    client: FlaskClient, app, services, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(client, "notes")
    held = Held(services.engine, monkeypatch)
    held.hold("late")
    held.hold("text 0", "other")  # the re-embedding's first text
    writer = Writer(app, "late")
    assert held.met[":late"].wait(60)
    job = services.reembedder.start("notes", "other")
    assert held.met["other:text 0"].wait(60)
    held.gates[":late"].set()
    writer.join()
    assert writer.reply.status_code == 409 and "re-embedded" in writer.reply.json["error"]
    assert int(writer.reply.headers["Retry-After"]) > 0
    gone = client.post("/collections/notes/vectors/delete", json={"ids": ["2"]})
    assert gone.status_code == 409
    held.gates["other:text 0"].set()
    store = services.documents.store
    assert ended(Jobs(store), job.id).state == "done"
    assert [record.text for record in store.get("notes", ["1", "2"])] == ["text 1", "text 2"]


def test_a_job_whose_collection_was_made_anew_has_failed(client: FlaskClient, services) -> None:
    store = services.documents.store
    fill(client, "notes")
    services.reembedder._run_aside = lambda id_: None
    job = services.reembedder.start("notes", "wide")
    assert client.delete("/collections/notes").status_code == 200
    fill(client, "notes")
    services.reembedder._run(job.id)
    failed = Jobs(store).load(job.id)
    assert failed.state == "failed" and "dropped or replaced" in failed.error
    assert store.identity("notes").dim == 8
    assert store.names() == ["notes"]


def test_one_job_a_collection(client: FlaskClient, services) -> None:
    fill(client, "notes")
    services.reembedder._run_aside = lambda id_: None
    assert client.post("/collections/notes/reembed", json={"model": "wide"}).status_code == 202
    again = client.post("/collections/notes/reembed", json={"model": "other"})
    assert again.status_code == 409 and "GET /jobs" in again.json["error"]
    assert len(client.get("/jobs").json["jobs"]) == 1


def test_vectors_that_no_job_makes_are_taken_away_at_the_start(
    client: FlaskClient, services
) -> None:
    store = services.documents.store
    for name in ("notes", "others"):
        fill(client, name)
        store.create(successor(store.identity(name).uuid), 5)
    services.reembedder._run_aside = lambda id_: None
    services.reembedder.start("others", "wide")
    fresh = Reembedder(services.engine, store)
    fresh._run_aside = lambda id_: None
    fresh._resume()
    kept = successor(store.identity("others").uuid)
    assert store.names() == ["notes", "others", kept]
    fill(client, "notes", 4)


def test_jobs_that_ended_are_forgotten_after_so_many(services) -> None:
    jobs = Jobs(services.documents.store)
    jobs.save(Job(f"{999:032x}", "c", "u", "m", created=0.5))  # the oldest, and it runs
    for i in range(KEPT + 3):
        jobs.save(Job(f"{i:032x}", "c", "u", "m", "done", created=1.0 + i))
    found = jobs.all()
    assert len(found) == KEPT + 1 and found[-1].state == "running"
    assert found[0].created == KEPT + 3.0 and found[-2].created == 4.0


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/collections", {"name": "reembed.x", "dimension": 4}),
        ("POST", "/embed-and-store", {"collection": "reembed.x", "text": "a"}),
        ("POST", "/collections/notes/aliases", {"alias": "reembed.x"}),
    ],
)
def test_a_name_that_is_kept_for_re_embedding_is_refused(
    client: FlaskClient, services, method: str, path: str, body: dict
) -> None:
    fill(client, "notes")
    reply = client.open(path, method=method, json=body)
    assert reply.status_code == 422 and "'reembed.'" in reply.json["error"], reply.text
    assert services.documents.store.names() == ["notes"]
    assert client.get("/collections/notes").json["aliases"] == []


def test_a_key_for_some_collections_sees_their_jobs_only(
    config_of: Callable[..., Config],
) -> None:
    given = {"auth_enabled": True, "jwt_secret_key": "s" * 40, "admin_password": "a-password-1"}
    app = create_app(config_of(MODELS, **given), wait=True)
    client, sign_in = app.test_client(), {"username": "admin", "password": "a-password-1"}
    token = client.post("/token", json=sign_in).json["access_token"]
    admin = {"Authorization": f"Bearer {token}"}
    ids = {}
    for name in ("mine", "other"):
        body = {"collection": name, "model": "small", "text": "a"}
        assert client.post("/embed-and-store", json=body, headers=admin).status_code == 201
        reply = client.post(f"/collections/{name}/reembed", json={"model": "wide"}, headers=admin)
        ids[name] = reply.json["id"]
    scope = {"collections": ["mine"]}
    made = client.post("/users/admin/api-key", json=scope, headers=admin).json["api_key"]
    key = {"Authorization": f"Bearer {made}"}
    assert [job["id"] for job in client.get("/jobs", headers=key).json["jobs"]] == [ids["mine"]]
    assert client.get(f"/jobs/{ids['mine']}", headers=key).status_code == 200
    hidden = client.get(f"/jobs/{ids['other']}", headers=key)
    none = client.get(f"/jobs/{'0' * 32}", headers=key)
    assert hidden.status_code == none.status_code == 404
    assert hidden.json["error"] == none.json["error"].replace("0" * 32, ids["other"])
    assert len(client.get("/jobs", headers=admin).json["jobs"]) == 2
    for id_ in ids.values():
        ended(Jobs(app.extensions["services"].documents.store), id_)
    app.extensions["services"].accounts.close()
    app.extensions["services"].documents.store.close()
