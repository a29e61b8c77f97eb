"""An application with accounts, on each kind of database."""

from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from accounts import Accounts
from config import Config
from factory import create_app

SECRET = "a-secret-that-is-long-enough-for-hs256-signing"
ADMIN = ("admin", "admin-password-1")


@pytest.fixture(params=["sqlite", "mariadb", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path) -> str:
    """The URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/accounts.db"
    return request.getfixturevalue(request.param).database()


@pytest.fixture
def make_app(config_of: Callable[..., Config]) -> Iterator[Callable[..., Flask]]:
    """Make an application with sign-in on; SQLite unless told otherwise."""
    made: list[Flask] = []

    def make(**settings: object) -> Flask:
        given = {"auth_enabled": True, "jwt_secret_key": SECRET, "admin_password": ADMIN[1]}
        app = create_app(config_of(**{**given, **settings}), wait=True)
        made.append(app)
        return app

    yield make
    for app in made:
        accounts_of(app).close()
        app.extensions["throttle"].close()
        app.extensions["services"].documents.store.close()
        registry = app.extensions["services"].engine.registry
        registry.stop()
        for model in registry.models.values():
            if model.held:
                model.held.encoder.close()  # else replicas that are away are tried for ever


def accounts_of(app: Flask) -> Accounts:
    return app.extensions["services"].accounts


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def token_of(client: FlaskClient, username: str, password: str) -> str:
    reply = client.post("/token", json={"username": username, "password": password})
    assert reply.status_code == 200, reply.text
    return reply.json["access_token"]


@pytest.fixture
def admin(client: FlaskClient) -> dict[str, str]:
    """The headers of an admin."""
    return bearer(token_of(client, *ADMIN))


def add_user(client: FlaskClient, admin: dict, name: str, role: str = "user") -> dict[str, str]:
    """Make a user and return the headers of a token."""
    body = {"username": name, "password": f"{name}-password-1", "role": role}
    reply = client.post("/users", json=body, headers=admin)
    assert reply.status_code == 201, reply.text
    return bearer(token_of(client, name, f"{name}-password-1"))
