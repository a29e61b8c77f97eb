"""Where a key may stand in a request: the places that the clients of other services use."""

from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

ADMIN = {"username": "admin", "password": "admin-password-1"}
BODY = {"input": "a"}


@pytest.fixture
def client(make_app: Callable[..., Flask]) -> Iterator[FlaskClient]:
    """A client of a service that everybody must sign in to."""
    yield make_app().test_client()


@pytest.fixture
def token(client: FlaskClient) -> str:
    """The token of an admin."""
    token: str = client.post("/token", json=ADMIN).json["access_token"]
    return token


def status(client: FlaskClient, **headers: str) -> int:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/v1/embeddings", json=BODY, headers=sent).status_code


def test_it_may_stand_in_any_of_four_places(client: FlaskClient, token: str) -> None:
    assert status(client) == 401
    for name, value in (
        ("Authorization", f"Bearer {token}"), ("Authorization", f"bearer  {token} "),
        ("Authorization", token), ("Authorization", f" {token}"), ("X_API_Key", token),
        ("x_api_key", token), ("api_key", token), ("Api_Key", f"{token} "),
    ):  # fmt: skip
        assert status(client, **{name: value}) == 200, (name, value)
        assert status(client, **{name: value.replace(token, "x" * 40)}) == 401


@pytest.mark.parametrize("empty", ["", " ", "Bearer", "Bearer ", "bearer", "Basic eDp5", "Token t"])
def test_an_authorization_without_a_token_leaves_the_word_to_the_others(
    client: FlaskClient, token: str, empty: str
) -> None:
    """Dify sends an empty one where no key is set, and proxies add `Basic` for themselves."""
    assert status(client, Authorization=empty) == 401
    assert status(client, Authorization=empty, X_API_Key=token) == 200
    assert status(client, Authorization=empty, api_key=token) == 200


def test_the_first_that_is_there_counts(client: FlaskClient, token: str) -> None:
    assert status(client, Authorization=f"Bearer {token}", X_API_Key="wrong") == 200
    assert status(client, Authorization="Bearer wrong", X_API_Key=token) == 401
    assert status(client, X_API_Key="wrong", api_key=token) == 401


def test_where_nobody_must_sign_in_anything_will_do(fake_client: FlaskClient) -> None:
    for name in ("Authorization", "X_API_Key", "api_key"):
        for value in ("", "x", "Bearer x", "Bearer "):
            assert status(fake_client, **{name: value}) == 200
