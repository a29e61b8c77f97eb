"""Users, keys and tokens on each database, and what attackers send."""

import base64
import hmac
import json
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jwt
import pytest
from flask import Flask
from flask.testing import FlaskClient

from accounts import FIXED_KEY, passwords
from accounts.login_throttle import LoginThrottle
from accounts.tokens import ALGORITHM, ISSUER, LONGEST_TOKEN, AccessTokens
from config import ConfigError, load_config
from errors import Busy, Conflict, RateLimited, Unauthorized
from routes.table import SMALL
from tests.accounts.conftest import ADMIN, SECRET, accounts_of, add_user, bearer, token_of


@pytest.fixture(autouse=True)
def first_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every user begin at version 1, so that a forged token is refused for what is forged."""
    monkeypatch.setattr("accounts.users.FIRST_VERSIONS", 1)


@pytest.fixture
def anywhere(make_app: Callable[..., Flask], database_url: str) -> FlaskClient:
    """A client of an application on each kind of database."""
    return make_app(db_url=database_url).test_client()


def test_it_works_from_signing_in_to_a_key(anywhere: FlaskClient) -> None:
    admin = bearer(token_of(anywhere, *ADMIN))
    add_user(anywhere, admin, "uma")
    made = anywhere.post("/users/uma/api-key", json={"label": "laptop"}, headers=admin)
    assert made.status_code == 201
    assert made.headers["Cache-Control"] == "no-store"
    key = made.json["api_key"]
    assert key.startswith("emb_")
    for headers in (bearer(key), {"X-API-Key": key}):
        assert anywhere.post("/embed", json={"text": "x"}, headers=headers).status_code == 200
        assert anywhere.get("/users/me", headers=headers).json["username"] == "uma"
    listed = anywhere.get("/users/uma/api-keys", headers=admin)
    assert key not in listed.text and key.rpartition("_")[2] not in listed.text
    assert [user["username"] for user in anywhere.get("/users", headers=admin).json["users"]] == [
        "admin", "uma",
    ]  # fmt: skip


def test_the_last_use_of_a_key_is_listed(anywhere: FlaskClient) -> None:
    admin = bearer(token_of(anywhere, *ADMIN))
    key = bearer(anywhere.post("/users/admin/api-key", headers=admin).json["api_key"])
    assert anywhere.get("/models", headers=key).status_code == 200
    end = time.monotonic() + 90  # it is written beside the requests
    while not anywhere.get("/users/admin/api-keys", headers=admin).json["api_keys"][0]["last_used"]:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_blank_makes_no_other_name_of_one_that_is_there(anywhere: FlaskClient) -> None:
    """MySQL and MariaDB overlook blanks at the end when they compare."""
    admin = bearer(token_of(anywhere, *ADMIN))
    assert anywhere.delete("/users/admin%20", headers=admin).status_code == 404
    lower = {"role": "user"}
    assert anywhere.post("/users/admin%20/password", json=lower, headers=admin).status_code == 404
    assert anywhere.post("/users/admin%20/api-key", headers=admin).status_code == 404
    assert anywhere.get("/users/admin%20/api-keys", headers=admin).status_code == 404
    login = {"username": "admin ", "password": ADMIN[1]}
    assert anywhere.post("/token", json=login).status_code == 401
    assert [u["username"] for u in anywhere.get("/users", headers=admin).json["users"]] == ["admin"]


def test_a_name_with_a_nul_is_a_wrong_name_and_no_fault_of_the_database(
    anywhere: FlaskClient,
) -> None:
    login = {"username": "a\x00b", "password": "a-password"}
    assert anywhere.post("/token", json=login).status_code == 401
    assert anywhere.get("/models", headers=bearer("emb_aaaaaaaa_x")).status_code == 401


def test_names_differ_by_case_and_exist_once(anywhere: FlaskClient) -> None:
    admin = bearer(token_of(anywhere, *ADMIN))
    add_user(anywhere, admin, "Admin")
    again = {"username": "Admin", "password": "password-2"}
    assert anywhere.post("/users", json=again, headers=admin).status_code == 409


@pytest.mark.fault("Accounts")
def test_a_key_is_rotated_with_overlap_expired_and_revoked(anywhere: FlaskClient) -> None:
    """A key is revoked or expired -> 401 at once."""
    admin = bearer(token_of(anywhere, *ADMIN))
    add_user(anywhere, admin, "uma")
    first = anywhere.post("/users/uma/api-key", headers=admin).json
    path = f"/users/uma/api-keys/{first['id']}"
    second = anywhere.post(f"{path}/rotate", json={"overlap_s": 3600}, headers=admin).json

    def works(key: str) -> bool:
        return anywhere.get("/models", headers=bearer(key)).status_code == 200

    assert works(first["api_key"]) and works(second["api_key"])
    third = anywhere.post(
        f"/users/uma/api-keys/{second['id']}/rotate", json={"overlap_s": 0}, headers=admin
    ).json
    assert not works(second["api_key"])
    assert works(third["api_key"])
    assert anywhere.delete(path, headers=admin).status_code == 200
    assert not works(first["api_key"])
    assert anywhere.delete("/users/uma/api-keys/none", headers=admin).status_code == 404


def test_a_deleted_user_and_a_new_password_end_tokens_at_once(anywhere: FlaskClient) -> None:
    admin = bearer(token_of(anywhere, *ADMIN))
    uma = add_user(anywhere, admin, "uma")
    change = {"password": "uma-password-2", "current_password": "uma-password-1"}
    assert anywhere.post("/users/uma/password", json=change, headers=uma).status_code == 200
    assert anywhere.get("/models", headers=uma).status_code == 401
    uma = bearer(token_of(anywhere, "uma", "uma-password-2"))
    assert anywhere.delete("/users/uma", headers=admin).status_code == 200
    assert anywhere.get("/models", headers=uma).status_code == 401


def test_what_is_read_while_a_key_is_revoked_is_not_remembered(app: Flask) -> None:
    """Else the worker that revokes it would let it in for two seconds more."""
    accounts = accounts_of(app)
    accounts.users.add("uma", "uma-password-1", "user")
    key, text = accounts.keys.add("uma")
    read = accounts._rows.read

    def overtaken(work: Callable) -> object:
        row = read(work)
        if getattr(row, "id", None) == key.id and not row.revoked:
            accounts._rows.read = read  # type: ignore[method-assign]
            accounts.keys.revoke("uma", key.id)
        return row

    accounts._rows.read = overtaken  # type: ignore[method-assign]
    assert accounts.keys.find(text) is not None  # read before it was revoked
    assert accounts.keys.find(text) is None


def test_the_last_admin_stays(anywhere: FlaskClient) -> None:
    admin = bearer(token_of(anywhere, *ADMIN))
    assert anywhere.delete("/users/admin", headers=admin).status_code == 409
    lower = {"role": "user"}
    assert anywhere.post("/users/admin/password", json=lower, headers=admin).status_code == 409


@pytest.mark.parametrize("late_s", [0.0, 0.5])
def test_tables_are_made_once_by_many_at_the_same_time(database_url: str, late_s: float) -> None:
    """Where commits take a while, as on a slow disk, none may begin before the last one ended."""
    import threading
    import time

    from sqlalchemy import event

    from sql.database import Database

    problems: list[Exception] = []
    start = threading.Barrier(4)

    def work() -> None:
        database = Database(database_url)
        event.listen(database.engine, "commit", lambda connection: time.sleep(late_s))
        start.wait()
        try:
            database.make_tables()
        except Exception as exc:
            problems.append(exc)
        database.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_tables_are_finished_after_a_crash_half_way(database_url: str) -> None:
    import sqlalchemy as sa

    from sql.database import Database

    database = Database(database_url)
    database.make_tables()
    # as a database without transactions for tables is left: some made, the step not noted
    database.write(lambda c: [c.execute(sa.text(f"DROP TABLE {t}")) for t in ("api_keys", "users")])
    database.write(lambda c: c.execute(sa.text("DELETE FROM alembic_version")))
    database.close()
    database = Database(database_url)
    names = database.read(lambda c: sa.inspect(c).get_table_names())
    assert {"api_keys", "users", "settings", "settings_history"} <= set(names)
    database.close()


# -- scopes and roles ------------------------------------------------------------------------------


def test_users_manage_their_own_keys_and_nobody_elses(client: FlaskClient, admin: dict) -> None:
    uma, rob = add_user(client, admin, "uma"), add_user(client, admin, "rob")
    assert client.post("/users/uma/api-key", headers=uma).status_code == 201
    assert client.post("/users/uma/api-key", headers=rob).status_code == 403
    assert client.get("/users/uma/api-keys", headers=rob).status_code == 403
    role = {"role": "admin"}
    assert client.post("/users/uma/password", json=role, headers=uma).status_code == 403
    wrong = {"password": "new-password-1", "current_password": "wrong"}
    assert client.post("/users/uma/password", json=wrong, headers=uma).status_code == 401


def test_a_key_may_be_weaker_than_its_owner_never_stronger(
    client: FlaskClient, admin: dict
) -> None:
    add_user(client, admin, "rita", "reader")
    for owner, role in (("admin", "reader"), ("rita", "admin")):
        body = {"role": role}
        key = client.post(f"/users/{owner}/api-key", json=body, headers=admin).json["api_key"]
        assert client.get("/users/me", headers=bearer(key)).json["role"] == "reader"
        made = {"name": "c", "dimension": 3}
        assert client.post("/collections", json=made, headers=bearer(key)).status_code == 403


@pytest.mark.fault("Accounts")
def test_a_scoped_key_sees_its_collections_only(client: FlaskClient, admin: dict) -> None:
    """A key for some collections is used on another -> 403."""
    for name in ("mine", "other"):
        body = {"name": name, "dimension": 8}
        assert client.post("/collections", json=body, headers=admin).status_code == 201
    scope = {"collections": ["mine"]}
    key = bearer(client.post("/users/admin/api-key", json=scope, headers=admin).json["api_key"])
    names = [c["name"] for c in client.get("/collections", headers=key).json["collections"]]
    assert names == ["mine"]
    stored = {"collection": "mine", "text": "x"}
    assert client.post("/embed-and-store", json=stored, headers=key).status_code == 201
    for method, path, body in [
        ("GET", "/collections/other", None),
        ("POST", "/collections/other/search", {"text": "x"}),
        ("POST", "/embed-and-store", {"collection": "other", "text": "x"}),
        ("POST", "/collections", {"name": "new", "dimension": 3}),
        ("POST", "/collections/mine/aliases", {"alias": "other2"}),
        ("POST", "/users/admin/api-key", {}),
    ]:
        reply = client.open(path, method=method, json=body, headers=key)
        assert reply.status_code == 403, path


LIMITED = {
    "capped": {"role": "reader"},
    "capped at what its owner is, who may become more": {"role": "user"},
    "scoped": {"collections": ["mine"]},
    "expiring": {"expires_in_days": 1},
}


@pytest.mark.fault("Accounts")
@pytest.mark.parametrize("kind", LIMITED)
@pytest.mark.parametrize("owner", ["admin", "uma"])
def test_a_limited_key_makes_nothing_stronger_than_itself(
    client: FlaskClient, admin: dict, kind: str, owner: str
) -> None:
    """A limited key tries to create a stronger one -> 403."""
    uma = add_user(client, admin, "uma")
    path = f"/users/{owner}"
    made = client.post(f"{path}/api-key", json=LIMITED[kind], headers=admin).json
    free = client.post(f"{path}/api-key", headers=admin).json
    key = bearer(made["api_key"])
    assert client.post("/embed", json={"text": "x"}, headers=key).status_code == 200
    user = {"username": "eve", "password": "eve-password-1", "role": "admin"}
    password = {"password": "uma-password-2", "current_password": "uma-password-1"}
    for method, where, body in [
        ("POST", f"{path}/api-key", None),
        ("POST", f"{path}/api-key", {"expires_in_days": 9999}),
        ("POST", f"{path}/api-keys/{made['id']}/rotate", {}),
        ("POST", f"{path}/api-keys/{free['id']}/rotate", {}),
        ("DELETE", f"{path}/api-keys/{free['id']}", None),
        ("GET", f"{path}/api-keys", None),
        ("POST", f"{path}/password", password),
        ("POST", "/users", user),
        ("POST", "/settings", {"key": "max_texts", "value": 9}),
        ("POST", "/providers/openai/api-key", {"api_key": "sk-x"}),
    ]:
        reply = client.open(where, method=method, json=body, headers=key)
        assert reply.status_code == 403, (method, where, reply.text)
    refused = client.post(f"{path}/api-key", headers=key).json["error"]
    assert "sign in with the password" in refused and "unlimited key" in refused
    assert len(client.get(f"{path}/api-keys", headers=admin).json["api_keys"]) == 2
    assert client.get("/models", headers=uma).status_code == 200, "the password is as it was"


def test_an_unlimited_key_does_what_its_owner_does(client: FlaskClient, admin: dict) -> None:
    """The control: it is the limits that are refused above."""
    for body in ({}, {"role": "admin"}):
        made = client.post("/users/admin/api-key", json=body, headers=admin).json
        key = bearer(made["api_key"])
        assert client.get("/settings", headers=key).status_code == 200
        assert client.post("/users/admin/api-key", headers=key).status_code == 201
        path = f"/users/admin/api-keys/{made['id']}/rotate"
        assert client.post(path, headers=key).status_code == 201


def test_a_key_for_no_collection_is_refused(client: FlaskClient, admin: dict) -> None:
    reply = client.post("/users/admin/api-key", json={"collections": []}, headers=admin)
    assert reply.status_code == 422 and reply.json["param"] == "collections"
    assert "leave 'collections' out" in reply.json["error"]
    assert client.get("/users/admin/api-keys", headers=admin).json["api_keys"] == []


def test_a_user_called_like_an_address_is_not_whoever_calls_from_there(
    make_app: Callable[..., Flask],
) -> None:
    app = make_app(auth_enabled=False)
    accounts_of(app).users.add("203.0.113.7", "a-password-1", "admin")
    far = {"REMOTE_ADDR": "203.0.113.7"}
    reply = app.test_client().post("/users/203.0.113.7/api-key", environ_overrides=far)
    assert reply.status_code == 403


def test_nobody_can_be_called_like_the_fixed_key(client: FlaskClient, admin: dict) -> None:
    body = {"username": FIXED_KEY, "password": "a-password-1"}
    assert client.post("/users", json=body, headers=admin).status_code == 422


def test_the_fixed_key_of_the_environment_is_a_user(make_app: Callable[..., Flask]) -> None:
    client = make_app(api_key_secret="fixed-key-fixed-key").test_client()
    assert client.get("/models", headers=bearer("fixed-key-fixed-key")).status_code == 200
    assert client.get("/settings", headers=bearer("fixed-key-fixed-key")).status_code == 403
    assert client.get("/models", headers=bearer("fixed-key-fixed-keY")).status_code == 401


def test_the_fixed_key_alone_is_enough_where_nobody_signs_in(
    make_app: Callable[..., Flask],
) -> None:
    app = make_app(jwt_secret_key=None, admin_password=None, api_key_secret="fixed-key-fixed-key")
    client = app.test_client()
    assert client.get("/models", headers=bearer("fixed-key-fixed-key")).status_code == 200
    assert client.get("/models").status_code == 401
    reply = client.post("/token", json={"username": "admin", "password": "x"})
    assert reply.status_code == 409 and "JWT_SECRET_KEY" in reply.json["error"]


@pytest.mark.fault("Process and machine")
def test_a_clock_that_is_a_little_wrong_signs_nobody_out(client: FlaskClient) -> None:
    """The clock is up to 5 s wrong -> tokens stay valid."""
    soon = int(time.time()) + 3
    early = forged({"iat": soon, "nbf": soon})
    assert client.get("/models", headers=bearer(early)).status_code == 200


# -- tokens ----------------------------------------------------------------------------------------


def forged(changes: dict, header: dict | None = None, key: str = SECRET, alg: str = ALGORITHM):
    now = int(time.time())
    claims = {"sub": "admin", "ver": 1, "iat": now, "nbf": now, "exp": now + 600, "jti": "1",
              "iss": ISSUER, "aud": ISSUER, **changes}  # fmt: skip
    claims = {name: value for name, value in claims.items() if value is not None}
    kid = jwt.get_unverified_header(AccessTokens([SECRET], 3600).issue("x", 1))["kid"]
    return jwt.encode(claims, key, alg, headers={"kid": kid, **(header or {})})


def part(content: bytes) -> str:
    """Write a part of a token."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def unsigned() -> str:
    header, claims = {"alg": "none", "kid": "x"}, {"sub": "admin", "ver": 1}
    return f"{part(json.dumps(header).encode())}.{part(json.dumps(claims).encode())}."


