"""Bulk requests leave threads to interactive ones, whatever makes them bulk."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from flask import Flask

from config import Config
from errors import QueueFull
from factory import create_app
from rate_limits import SPARE
from tests.accounts.conftest import ADMIN, bearer, make_app
from tests.lanes.gated import gated
from tests.lanes.test_priority import MANY, lane

__all__ = ["make_app"]


@pytest.mark.fault("Overload")
def test_bulk_requests_leave_threads_to_interactive_ones(config_of: Callable[..., Config]) -> None:
    """More bulk requests than there are threads -> some are kept for interactive ones."""
    app = create_app(config_of(threads=32), wait=True)
    client, permits = app.test_client(), app.extensions["throttle"].permits
    with ExitStack() as held:
        with pytest.raises(QueueFull):
            for _ in range(permits.most):
                permits.count_bulk(held.enter_context(permits.one()))
        for body in ({"texts": MANY}, {"text": "a", "priority": "bulk"}):
            refused = client.post("/embed", json=body)
            assert (refused.status_code, lane(refused)) == (429, "bulk")
            assert "Retry-After" in refused.headers
        assert client.post("/embed", json={"text": "a"}).status_code == 200
    assert client.post("/embed", json={"texts": MANY}).status_code == 200
    assert (permits._busy, permits._bulk) == (0, 0)


@contextmanager
def bulk_is_full(app: Flask) -> Iterator[None]:
    """Hold all the permits that bulk may have."""
    permits = app.extensions["throttle"].permits
    with ExitStack() as held:
        for _ in range(permits.most - permits.most // SPARE):
            held.enter_context(permits.one(bulk=True))
        yield
    assert (permits._busy, permits._bulk) == (0, 0)


@pytest.mark.fault("Overload")
def test_requests_that_are_bulk_by_their_tokens_leave_threads_to_interactive_ones(
    config_of: Callable[..., Config],
) -> None:
    """Requests of few inputs with many tokens -> they run within bulk's share of the threads."""
    app = create_app(config_of(threads=16, interactive_max_tokens=8), wait=True)
    client, permits = app.test_client(), app.extensions["throttle"].permits
    nine, words = {"text": "a b c d e f g h i"}, "bulk requests are running already"
    with ThreadPoolExecutor(1) as pool, gated() as gate:
        running = pool.submit(app.test_client().post, "/embed", json=nine)
        assert gate.entered.wait(60)
        assert (permits._busy, permits._bulk) == (1, 1)
        gate.opened.set()
        assert running.result(60).status_code == 200
    with bulk_is_full(app):
        for asked in (None, "interactive"):
            headers = {"X-Priority": asked} if asked else {}
            other = {"text": nine["text"].upper()}
            refused = client.post("/embed", json=other, headers=headers)
            assert (refused.status_code, lane(refused)) == (429, "bulk")
            assert words in refused.text and "Retry-After" in refused.headers
        assert client.post("/embed", json={"text": "a"}).status_code == 200
    assert client.post("/embed", json={"text": nine["text"].upper()}).status_code == 200
    assert (permits._busy, permits._bulk) == (0, 0)


@pytest.mark.fault("Overload")
def test_bulk_that_is_known_by_its_header_is_refused_before_its_body_is_read(
    config_of: Callable[..., Config],
) -> None:
    """Bulk requests are repeated without a pause -> they take no permit while they are read."""
    app = create_app(config_of(threads=16), wait=True)
    client = app.test_client()
    with bulk_is_full(app):
        given: dict[str, Any] = {"data": b"no JSON", "content_type": "application/json"}
        refused = client.post("/embed", headers={"X-Priority": " BULK"}, **given)
        assert (refused.status_code, lane(refused)) == (429, "bulk")
        assert client.post("/embed", **given).status_code == 400


@pytest.mark.fault("Overload")
def test_a_key_that_is_held_to_bulk_is_refused_before_its_body_is_read(
    make_app: Callable[..., Flask],
) -> None:
    """Requests of such a key come without a pause -> they take no permit while they are read."""
    app = make_app(threads=16)
    client = app.test_client()
    token = client.post("/token", json={"username": ADMIN[0], "password": ADMIN[1]}).json
    admin = bearer(token["access_token"])
    made = client.post("/users/admin/api-key", json={"priority": "bulk"}, headers=admin)
    given: dict[str, Any] = {"data": b"no JSON", "content_type": "application/json"}
    with bulk_is_full(app):
        refused = client.post("/embed", headers=bearer(made.json["api_key"]), **given)
        assert (refused.status_code, lane(refused)) == (429, "bulk")
        assert client.post("/embed", headers=admin, **given).status_code == 400
