"""Which lane a request is in, what the reply says of it, and who may be held to one."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from config import Config, ConfigError, load_config
from engine import EmbedRequest, Engine
from errors import DeadlineExceeded
from factory import create_app
from observability import metrics
from serving.encoder import Limits
from tests.accounts.conftest import ADMIN, add_user, admin, app, bearer, client, make_app
from tests.lanes.gated import gated
from tests.routes.conftest import kinds, signed_in
from tests.test_batcher import until

__all__ = ["admin", "app", "client", "kinds", "make_app", "signed_in"]

MANY = ["a text"] * 17
SCORED = {"model": "reranker", "query": "a", "documents": ["a", "b"]}
# Every route that embeds: a body with one or a few inputs.
ROUTES: dict[str, dict[str, Any]] = {
    "/embed": {"texts": ["a"]},
    "/batch-embed": {"texts": ["a"]},
    "/embed/single?text=a": {},
    "/v1/embeddings": {"input": "a"},
    "/embeddings": {"input": "a"},
    "/pooling": {"input": "a"},
    "/v1/embed": {"texts": ["a"]},
    "/v2/embed": {"texts": ["a"], "embedding_types": ["float"], "input_type": "classification"},
    "/api/embed": {"model": "dense", "input": "a"},
    "/api/embeddings": {"model": "dense", "prompt": "a"},
    "/embed_all": {"inputs": "a", "model": "dense"},
    "/embed_sparse": {"inputs": "a", "model": "sparse"},
    "/similarity": {"inputs": {"source_sentence": "a", "sentences": ["b"]}, "model": "dense"},
    "/rerank": SCORED,
    "/v1/rerank": SCORED,
    "/v2/rerank": SCORED,
    "/score": {"model": "reranker", "text_1": "a", "text_2": "b"},
}


def lane(reply: Any) -> str | None:
    found: str | None = reply.headers.get("X-Priority")
    return found


@pytest.mark.parametrize("path", ROUTES)
def test_every_route_that_embeds_takes_the_header_and_says_the_lane(
    kinds: FlaskClient, path: str
) -> None:
    body = ROUTES[path]
    for asked in (None, "bulk", "Interactive"):
        headers = {"X-Priority": asked} if asked else {}
        reply = kinds.post(path, json=body or None, headers=headers)
        assert reply.status_code == 200, reply.text
        assert lane(reply) == (asked or "interactive").lower()


def test_a_request_that_names_no_lane_is_in_that_of_its_size(kinds: FlaskClient) -> None:
    assert lane(kinds.post("/embed", json={"texts": MANY[:16]})) == "interactive"
    assert lane(kinds.post("/embed", json={"texts": MANY})) == "bulk"
    documents = {**SCORED, "documents": MANY}
    assert lane(kinds.post("/rerank", json=documents)) == "bulk"
    assert lane(kinds.post("/embed", json={"texts": MANY, "priority": "interactive"})) == (
        "interactive"
    )
    assert lane(kinds.get("/models")) is None


def test_texts_that_are_stored_or_searched_for_have_a_lane_too(kinds: FlaskClient) -> None:
    stored = {"collection": "lanes", "texts": [f"text {n}" for n in range(17)]}
    assert lane(kinds.post("/embed-and-store", json=stored)) == "bulk"
    search = {"text": "text 3", "k": 1}
    assert lane(kinds.post("/collections/lanes/search", json=search)) == "interactive"
    asked = {**search, "priority": "bulk"}
    assert lane(kinds.post("/collections/lanes/search", json=asked)) == "bulk"
    assert kinds.delete("/collections/lanes").status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "lanes"),
    [
        ("/embed", {"texts": ["a"]}, {"bulk": "bulk", "interactive": "interactive"}),
        ("/v1/embeddings", {"input": "a"}, {0: "interactive", 5: "bulk", "bulk": "bulk"}),
        ("/v1/embeddings", {"input": MANY}, {0: "bulk", -1: "interactive", None: "bulk"}),
        ("/pooling", {"input": MANY}, {0: "bulk", -3: "interactive", 9: "bulk"}),
        ("/rerank", SCORED, {0: "interactive", 3: "bulk"}),
        ("/v1/embed", {"texts": ["a"]}, {0: "interactive", 1: "bulk", 999: "bulk"}),
    ],
)
def test_a_body_has_the_priority_of_its_dialect(
    kinds: FlaskClient, path: str, body: dict[str, Any], lanes: dict[Any, str]
) -> None:
    for priority, told in lanes.items():
        assert lane(kinds.post(path, json={**body, "priority": priority})) == told


@pytest.mark.parametrize(
    ("path", "priority"),
    [("/embed", "high"), ("/embed", 5), ("/v1/embeddings", "high"), ("/v1/embeddings", 1.5),
     ("/v1/embeddings", True), ("/pooling", "first"), ("/rerank", [1]), ("/v1/embed", 1000),
     ("/v1/embed", -1), ("/v2/embed", "bulk")],
)  # fmt: skip
def test_a_wrong_priority_is_refused_with_the_valid_ones(
    kinds: FlaskClient, path: str, priority: object
) -> None:
    reply = kinds.post(path, json={**ROUTES[path], "priority": priority})
    assert reply.status_code in (400, 422)
    assert "priority" in reply.text
    assert ("bulk" in reply.text) if path not in ("/v1/embed", "/v2/embed") else "999" in reply.text


@pytest.mark.fault("Hostile clients")
@pytest.mark.parametrize("path", ROUTES)
def test_a_wrong_header_is_refused_with_the_valid_ones(kinds: FlaskClient, path: str) -> None:
    """Another word in `X-Priority`, or a body's `priority` that contradicts it -> 400."""
    reply = kinds.post(path, json=ROUTES[path] or None, headers={"X-Priority": "urgent"})
    of_tei = path in ("/embed_all", "/embed_sparse", "/similarity")  # it has 422 for what is wrong
    assert reply.status_code == (422 if of_tei else 400)
    assert "interactive or bulk" in reply.text and lane(reply) is None


