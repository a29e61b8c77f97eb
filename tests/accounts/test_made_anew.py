"""A user who is deleted and made anew by the same name shares nothing with the old one."""

from collections.abc import Callable

import pytest
from flask.testing import FlaskClient

from accounts import passwords
from accounts.users import User
from errors import Conflict, NotFound
from tests.accounts.conftest import ADMIN, accounts_of, add_user, bearer, token_of


def remake(client: FlaskClient, admin: dict, name: str, role: str = "user") -> None:
    """Delete a user and make another by the same name, with another password."""
    assert client.delete(f"/users/{name}", headers=admin).status_code == 200
    body = {"username": name, "password": "another-password-1", "role": role}
    assert client.post("/users", json=body, headers=admin).status_code == 201


def status(client: FlaskClient, who: dict[str, str]) -> int:
    """The status of a request that any known caller may make."""
    return client.get("/models", headers=who).status_code


@pytest.mark.fault("Accounts")
def test_a_deleted_users_token_stays_dead(client: FlaskClient, admin: dict) -> None:
    """A user is deleted and created again under the same name -> every old token and key stays
    invalid.
    """
    bob = add_user(client, admin, "bob", "admin")
    key = bearer(client.post("/users/bob/api-key", headers=admin).json["api_key"])
    rotated = client.post("/users/bob/api-key", headers=admin).json
    path = f"/users/bob/api-keys/{rotated['id']}/rotate"
    overlapping = bearer(client.post(path, headers=admin).json["api_key"])
    change = {"password": "bob-password-2"}
    assert client.post("/users/bob/password", json=change, headers=admin).status_code == 200
    later = bearer(token_of(client, "bob", "bob-password-2"))
    for _ in range(3):
        remake(client, admin, "bob", "admin")
        for old in (bob, later, key, overlapping, bearer(rotated["api_key"])):
            assert status(client, old) == 401
    assert status(client, bearer(token_of(client, "bob", "another-password-1"))) == 200
    assert client.get("/users/bob/api-keys", headers=admin).json["api_keys"] == []


def test_a_new_password_and_a_new_role_end_every_token(client: FlaskClient, admin: dict) -> None:
    for change in ({"password": "bob-password-2"}, {"role": "reader"}, {"role": "user"}):
        bob = add_user(client, admin, "bob")
        assert client.post("/users/bob/password", json=change, headers=admin).status_code == 200
        assert status(client, bob) == 401
        assert client.delete("/users/bob", headers=admin).status_code == 200


def test_what_another_worker_has_ended_makes_no_key_and_no_user_here(
    make_app: Callable, database_url: str
) -> None:
    """Within the two seconds in which a worker may still know an old caller, nothing that lasts."""
    here, there = (make_app(db_url=database_url).test_client() for _ in range(2))
    admin = bearer(token_of(there, *ADMIN))
    bob = add_user(there, admin, "bob", "admin")
    key = bearer(there.post("/users/bob/api-key", headers=admin).json["api_key"])
    assert status(here, bob) == status(here, key) == 200, "now it is remembered here"
    remake(there, admin, "bob", "admin")
    user = {"username": "eve", "password": "eve-password-1", "role": "admin"}
    for old in (bob, key):
        assert here.post("/users/bob/api-key", headers=old).status_code == 401
        assert here.post("/users", json=user, headers=old).status_code == 401
        body = {"password": "bobs-new-password"}
        assert here.post("/users/bob/password", json=body, headers=old).status_code == 401
    assert there.get("/users/bob/api-keys", headers=admin).json["api_keys"] == []


def test_a_key_for_a_user_who_is_gone_elsewhere_is_not_found(
    make_app: Callable, database_url: str
) -> None:
    here, there = (make_app(db_url=database_url) for _ in range(2))
    accounts_of(here).users.add("bob", "bob-password-1", "user")
    made, _ = accounts_of(here).keys.add("bob")
    assert accounts_of(here).users.get("bob") is not None
    accounts_of(there).users.remove("bob")
    assert accounts_of(here).users.get("bob") is not None, "it is remembered"
    with pytest.raises(NotFound):
        accounts_of(here).keys.add("bob")
    with pytest.raises(NotFound):
        accounts_of(here).keys.rotate("bob", made.id, 0)


def test_a_sign_in_under_way_writes_no_old_password_to_the_new_user(
    make_app: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hash of old settings is made anew at a sign-in; the user may change while it is made."""
    users = accounts_of(make_app()).users
    users.add("bob", "the-first-password", "user")
    monkeypatch.setattr(passwords, "outdated", lambda hashed: True)
    hash_password = passwords.hash_password

    def meanwhile(password: str) -> str:
        monkeypatch.setattr(passwords, "hash_password", hash_password)
        users.remove("bob")
        users.add("bob", "the-second-password", "user")
        return hash_password(password)

    monkeypatch.setattr(passwords, "hash_password", meanwhile)
    assert users.login("bob", "the-first-password") is not None
    assert users.login("bob", "the-first-password") is None
    assert users.login("bob", "the-second-password") is not None


def test_a_password_is_changed_only_for_whom_it_was_asked(make_app: Callable) -> None:
    users = accounts_of(make_app()).users
    known: User = users.add("bob", "the-first-password", "user")
    users.remove("bob")
    users.add("bob", "the-second-password", "user")
    with pytest.raises(Conflict):
        users.change("bob", "a-password-of-the-old-bob", None, known)
    assert users.login("bob", "the-second-password") is not None


def test_no_two_users_begin_at_one_version_and_each_has_room_to_rise(make_app: Callable) -> None:
    users = accounts_of(make_app()).users
    versions = {users.add(f"u{i}", "a-password-1", "user").token_version for i in range(5)}
    assert len(versions) == 5 and min(versions) > 0 and max(versions) <= 2**30