def signed(payload: bytes) -> str:
    """Sign any bytes as a token's content, under our secret."""
    header = json.dumps(jwt.get_unverified_header(forged({}))).encode()
    message = f"{part(header)}.{part(payload)}"
    return f"{message}.{part(hmac.digest(SECRET.encode(), message.encode(), 'sha256'))}"


DEEP = b'{"a":' + b"[" * 2600


HOSTILE = {
    "alg none": unsigned,
    "another algorithm": lambda: forged({}, alg="HS512", key=SECRET * 2),
    "another secret": lambda: forged({}, key="x" * 48),
    "an unknown kid": lambda: forged({}, {"kid": "ffffffff"}),
    "a kid that is a path": lambda: forged({}, {"kid": "../../dev/null"}),
    "expired": lambda: forged({"exp": 1}),
    "not yet valid": lambda: forged({"nbf": int(time.time()) + 900}),
    "no expiry": lambda: forged({"exp": None}),
    "an expiry written as text": lambda: forged({"exp": "9999999999"}),
    "an expiry in the far future": lambda: forged({"exp": 10**30}),
    "a lifetime longer than ours": lambda: forged({"exp": int(time.time()) + 10**7}),
    "a number for a subject": lambda: forged({"sub": 5}),
    "another audience": lambda: forged({"aud": "elsewhere"}),
    "an old version": lambda: forged({"ver": 0}),
    "a version that is no number": lambda: forged({"ver": "1"}),
    "an unknown user": lambda: forged({"sub": "nobody"}),
    "huge": lambda: "a" * 200_000,
    "a deep header": lambda: f"{part(DEEP)}.{part(b'{}')}.{part(b'x' * 32)}",
    "deep content": lambda: signed(DEEP),
    "content that is no UTF-8": lambda: signed(b'{"sub": "\xff"}'),
    "content that is no object": lambda: signed(b"[1]"),
    "half a surrogate pair for a subject": lambda: forged({"sub": "\udcff"}),
    "half a surrogate pair for a kid": lambda: forged({}, {"kid": "\udcff"}),
    "dots": lambda: "...",
    "a strange key": lambda: "emb__",
    "a key of nobody": lambda: "emb_aaaaaaaa_secret",
    "non-ASCII": lambda: "ключ",
    "a key that is not ASCII": lambda: "emb_ключ_ключ",
}


