"""What a provider's host and its models count as, from unchecked to key wrong."""

import time
from collections.abc import Callable, Iterator

import pytest
from flask.testing import FlaskClient

from config import Config
from embedders import remote
from factory import create_app
from tests.provider_keys.conftest import OTHER, SECRET, A
from tests.providers.server import FakeProvider


@pytest.fixture
def client(config_of: Callable[..., Config], provider: FakeProvider) -> Iterator[FlaskClient]:
    """A service on a model of the provider, whose key is kept in SQL."""
    entry = {"type": "openai", "model_name": "m", "provider": "openai"}
    models = {
        "m": {**entry, "base_url": f"{provider.url}/v1"},
        "fake": {"type": "fake", "model_name": "tests/fake"},
    }
    config = config_of(
        models, model="fake", encryption_key=A, cache="none",
        provider_networks="127.0.0.0/8", provider_http_hosts="127.0.0.1",
    )  # fmt: skip
    app = create_app(config, wait=True)
    yield app.test_client()
    app.extensions["services"].provider_keys.close()
    app.extensions["services"].providers.close()


def openai(client: FlaskClient) -> dict:
    rows = client.get("/providers").json["providers"]
    return next(row for row in rows if row["provider"] == "openai")


def state(client: FlaskClient) -> str:
    """The provider's state, which is that of its only host."""
    row = openai(client)
    [host] = row["hosts"].values()
    assert host["state"] == row["state"]
    return row["state"]


def model(client: FlaskClient) -> tuple[str, str]:
    """The model's status, on both pages that tell it."""
    return client.get("/models/m").json["status"], client.get("/health").json["models"]["m"][
        "status"
    ]


def store(client: FlaskClient, key: str) -> None:
    assert client.post("/providers/openai/api-key", json={"api_key": key}).status_code == 200


def embeds(client: FlaskClient) -> int:
    return client.post("/embed", json={"text": "x", "model": "m"}).status_code


@pytest.mark.fault("Providers")
def test_a_wrong_key_makes_no_model_green(client: FlaskClient, provider: FakeProvider) -> None:
    """A wrong key is stored -> after the first test or request the model is `unavailable`, and its
    provider `key_wrong`, until another key is stored.
    """
    assert state(client) == "unchecked"
    store(client, "sk-wrong-but-long-enough")
    assert state(client) == "unchecked", "a host that was never called is not well"
    provider.always = (401, {})
    assert client.post("/providers/openai/test").status_code == 503
    assert state(client) == "key_wrong"
    assert "its key is refused" in openai(client)["problem"]
    assert model(client) == ("unavailable", "unavailable")
    assert "its key is refused" in client.get("/models/m").json["reason"]
    provider.always = None
    store(client, SECRET)
    assert state(client) == "unchecked" and openai(client)["problem"] is None
    assert model(client) == ("ready", "ready")
    assert embeds(client) == 200
    assert state(client) == "reachable"


def test_a_first_request_with_a_wrong_key_tells_too(
    client: FlaskClient, provider: FakeProvider
) -> None:
    store(client, OTHER)
    provider.always = (403, {})
    assert embeds(client) == 503
    assert (state(client), model(client)) == ("key_wrong", ("unavailable", "unavailable"))
    provider.always = None
    assert embeds(client) == 200, "a request tries it all the same"
    assert (state(client), model(client)) == ("reachable", ("ready", "ready"))


def test_a_refused_key_stays_wrong_whatever_fails_after_that(
    client: FlaskClient, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timeout or a full quota after a 401 says nothing for the key: the model stays red."""
    monkeypatch.setattr("embedders.retry.BACKOFF_S", (0.0, 0.0))
    store(client, OTHER)
    provider.always = (401, {})
    assert embeds(client) == 503
    for status in (500, 429, 400, 404):
        provider.always = (status, {})
        assert embeds(client) != 200
        assert (state(client), model(client)[0]) == ("key_wrong", "unavailable"), status
        assert "its key is refused" in openai(client)["problem"]
    provider.always = None
    assert embeds(client) == 200
    assert (state(client), model(client)[0]) == ("reachable", "ready")


def test_a_model_tells_how_its_provider_is(client: FlaskClient, provider: FakeProvider) -> None:
    def told(model: str = "m") -> dict | None:
        return client.get(f"/models/{model}").json["provider"]

    assert told("fake") is None
    assert told() == {"name": "openai", "state": "no_key"}
    store(client, SECRET)
    assert told() == {"name": "openai", "state": "unchecked"}
    assert embeds(client) == 200
    assert told() == {"name": "openai", "state": "reachable"}
    provider.always = (403, {})
    embeds(client)
    assert told() == {"name": "openai", "state": "key_wrong"}
    store(client, OTHER)
    assert told() == {"name": "openai", "state": "unchecked"}, "nothing is known of another key"


def test_a_key_that_is_taken_away_leaves_nothing_well(client: FlaskClient) -> None:
    store(client, SECRET)
    assert embeds(client) == 200 and state(client) == "reachable"
    assert client.delete("/providers/openai/api-key").status_code == 200
    row = openai(client)
    assert (row["state"], row["configured"]) == ("unchecked", False)
    assert model(client) == ("unavailable", "unavailable")


def test_a_host_that_fails_is_failing_and_then_open(
    client: FlaskClient, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedders.retry.BACKOFF_S", (0.0, 0.0))
    store(client, SECRET)
    provider.always = (500, {})
    assert embeds(client) == 502
    assert state(client) == "failing" and "answered 500" in openai(client)["problem"]
    while state(client) == "failing":
        embeds(client)
    assert state(client) == "open"
    assert model(client) == ("ready", "ready"), "the next request finds it well, perhaps"


def test_a_request_that_is_wrong_says_nothing_of_the_host(
    client: FlaskClient, provider: FakeProvider
) -> None:
    store(client, SECRET)
    assert embeds(client) == 200
    provider.always = (400, {})
    assert embeds(client) == 400
    assert state(client) == "reachable"


def test_a_refused_key_is_tried_again_though_nobody_asks(
    client: FlaskClient, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a service whose default model it is gets no request by which it could be well again."""
    store(client, SECRET)
    provider.always = (401, {})
    assert embeds(client) == 503
    calls = len(provider.seen)
    for _ in range(5):
        assert model(client)[0] == "unavailable"
    assert len(provider.seen) == calls, "not before a minute has passed"
    provider.always = None
    monkeypatch.setattr(remote, "REFUSED_S", 0.0)
    end = time.monotonic() + 60
    while model(client)[0] != "ready":
        assert time.monotonic() < end
        time.sleep(0.01)
    assert state(client) == "reachable"
