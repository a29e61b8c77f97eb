"""Every route times every kind of caller: who gets in, and who does not."""

import re
import time
from collections.abc import Callable

import jwt
import pytest
from flask import Flask
from flask.testing import FlaskClient

from accounts.tokens import ALGORITHM, ISSUER
from accounts.users import ALLOWED
from config import Config
from factory import create_app
from routes import ROUTES
from routes.table import Route
from tests.accounts.conftest import SECRET, accounts_of, add_user, bearer
from tests.conftest import write_models

TOKEN = "let-me-administrate"

NOBODY = ("nobody", "bad token", "expired", "revoked key", "key of a deleted user")
# Keys that may do less than their owner, an admin, and the fixed key: with the role they act in.
LIMITED = {
    "capped key": "reader",
    "scoped key": "user",
    "expiring key": "user",
    "fixed key": "user",
}
OWNER = {"reader": "rita", "user": "uma", "fixed key": "key"} | dict.fromkeys(
    ("admin", "capped key", "scoped key", "expiring key"), "admin"
)
FIXED = "fixed-key-fixed-key"


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    """The application, with the fixed key beside users and their keys."""
    return make_app(api_key_secret=FIXED)


@pytest.fixture
def callers(client: FlaskClient, admin: dict, app: Flask) -> dict[str, dict[str, str]]:
    """The headers of each kind of caller."""
    reader, user = add_user(client, admin, "rita", "reader"), add_user(client, admin, "uma")
    add_user(client, admin, "gone")
    keys = accounts_of(app).keys
    revoked, text = keys.add("uma")
    keys.revoke("uma", revoked.id)
    _, orphan = keys.add("gone")
    assert client.delete("/users/gone", headers=admin).status_code == 200
    claims = jwt.decode(user["Authorization"][7:], SECRET, [ALGORITHM], audience=ISSUER)
    old = {**claims, "exp": int(time.time()) - 60, "iat": int(time.time()) - 120}
    kid = jwt.get_unverified_header(user["Authorization"][7:])
    return {
        "nobody": {},
        "bad token": bearer("not.a.token"),
        "expired": bearer(jwt.encode(old, SECRET, ALGORITHM, headers={"kid": kid["kid"]})),
        "revoked key": bearer(text),
        "key of a deleted user": bearer(orphan),
        "reader": reader,
        "user": user,
        "admin": admin,
        "capped key": bearer(keys.add("admin", role="reader")[1]),
        "scoped key": bearer(keys.add("admin", collections=["mine"])[1]),
        "expiring key": bearer(keys.add("admin", expires=time.time() + 600)[1]),
        "fixed key": bearer(FIXED),
    }


def path_of(path: str, username: str = "zz") -> str:
    return re.sub(r"<[^>]+>", "zz", path.replace("<username>", username))