@pytest.mark.fault("Accounts")
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_credential_is_refused_like_any_other(client: FlaskClient, kind: str) -> None:
    """A token that is forged, expired, huge, not ASCII or not a token -> 401, the same for all."""
    value = HOSTILE[kind]().encode("utf-8").decode("latin1")
    for headers in ({"Authorization": f"Bearer {value}"}, {"X-API-Key": value}):
        reply = client.get("/models", headers=headers)
        assert reply.status_code == 401, headers
        assert reply.headers["WWW-Authenticate"] == "Bearer"
        assert reply.json["error"] == "this key or token is unknown, expired or revoked"


def test_what_is_deep_is_read_as_json() -> None:
    """The control: no check before that refuses it."""
    assert len(HOSTILE["deep content"]()) < LONGEST_TOKEN
    with pytest.raises(jwt.DecodeError, match="recursion"):
        jwt.get_unverified_header(HOSTILE["a deep header"]())
    with pytest.raises(RecursionError):
        json.loads(DEEP)


def test_what_is_signed_here_is_let_in(client: FlaskClient) -> None:
    """The control: the signatures made here are good ones."""
    content = jwt.decode(forged({}), options={"verify_signature": False})
    token = signed(json.dumps(content).encode())
    assert client.get("/models", headers=bearer(token)).status_code == 200