def test_a_header_and_a_body_that_differ_are_refused(kinds: FlaskClient) -> None:
    body = {"texts": ["a"], "priority": "bulk"}
    reply = kinds.post("/embed", json=body, headers={"X-Priority": "interactive"})
    assert reply.status_code == 400 and "contradict" in reply.text
    assert lane(kinds.post("/embed", json=body, headers={"X-Priority": "bulk"})) == "bulk"
    # 0 says nothing, so it contradicts nothing.
    body = {"input": "a", "priority": 0}
    assert lane(kinds.post("/v1/embeddings", json=body, headers={"X-Priority": "bulk"})) == "bulk"


def test_a_large_request_is_bulk_whatever_it_asks_for_also_if_it_is_cached(
    config_of: Callable[..., Config],
) -> None:
    client = create_app(config_of(interactive_max_tokens=8), wait=True).test_client()
    for asked in (None, "interactive"):
        headers = {"X-Priority": asked} if asked else {}
        for _ in range(2):  # the second time from the cache
            eight = client.post("/embed", json={"text": "a b c d e f g h"}, headers=headers)
            nine = client.post("/embed", json={"text": "a b c d e f g h i"}, headers=headers)
            assert (lane(eight), lane(nine)) == ("interactive", "bulk")
    reply = client.post("/settings", json={"key": "interactive_max_tokens", "value": 9})
    assert reply.status_code == 200
    assert lane(client.post("/embed", json={"text": "a b c d e f g h i"})) == "interactive"


def test_a_refusal_says_the_lane(config_of: Callable[..., Config]) -> None:
    app = create_app(config_of(max_queue_tokens=1024), wait=True)
    client, model = app.test_client(), app.extensions["services"].engine.registry.default
    encoder = model.held.encoder
    texts = [" ".join([f"t{n}"] * 16) for n in range(65)]
    with ThreadPoolExecutor(2) as pool, gated() as gate:
        first = pool.submit(app.test_client().post, "/embed", json={"text": "first"})
        assert gate.entered.wait(60)
        second = pool.submit(app.test_client().post, "/embed", json={"texts": texts})
        until(lambda: encoder.queued()[0] == 1)
        refused = client.post("/embed", json={"text": "more", "priority": "bulk"})
        gate.opened.set()
        assert (first.result(60).status_code, second.result(60).status_code) == (200, 200)
    assert (refused.status_code, lane(refused)) == (429, "bulk")
    assert int(refused.headers["Retry-After"]) >= 1


def test_a_refusal_of_a_request_that_waited_for_anothers_vectors_says_its_lane(
    config_of: Callable[..., Config],
) -> None:
    app = create_app(config_of(request_deadline_s=0.5), wait=True)
    with ThreadPoolExecutor(1) as pool, gated() as gate:
        running = pool.submit(app.test_client().post, "/embed", json={"text": "a"})
        assert gate.entered.wait(60)
        late = app.test_client().post("/embed", json={"text": "a"})
        gate.opened.set()
        running.result(60)
    assert (late.status_code, lane(late)) == (504, "interactive")


