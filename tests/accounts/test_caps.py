"""How many keys and users there may be, and how they may be called."""

import threading
from collections.abc import Callable

import pytest
from flask import Flask
from flask.testing import FlaskClient

from accounts import api_keys, users
from config.access import is_username
from errors import Conflict, Invalid, NotFound
from tests.accounts.conftest import accounts_of, bearer


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow a few only: what many would do a few do sooner."""
    monkeypatch.setattr(api_keys, "KEYS_MOST", 5)
    monkeypatch.setattr(users, "USERS_MOST", 4)


@pytest.mark.fault("Hostile clients")
def test_a_user_has_no_more_keys_than_are_allowed(client: FlaskClient, admin: dict) -> None:
    """A user creates keys without end -> 409 at 100 valid ones; 100 revoked or expired ones stay
    listed.
    """
    path = "/users/admin/api-key"
    made = [client.post(path, headers=admin) for _ in range(8)]
    assert [reply.status_code for reply in made] == [201] * 5 + [409] * 3
    assert "revoke" in made[-1].json["error"] and "5 active keys" in made[-1].json["error"]
    first = made[0].json["id"]
    rotate = f"/users/admin/api-keys/{first}/rotate"
    assert client.post(rotate, json={"overlap_s": 60}, headers=admin).status_code == 201
    assert client.get("/models", headers=bearer(made[0].json["api_key"])).status_code == 200
    other = f"/users/admin/api-keys/{made[1].json['id']}/rotate"
    for path_ in (rotate, other, path):  # one more than the cap lives, for the overlap
        assert client.post(path_, json={}, headers=admin).status_code == 409
    assert client.delete(f"/users/admin/api-keys/{first}", headers=admin).status_code == 200
    assert client.post(other, json={"overlap_s": 0}, headers=admin).status_code == 201
    assert client.post(path, headers=admin).status_code == 409
    for _ in range(12):
        listed = client.get("/users/admin/api-keys", headers=admin).json["api_keys"]
        assert len(listed) <= 10, "the dead are forgotten"
        alive = next(key["id"] for key in reversed(listed) if not key["revoked"])
        assert client.delete(f"/users/admin/api-keys/{alive}", headers=admin).status_code == 200
        assert client.post(path, headers=admin).status_code == 201


def test_keys_made_at_once_are_counted_too(make_app: Callable, database_url: str) -> None:
    keys, statuses = accounts_of(make_app(db_url=database_url)).keys, []

    def make() -> None:
        try:
            keys.add("admin")
            statuses.append(201)
        except Conflict:
            statuses.append(409)

    threads = [threading.Thread(target=make) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [201] * 5 + [409] * 7


def test_an_expired_key_makes_room(app: Flask) -> None:
    keys = accounts_of(app).keys
    for _ in range(5):
        keys.add("admin", expires=1.0)
    keys.add("admin")
    with pytest.raises(NotFound):
        keys.rotate("admin", "nosuchid", 0)


def test_there_are_no_more_users_than_are_allowed(client: FlaskClient, admin: dict) -> None:
    def add(name: str) -> int:
        body = {"username": name, "password": "a-password-1"}
        return client.post("/users", json=body, headers=admin).status_code

    assert [add(name) for name in "abcd"] == [201, 201, 201, 409]
    assert client.delete("/users/a", headers=admin).status_code == 200
    assert add("e") == 201


@pytest.mark.parametrize("label", ["a\x00b", "two\nlines", "\x1b[31m", "\u202eevil", "\x7f"])
def test_a_label_that_cannot_be_printed_is_refused(app: Flask, label: str) -> None:
    with pytest.raises(Invalid):
        accounts_of(app).keys.add("admin", label)
    accounts_of(app).keys.add("admin", "laptop of Zoë (2)")


@pytest.mark.fault("Accounts")
@pytest.mark.parametrize("name", [".", ".."])
def test_a_name_that_a_path_means_otherwise_is_refused(
    client: FlaskClient, admin: dict, name: str
) -> None:
    """A user named `.` or `..`, which no client could put into a path -> 422."""
    body = {"username": name, "password": "a-password-1"}
    assert client.post("/users", json=body, headers=admin).status_code == 422
    assert all(map(is_username, ("...", "..a", ".a", "a.", "%2e%2e")))