def test_a_forged_token_of_the_right_shape_would_pass(client: FlaskClient) -> None:
    """The control: it is the changes that are refused."""
    assert client.get("/models", headers=bearer(forged({}))).status_code == 200


def test_secrets_rotate_without_signing_anybody_out(make_app: Callable[..., Flask]) -> None:
    old = token_of(make_app().test_client(), *ADMIN)
    new = make_app(jwt_secret_key=f"{'n' * 40},{SECRET}").test_client()
    assert new.get("/models", headers=bearer(old)).status_code == 200
    fresh = token_of(new, *ADMIN)
    assert make_app().test_client().get("/models", headers=bearer(fresh)).status_code == 401


@pytest.mark.fault("Accounts")
@pytest.mark.parametrize(
    ("secret", "said"),
    [("", "JWT_SECRET_KEY"), ("short", "32 bytes"), ("your-secret-key", "placeholders"),
     ("your-secret-key-that-is-long-but-not-yours", "placeholders"), (f"{'x' * 40},short", "32")],
)  # fmt: skip
def test_a_secret_that_is_none_stops_the_start(secret: str, said: str) -> None:
    """A JWT secret that is short or a placeholder -> the start ends and says what to do."""
    with pytest.raises(ConfigError) as refused:
        load_config({"AUTH_ENABLED": "true", "JWT_SECRET_KEY": secret}, Path("/nonexistent"))
    assert said in str(refused.value)
    assert "make one with" in str(refused.value)
    assert f"={secret}" not in str(refused.value)
    assert "{'" not in str(refused.value), "the settings were shown"


