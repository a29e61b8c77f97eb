"""A replica on another machine is asked in the lane of the request."""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from config import ModelSpec
from config.serving import Lane
from embedders.base import Prompt
from embedders.fake import FakeEmbedder
from embedders.providers import Providers
from embedders.remote_replica import FINGERPRINT, RemoteReplica
from serving.encoder import Encoder
from tests.providers.conftest import loopback, provider
from tests.providers.server import KEY, FakeProvider, Handler

__all__ = ["provider"]


@pytest.fixture
def providers() -> Iterator[Providers]:
    with closing(Providers(loopback(), lambda name: KEY)) as made:
        yield made


@pytest.mark.parametrize("lane", ["interactive", "bulk"])
def test_a_remote_replica_is_sent_the_lane(
    provider: FakeProvider, providers: Providers, lane: Lane
) -> None:
    primary = FakeEmbedder()

    def answer(handler: Handler, body: dict) -> None:
        rows = [
            {"index": index, "embedding": primary.vector(text).tolist()}
            for index, text in enumerate(body["input"])
        ]
        headers = {FINGERPRINT: primary.facts.fingerprint}
        handler.reply(json.dumps({"data": rows}).encode(), headers=headers)

    provider.always = answer
    spec = ModelSpec(id="m", model_name="m", type="fake", base_url=f"{provider.url}/v1")
    replica = RemoteReplica(spec, providers)
    replica.become_replica_of(primary)
    items = [
        replace(item, lane=lane) for item in replica.prepare(["one", "two"], Prompt(), "right")
    ]
    got = Encoder(replica).encode(items, time.monotonic() + 30).vectors
    np.testing.assert_allclose(got, [primary.vector(text) for text in ("one", "two")], rtol=1e-6)
    assert [headers["X-Priority"] for _, headers, _ in provider.seen] == [lane]
