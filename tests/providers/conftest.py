"""Fixtures of the remote providers: a server that behaves as they do, and models on it."""

from collections.abc import Callable, Iterator

import pytest

import embedders
from config import Config, ModelSpec
from embedders.providers import Providers
from embedders.remote import RemoteEmbedder
from tests.providers.server import KEY, FakeProvider


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    server = FakeProvider()
    yield server
    server.shutdown()
    server.server_close()


def loopback(**settings: object) -> Config:
    given = {"provider_networks": "127.0.0.0/8", "provider_http_hosts": "127.0.0.1,localhost"}
    return Config.model_validate({"provider_timeout_s": 5, **given, **settings})


@pytest.fixture
def remote(provider: FakeProvider) -> Iterator[Callable[..., RemoteEmbedder]]:
    """Make a remote model of a type on the fake provider."""
    opened: list[Providers] = []

    def make(
        kind: str = "openai", *, settings: dict | None = None, **entry: object
    ) -> RemoteEmbedder:
        paths = {"openai": "/v1", "cohere": "", "huggingface": "/own"}
        given = {"model_name": "m", "base_url": provider.url + paths[kind], "provider": kind}
        spec = ModelSpec.model_validate({"id": kind, "type": kind, **given, **entry})
        config = loopback(**(settings or {}))
        opened.append(Providers(config, lambda name: KEY))
        made = embedders.build(spec, config, opened[-1])
        assert isinstance(made, RemoteEmbedder)
        return made

    yield make
    for each in opened:
        each.close()