def test_the_table_is_all_there_is(app: Flask) -> None:
    served = {
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert served == {(row.method, row.path) for row in ROUTES}


def test_every_route_has_a_declared_rule() -> None:
    known = set().union(*ALLOWED.values())
    for row in ROUTES:
        assert row.access in known, f"{row.method} {row.path} declares {row.access!r}"


def test_only_probes_docs_and_signing_in_need_no_caller() -> None:
    public = {row.path for row in ROUTES if row.access == "public"}
    docs = {"/docs", "/redoc", "/openapi.json", "/static/<path:name>"}
    probes = {"/", "/health", "/health/live", "/health/ready", "/ping", "/api/version"}
    assert public == probes | docs | {"/token", "/session"}


def may(who: str, row: Route) -> bool:
    """Tell whether a caller may use a route, for a user and a collection that are not its own."""
    elsewhere = who == "scoped key" and "/collections/<name>" in row.path
    return row.access in ALLOWED[LIMITED.get(who, who)] and not elsewhere


@pytest.mark.fault("Accounts")
def test_every_route_times_every_caller(client: FlaskClient, callers: dict) -> None:
    """A user calls an admin's route -> 403: every route is tried with every role."""
    wrong = []
    for row in ROUTES:
        for who, headers in callers.items():
            if (row.method, row.path) == ("DELETE", "/users/<username>") and who == "admin":
                continue
            reply = client.open(path_of(row.path), method=row.method, headers=headers)
            status = reply.status_code
            if row.access == "public":
                fine = status not in (401, 403) or row.path == "/token"
            elif who in NOBODY:
                fine = status == 401
            elif not may(who, row):
                fine = status == 403
            else:
                fine = status != 401 and (status != 403 or row.path.startswith("/users/"))
            if not fine or status >= 500:
                wrong.append((row.method, row.path, who, status))
    assert wrong == []


@pytest.mark.fault("Accounts")
def test_users_are_let_at_what_is_their_own_and_limited_keys_are_not(
    client: FlaskClient, callers: dict
) -> None:
    """A user calls a route of another user -> 403."""
    wrong = []
    for row in ROUTES:
        for who, owner in OWNER.items():
            if not row.path.startswith("/users/<username>/"):
                continue
            path = path_of(row.path, owner)
            # without a body, what is let in is told so (415, or made with nothing said)
            body = {} if who in LIMITED and row.method == "POST" else None
            reply = client.open(path, method=row.method, json=body, headers=callers[who])
            status = reply.status_code
            refused = status in (401, 403)
            if refused != (who in LIMITED) or status >= 500:
                wrong.append((row.method, path, who, status))
    assert wrong == []


def test_the_matrix_can_fail(client: FlaskClient, callers: dict) -> None:
    """The control: the callers really differ."""
    statuses = {who: client.get("/users", headers=h).status_code for who, h in callers.items()}
    assert statuses["admin"] == 200
    assert {statuses["reader"], statuses["user"]} == {403}
    assert {statuses[who] for who in NOBODY} == {401}


def test_probes_stay_open(client: FlaskClient) -> None:
    for path in ("/", "/health"):
        assert client.get(path).status_code == 200


@pytest.mark.parametrize("place", [{"REMOTE_ADDR": "127.0.0.1"}, {"REMOTE_ADDR": "203.0.113.7"}])
def test_without_accounts_only_this_machine_is_admin(
    make_app: Callable[..., Flask], place: dict
) -> None:
    client = make_app(auth_enabled=False, admin_token=TOKEN).test_client()
    local = place["REMOTE_ADDR"].startswith("127.")

    def status(path: str, **headers: str) -> int:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return client.get(path, headers=names, environ_overrides=place).status_code

    assert status("/models") == 200
    assert status("/settings") == (200 if local else 401)
    assert status("/settings", X_Forwarded_For="127.0.0.1") == 401
    assert status("/settings", Authorization=f"Bearer {TOKEN}") == 200
    assert status("/settings", Authorization="Bearer wrong") == (200 if local else 401)


@pytest.mark.fault("Accounts")
def test_a_forged_address_is_not_believed_unless_a_proxy_is_configured(
    make_app: Callable[..., Flask],
) -> None:
    """`X-Forwarded-For` is forged -> believed from configured proxies only."""
    forged = {"X-Forwarded-For": "127.0.0.1"}
    far = {"REMOTE_ADDR": "203.0.113.7"}
    plain = make_app(auth_enabled=False).test_client()
    assert plain.get("/settings", headers=forged, environ_overrides=far).status_code == 401
    behind = make_app(auth_enabled=False, trusted_proxy_hops=1).test_client()
    for chain in ("127.0.0.1, 198.51.100.9", "127.0.0.1", "::1"):
        for place in (far, {"REMOTE_ADDR": "127.0.0.1"}):
            headers = {"X-Forwarded-For": chain}
            reply = behind.get("/settings", headers=headers, environ_overrides=place)
            assert reply.status_code == 401, (chain, place)
    assert behind.get("/settings").status_code == 200, "from the machine itself, past the proxy"


@pytest.fixture(scope="module")
def open_client(tmp_path_factory: pytest.TempPathFactory) -> FlaskClient:
    """A client of a service without accounts, with ADMIN_TOKEN."""
    folder = tmp_path_factory.mktemp("open")
    models = write_models(folder / "m.json", {"fake": {"type": "fake", "model_name": "tests/fake"}})
    config = Config(
        model_config_file=models, supported_models_file=folder / "none", store_dir=folder / "store",
        data_dir=folder / "data", db_url=f"sqlite:///{folder}/db", admin_token=TOKEN,
    )  # fmt: skip
    return create_app(config, wait=True).test_client()


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:8001", "https://evil.example"),
        ("127.0.0.1:8001", "http://localhost:3000"),
        ("127.0.0.1:8001", "http://localhost:8001"),
        ("127.0.0.1:8001", "null"),
        ("evil.example", None),
        ("evil.example:8001", "http://evil.example:8001"),
        ("localhost.evil.example", None),
        ("127.0.0.1.evil.example", None),
        ("evil@localhost", None),
        ("", None),
    ],
)
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/settings", {"key": "max_texts", "value": 9}),
        ("GET", "/settings", None),
        ("POST", "/users", {"username": "eve", "password": "eve-password-1", "role": "admin"}),
        ("POST", "/users/eve/api-key", None),
    ],
)
def test_a_page_in_a_browser_on_this_machine_is_no_admin(
    open_client: FlaskClient, host: str, origin: str | None, method: str, path: str, body: object
) -> None:
    """Neither from another origin, nor by a name that was made to lead here."""
    headers = {"Host": host} | ({"Origin": origin} if origin else {})
    reply = open_client.open(path, method=method, json=body, headers=headers)
    assert reply.status_code in (401, 403), reply.text
    assert "Access-Control-Allow-Origin" not in reply.headers
    asked = {**headers, "Access-Control-Request-Method": method}
    if origin:
        preflight = open_client.options(path, headers=asked)
        assert "Access-Control-Allow-Origin" not in preflight.headers


@pytest.mark.parametrize("host", ["localhost:8001", "127.0.0.1:8001", "[::1]:8001", "localhost"])
def test_the_console_on_this_machine_is_admin(open_client: FlaskClient, host: str) -> None:
    """The control: a browser sends the page's own origin with what changes something."""
    for headers in ({"Host": host}, {"Host": host, "Origin": f"http://{host}"}):
        body = {"key": "max_texts", "value": 64}
        assert open_client.post("/settings", json=body, headers=headers).status_code == 200
        assert open_client.get("/settings", headers=headers).status_code == 200


def test_a_page_of_another_origin_may_administrate_with_a_token(open_client: FlaskClient) -> None:
    headers = {"Host": "embed.example", "Origin": "https://console.example"}
    asked = {**headers, "Access-Control-Request-Method": "GET",
             "Access-Control-Request-Headers": "authorization"}  # fmt: skip
    preflight = open_client.options("/settings", headers=asked)
    assert preflight.headers["Access-Control-Allow-Origin"] == "*"
    reply = open_client.get("/settings", headers={**headers, **bearer(TOKEN)})
    assert reply.status_code == 200
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
