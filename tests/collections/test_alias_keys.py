"""A key for an alias knows the collection by that name alone, whatever it asks."""

import json
from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from factory import create_app
from tests.collections.conftest import MODELS
from tests.collections.test_reembed import ended

SECRET = "a-secret-that-is-long-enough-for-hs256-signing"
OWN, OTHER, MINE = "secret-v3", "another-name", "public"


@pytest.fixture
def app(config_of) -> Iterator[Flask]:
    settings = {"auth_enabled": True, "jwt_secret_key": SECRET, "admin_password": "admin-password"}
    app = create_app(config_of(MODELS, **settings), wait=True)
    yield app
    app.extensions["services"].accounts.close()
    app.extensions["throttle"].close()
    app.extensions["services"].documents.store.close()


@pytest.fixture
def keys(app: Flask) -> tuple[FlaskClient, dict[str, dict[str, str]]]:
    """A client, and headers: of the admin's own key, and of one for the alias."""
    add = app.extensions["services"].accounts.keys.add
    headers = {
        name: {"Authorization": f"Bearer {add('admin', collections=names)[1]}"}
        for name, names in (("admin", None), ("alias", [MINE]))
    }
    client = app.test_client()
    body = {"collection": OWN, "texts": ["a", "b"], "ids": ["a", "b"], "model": "small"}
    assert client.post("/embed-and-store", json=body, headers=headers["admin"]).status_code == 201
    for alias in (MINE, OTHER):
        reply = client.post(f"/collections/{OWN}/aliases", json={"alias": alias},
                            headers=headers["admin"])  # fmt: skip
        assert reply.status_code == 201
    return client, headers


@pytest.mark.fault("Accounts")
def test_a_key_for_an_alias_learns_no_other_name(keys, app: Flask) -> None:
    """A key for an alias lists, describes, fills and re-embeds the collection -> it sees the
    collection under that alias only, and the job that it started.
    """
    client, headers = keys
    mine = headers["alias"]
    asked = [
        ("GET", "/collections", None, 200),
        ("GET", f"/collections/{MINE}", None, 200),
        ("POST", "/collections",
         {"name": MINE, "dimension": 8, "if_exists": "ok", "model": "small"}, 200),
        ("POST", "/collections", {"name": MINE, "dimension": 8}, 409),
        ("POST", "/collections", {"name": MINE, "dimension": 9, "if_exists": "ok"}, 409),
        ("POST", "/embed-and-store", {"collection": MINE, "text": "c", "id": "c"}, 201),
        ("POST", "/embed-and-store", {"collection": MINE, "text": "c", "model": "wide"}, 409),
        ("POST", f"/collections/{MINE}/vectors", {"id": "v", "vector": [1, 2]}, 400),
        ("POST", f"/collections/{MINE}/aliases", {"alias": MINE}, 201),
        ("DELETE", f"/collections/{MINE}", None, 409),
        ("GET", f"/collections/{OWN}", None, 403),
        ("DELETE", f"/collections/{MINE}/aliases/{OTHER}", None, 403),
        ("POST", f"/collections/{MINE}/reembed", {"model": "wide"}, 202),
    ]  # fmt: skip
    for method, path, body, status in asked:
        reply = client.open(path, method=method, json=body, headers=mine)
        assert reply.status_code == status, (path, reply.text)
        if status != 403:  # there it is the caller who names them
            assert OWN not in reply.text and OTHER not in reply.text, (path, reply.text)
    job = reply.json
    jobs = app.extensions["services"].reembedder.jobs
    assert ended(jobs, job["id"]).state == "done"
    for path in ("/jobs", f"/jobs/{job['id']}"):
        reply = client.get(path, headers=mine)
        assert reply.status_code == 200 and OWN not in reply.text
        assert json.dumps(MINE) in reply.text
    known = client.get("/collections", headers=mine).json["collections"]
    assert [(row["name"], row["aliases"], row["count"]) for row in known] == [(MINE, [], 3)]
    reply = client.get(f"/collections/{MINE}", headers=headers["admin"])
    assert (reply.json["name"], reply.json["aliases"]) == (OWN, [OTHER, MINE])


def test_a_key_for_several_names_of_a_collection_sees_it_once(keys, app: Flask) -> None:
    client, _ = keys
    _, text = app.extensions["services"].accounts.keys.add("admin", collections=[MINE, OTHER, "no"])
    known = client.get("/collections", headers={"Authorization": f"Bearer {text}"}).json
    assert [(row["name"], row["aliases"]) for row in known["collections"]] == [(OTHER, [MINE])]


def test_the_jobs_of_others_are_not_stopped(keys) -> None:
    client, headers = keys
    client.post("/collections", json={"name": "theirs", "model": "small"}, headers=headers["admin"])
    job = client.post("/collections/theirs/reembed", json={"model": "wide"},
                      headers=headers["admin"]).json["id"]  # fmt: skip
    assert client.get(f"/jobs/{job}", headers=headers["alias"]).status_code == 404
    assert client.delete(f"/jobs/{job}", headers=headers["alias"]).status_code == 404
    assert client.get(f"/jobs/{job}", headers=headers["admin"]).status_code == 200