def test_a_key_may_be_held_to_bulk_and_its_owner_may_not_undo_it_with_it(
    client: FlaskClient, admin: dict[str, str]
) -> None:
    uma = add_user(client, admin, "uma")
    made = client.post("/users/uma/api-key", json={"priority": "bulk"}, headers=uma)
    assert made.status_code == 201 and made.json["priority"] == "bulk"
    held = bearer(made.json["api_key"])
    body = {"texts": ["a"], "priority": "interactive"}
    assert lane(client.post("/embed", json=body, headers=held)) == "bulk"
    assert lane(client.post("/embed", json=body, headers=uma)) == "interactive"
    listed = client.get("/users/uma/api-keys", headers=uma).json["api_keys"]
    assert [key["priority"] for key in listed] == ["bulk"]
    assert client.post("/users/uma/api-key", headers=held).status_code == 403
    path = f"/users/uma/api-keys/{made.json['id']}/rotate"
    rotated = client.post(path, headers=uma).json
    assert rotated["priority"] == "bulk"
    assert lane(client.post("/embed", json=body, headers=bearer(rotated["api_key"]))) == "bulk"


def test_a_key_may_be_interactive_unless_its_requests_say_otherwise(
    client: FlaskClient, admin: dict[str, str]
) -> None:
    made = client.post("/users/admin/api-key", json={"priority": "interactive"}, headers=admin)
    key = bearer(made.json["api_key"])
    assert lane(client.post("/embed", json={"texts": MANY}, headers=key)) == "interactive"
    body = {"texts": ["a"], "priority": "bulk"}
    assert lane(client.post("/embed", json=body, headers=key)) == "bulk"
    wrong = client.post("/users/admin/api-key", json={"priority": "slow"}, headers=admin)
    assert wrong.status_code == 422 and "'interactive' or 'bulk'" in wrong.text


def test_a_roles_requests_are_bulk_unless_they_say_otherwise(
    make_app: Callable[..., Flask],
) -> None:
    client = make_app(bulk_roles=("reader",)).test_client()
    token = client.post("/token", json={"username": ADMIN[0], "password": ADMIN[1]}).json
    root = bearer(token["access_token"])
    rita = add_user(client, root, "rita", "reader")
    assert lane(client.post("/embed", json={"text": "a"}, headers=rita)) == "bulk"
    assert lane(client.post("/embed", json={"text": "a"}, headers=root)) == "interactive"
    body = {"text": "a", "priority": "interactive"}
    assert lane(client.post("/embed", json=body, headers=rita)) == "interactive"
    changed = client.post("/settings", json={"key": "bulk_roles", "value": ["admin"]}, headers=root)
    assert changed.status_code == 200
    assert lane(client.post("/embed", json={"text": "a"}, headers=rita)) == "interactive"
    assert lane(client.post("/embed", json={"text": "a"}, headers=root)) == "bulk"


def test_settings_are_read_strictly() -> None:
    for name, value in (("INTERACTIVE_P99_MS", "0"), ("INTERACTIVE_MAX_TOKENS", "0"),
                        ("BULK_ROLES", "boss")):  # fmt: skip
        with pytest.raises(ConfigError, match=name):
            load_config({name: value})
    config = load_config({"BULK_ROLES": "reader, user", "INTERACTIVE_P99_MS": "80"})
    assert config.bulk_roles == ("reader", "user") and config.interactive_p99_ms == 80


@pytest.fixture
def engine(fake_app: Flask) -> Iterator[Engine]:
    yield fake_app.extensions["services"].engine


def missed(model: str = "fake") -> float:
    return metrics.PROMISE_MISSED.labels(model)._value.get()


def test_a_promise_may_be_made_while_the_service_runs_and_reaches_the_model(
    fake_app: Flask, engine: Engine
) -> None:
    client = fake_app.test_client()
    encoder = engine.registry.default.held.encoder  # type: ignore[union-attr]
    reply = client.post("/settings", json={"key": "interactive_p99_ms", "value": 250})
    assert reply.status_code == 200
    assert engine.lanes.promise_s == 0.25
    assert encoder._limits == Limits(promise_ms=250)  # type: ignore[attr-defined]
    assert engine.registry.default.held.encoder is encoder  # type: ignore[union-attr]
    assert client.delete("/settings/interactive_p99_ms").status_code == 200
    assert engine.lanes.promise_s is None


def test_interactive_requests_over_the_promise_are_counted_and_bulk_ones_are_not(
    fake_app: Flask, engine: Engine
) -> None:
    client = fake_app.test_client()
    before = missed()
    client.post("/embed", json={"text": "not promised"})
    assert missed() == before
    client.post("/settings", json={"key": "interactive_p99_ms", "value": 1e-6})
    client.post("/embed", json={"text": "late"})
    client.post("/embed", json={"texts": ["late too"], "priority": "bulk"})
    assert missed() == before + 1
    with pytest.raises(DeadlineExceeded):
        engine.embed(EmbedRequest(["at its deadline"], deadline=time.monotonic() - 1))
    assert missed() == before + 2
    client.post("/settings", json={"key": "interactive_p99_ms", "value": 60_000})
    client.post("/embed", json={"text": "in time"})
    assert missed() == before + 2