@pytest.mark.parametrize("value", ["x", "fifteen-letters", "your-api-key-secret-here", "changeme"])
@pytest.mark.parametrize("name", ["API_KEY_SECRET", "ADMIN_TOKEN"])
def test_a_fixed_key_that_can_be_guessed_stops_the_start(name: str, value: str) -> None:
    auth = {"AUTH_ENABLED": "true", "JWT_SECRET_KEY": SECRET} if name == "API_KEY_SECRET" else {}
    with pytest.raises(ConfigError) as refused:
        load_config({**auth, name: value}, Path("/nonexistent"))
    assert f"{name} must be at least 16 characters" in str(refused.value)
    assert "make one with" in str(refused.value)
    assert value == "x" or value not in str(refused.value)
    load_config({**auth, name: "sixteen-letters-"}, Path("/nonexistent"))


# -- signing in ------------------------------------------------------------------------------------


class Guessed:
    """A hasher that knows no password, takes its time, and notes how many it was asked at once."""

    def __init__(self, takes_s: float = 0, go_on: threading.Event | None = None) -> None:
        self.takes_s, self.go_on = takes_s, go_on
        self.pairs: threading.Barrier | None = None  # of those that are asked at once
        self.checked: list[str] = []
        self.running: set[str] = set()
        self.at_once: list[int] = []

    def verify(self, hashed: str, password: str) -> bool:
        self.checked.append(hashed)
        self.running.add(password)
        self.at_once.append(len(self.running))
        if self.pairs:
            self.pairs.wait()
        time.sleep(self.takes_s)
        assert self.go_on is None or self.go_on.wait(60)
        self.running.discard(password)
        raise passwords.VerificationError


def in_threads(work: Callable[[int], object], number: int) -> None:
    """Run `work` so many times at once."""
    threads = [threading.Thread(target=work, args=(i,)) for i in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


def test_a_form_and_json_sign_in_alike(client: FlaskClient) -> None:
    form = {"username": ADMIN[0], "password": ADMIN[1], "grant_type": "password"}
    for reply in (client.post("/token", data=form), client.post("/token", json=form)):
        assert reply.status_code == 200
        assert (reply.json["token_type"], reply.json["expires_in"]) == ("bearer", 3600)
        assert reply.headers["Cache-Control"] == "no-store"


@pytest.mark.fault("Accounts")
def test_an_unknown_user_and_a_wrong_password_look_the_same(client: FlaskClient) -> None:
    """An unknown user or a wrong password -> the same answer."""
    bodies = [{"username": n, "password": "wrong-password"} for n in ("admin", "nobody")]
    known, unknown = (client.post("/token", json=body) for body in bodies)
    assert known.status_code == unknown.status_code == 401
    assert known.json["error"] == unknown.json["error"]


@pytest.mark.fault("Accounts")
@pytest.mark.parametrize("username", ["admin", "nobody", "admin "])
def test_an_unknown_user_costs_a_hash_too(
    client: FlaskClient, username: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown user -> takes as long as a wrong password."""
    hasher = Guessed()
    monkeypatch.setattr(passwords, "HASHER", hasher)
    body = {"username": username, "password": "wrong-password"}
    assert client.post("/token", json=body).status_code == 401
    settings = [hashed.rpartition("$")[0].rpartition("$")[0] for hashed in hasher.checked]
    assert settings == ["$argon2id$v=19$m=19456,t=2,p=1"]


@pytest.mark.fault("Accounts")
def test_of_many_guesses_at_once_five_are_hashed(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many guesses at once -> five are hashed."""
    go_on, ready = threading.Event(), threading.Barrier(50, timeout=60)
    hasher = Guessed(go_on=go_on)
    monkeypatch.setattr(passwords, "HASHER", hasher)
    statuses: list[int] = []

    def guess(number: int) -> None:
        body = {"username": "admin", "password": f"guess number {number}"}
        client = app.test_client()
        ready.wait()
        statuses.append(client.post("/token", json=body).status_code)
        if len(statuses) == 45:  # all but the five, which are being hashed
            go_on.set()

    in_threads(guess, 50)
    assert sorted(statuses) == [401] * 5 + [429] * 45
    assert len(hasher.checked) == 5


def test_a_right_password_is_not_counted_nor_one_that_had_no_turn(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(7):
        token_of(client, *ADMIN)
    right = {"username": ADMIN[0], "password": ADMIN[1]}
    with monkeypatch.context() as patch:
        patch.setattr(passwords, "IN_LINE", threading.BoundedSemaphore(1))
        with passwords.IN_LINE:
            for _ in range(7):
                refused = client.post("/token", json=right)
                assert refused.status_code == 503 and refused.headers["Retry-After"] == "1"
    token_of(client, *ADMIN)


def test_guessing_from_many_addresses_is_slowed_too(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "HASHER", Guessed())
    body = {"username": "admin", "password": "wrong-password"}
    statuses = [
        client.post("/token", json=body, environ_overrides={"REMOTE_ADDR": f"203.0.113.{i}"})
        for i in range(105)
    ]
    assert [reply.status_code for reply in statuses] == [401] * 100 + [429] * 5
    assert 1 <= int(statuses[-1].headers["Retry-After"]) <= 60


def test_wrong_passwords_are_forgotten_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr("limits.storage.memory.time.time", lambda: now)
    monkeypatch.setattr("accounts.login_throttle.MANY", 0)
    throttle = LoginThrottle()

    def wrong(name: str) -> None:
        with pytest.raises(Unauthorized), throttle.attempt([((name,), 1)]):
            raise Unauthorized("wrong")

    wrong("a")
    with pytest.raises(RateLimited), throttle.attempt([(("a",), 1)]):
        pytest.fail("it was let in")
    now += 61
    wrong("b")
    throttle._memory.timer.join(30)  # which empties what has expired
    wrong("c")
    assert len(throttle._memory.events) == 2 and not throttle._under_way
    wrong("a")


@pytest.mark.fault("Accounts")
def test_a_flood_of_logins_holds_few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of sign-ins -> few threads are held."""
    go_on, refused = threading.Event(), []
    monkeypatch.setattr(passwords, "HASHER", Guessed(go_on=go_on))

    def guess(number: int) -> None:
        try:
            passwords.verify(f"guess {number}", "hash")
        except Busy as exc:
            refused.append(exc.retry_after_s)
            if len(refused) == 14:
                go_on.set()

    in_threads(guess, 30)
    assert refused == [1] * 14


@pytest.mark.fault("Accounts")
def test_guessing_is_slowed_per_user_and_address_and_locks_nobody_out(client: FlaskClient) -> None:
    """Passwords are guessed in bulk -> slowed per user and address; no user is locked out."""
    wrong = {"username": "admin", "password": "wrong-password"}
    here, there = ({"REMOTE_ADDR": a} for a in ("203.0.113.1", "203.0.113.2"))
    statuses = [
        client.post("/token", json=wrong, environ_overrides=here).status_code for _ in range(7)
    ]
    assert statuses == [401] * 5 + [429] * 2
    right = {"username": "admin", "password": ADMIN[1]}
    assert client.post("/token", json=right, environ_overrides=here).status_code == 429
    assert client.post("/token", json=right, environ_overrides=there).status_code == 200
    spray = [
        client.post("/token", json={**wrong, "username": f"u{i}"}, environ_overrides=there)
        for i in range(22)
    ]
    assert [reply.status_code for reply in spray].count(429) == 2


def test_guessing_the_current_password_is_slowed_too(client: FlaskClient, admin: dict) -> None:
    uma = add_user(client, admin, "uma")
    body = {"password": "uma-password-2", "current_password": "a guess"}
    statuses = [client.post("/users/uma/password", json=body, headers=uma).status_code
                for _ in range(6)]  # fmt: skip
    assert statuses == [401] * 5 + [429]


@pytest.mark.fault("Accounts")
def test_a_flood_of_logins_hashes_two_passwords_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of sign-ins -> two passwords are hashed at a time."""
    hasher = Guessed(0.05)
    hasher.pairs = threading.Barrier(2, timeout=60)
    monkeypatch.setattr(passwords, "HASHER", hasher)
    in_threads(lambda number: passwords.verify(f"guess {number}", "hash"), 12)
    assert len(hasher.checked) == 12 and max(hasher.at_once) == 2


@pytest.mark.fault("Accounts")
@pytest.mark.parametrize("password", ["p" * 1_000_000, "", "short"])
def test_a_password_that_cannot_be_one_is_refused_unhashed(
    client: FlaskClient, admin: dict, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password of 1 MB -> refused without hashing it."""
    monkeypatch.setattr(passwords, "HASHER", None)  # hashing would fail
    body = {"username": "new", "password": password}
    reply = client.post("/users", json=body, headers=admin)
    assert reply.status_code == (413 if len(password) > SMALL else 422)
    assert password == "" or password not in reply.text
    assert client.post("/token", json={**body, "password": "p" * 1025}).status_code == 422


HALF = "half-a-pair-\\ud800"  # as JSON writes it; no UTF-8 can hold it


@pytest.mark.fault("Accounts")
def test_a_password_with_half_a_surrogate_pair_is_refused_unhashed(
    client: FlaskClient, admin: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password with half a surrogate pair -> refused without hashing it."""
    monkeypatch.setattr(passwords, "HASHER", None)  # hashing would fail
    as_json = {"content_type": "application/json"}
    body = f'{{"username": "admin", "password": "{HALF}"}}'
    made = client.post("/users", data=body.replace("admin", "new"), headers=admin, **as_json)
    assert made.status_code in (400, 422) and made.json["error"]
    signed_in = client.post("/token", data=body, **as_json)
    assert signed_in.status_code in (400, 422) and signed_in.json["error"]


def test_bytes_of_a_form_that_are_no_text_sign_nobody_in(client: FlaskClient) -> None:
    form = {"content_type": "application/x-www-form-urlencoded"}
    for bytes_ in ("%ED%A0%80", "%FF"):  # half a surrogate pair as UTF-8 would have it
        reply = client.post("/token", data=f"username=admin&password=half{bytes_}", **form)
        assert reply.status_code in (400, 401, 422)


@pytest.mark.fault("Accounts")
def test_a_nul_is_a_character_like_any_other_in_a_password(
    client: FlaskClient, admin: dict
) -> None:
    """A password with NUL -> NUL counts as any other character."""
    body = {"username": "nul", "password": "pass\x00word-1"}
    assert client.post("/users", json=body, headers=admin).status_code == 201
    assert token_of(client, "nul", "pass\x00word-1")
    wrong = {"username": "nul", "password": "pass\x00word-2"}
    assert client.post("/token", json=wrong).status_code == 401


@pytest.mark.parametrize(
    "name",
    ["", "a/b", "a\nb", "x" * 65, " a", "a ", ".", "..", "a\x00", "a\x1b[31m", "a\u202eb", "\x85"],
)
def test_a_name_that_is_none_is_refused(client: FlaskClient, admin: dict, name: str) -> None:
    body = {"username": name, "password": "password-1"}
    assert client.post("/users", json=body, headers=admin).status_code == 422


def test_a_random_first_password_is_in_a_file_for_its_owner_only(
    make_app: Callable[..., Flask], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "accounts")
    client = make_app(admin_password=None).test_client()
    file = tmp_path / "data" / "admin-password"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert token_of(client, "admin", file.read_text())
    assert str(file) in caplog.text
    assert file.read_text() not in caplog.text


def test_a_caller_that_is_not_there_is_told_apart_from_a_database_that_is_not(
    make_app: Callable[..., Flask],
) -> None:
    app = make_app(db_url="postgresql://nobody@127.0.0.1:1/none")
    client = app.test_client()
    reply = client.get("/models", headers=bearer("emb_aaaaaaaa_x"))
    assert reply.status_code == 503
    assert client.get("/models").status_code == 401
    assert client.get("/health").status_code == 200


def test_nothing_secret_is_in_a_repr(app: Flask) -> None:
    accounts = accounts_of(app)
    assert SECRET not in repr(vars(accounts))
    assert ADMIN[1] not in repr(vars(accounts))
    assert accounts.users.get("admin") is not None


def test_a_user_is_there_once(app: Flask) -> None:
    with pytest.raises(Conflict):
        accounts_of(app).users.add("admin", "password-1", "admin")
