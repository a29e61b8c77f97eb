"""Replicas: shared out by load, left out when they fail, probed back in, one space only."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from config import ModelSpec
from embedders.base import Prompt
from embedders.fake import FakeEmbedder
from embedders.openai import OpenAIEmbedder
from embedders.providers import Providers
from errors import BadRequest, ModelUnavailable, Unavailable
from factory import create_app
from serving import replicas
from serving.batcher import Batcher
from serving.encoder import Encoder
from serving.replicas import Missing, Replicas
from tests.providers.conftest import loopback
from tests.providers.server import KEY, FakeProvider


class Copy(FakeEmbedder):
    """A copy that can be told to fail, to wait, or to be another model."""

    def __init__(self, name="m", noise=""):
        super().__init__(name)
        self.noise, self.broken, self.calls = noise, False, 0
        self.go_on = threading.Event()
        self.go_on.set()
        self.threads = set()

    def encode(self, items, deadline=None, gone=None):
        self.calls += 1
        self.threads.add(threading.current_thread().name)
        assert self.go_on.wait(60)
        if self.broken:
            raise RuntimeError("this copy is broken")
        return super().encode(items, deadline)

    def vector(self, text):
        return super().vector(self.noise + text)


@pytest.fixture
def lane_of():
    lanes = []

    def make(*copies):
        lanes.append(Replicas([(f"r{i}", Encoder(c)) for i, c in enumerate(copies)]))
        return lanes[-1]

    yield make
    for lane in lanes:
        lane.close()


def items_of(copy, *texts):
    return copy.prepare(texts, Prompt(), "right")


def shown(lane, what):
    return [row[what] for row in lane.status()]


def eventually(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def until(lane, states):
    eventually(lambda: shown(lane, "status") == states)


def test_the_least_busy_replica_gets_the_request(lane_of):
    one, two = Copy(), Copy()
    lane = lane_of(one, two)
    until(lane, ["up", "up"])
    one.go_on.clear()
    two.go_on.clear()
    threads = []
    for count, queued in ((9, [0, 9]), (1, [1, 9]), (1, [2, 9])):
        items = items_of(one, *["t"] * count)
        threads.append(threading.Thread(target=lane.encode, args=(items,)))
        threads[-1].start()
        eventually(lambda queued=queued: sorted(shown(lane, "queued_tokens")) == queued)
    one.go_on.set()
    two.go_on.set()
    for thread in threads:
        thread.join()
    assert shown(lane, "queued_tokens") == [0, 0]


def test_one_that_fails_is_left_out_and_probed_back_in_beside_the_requests(lane_of):
    one, two = Copy(), Copy()
    lane = lane_of(one, two)
    until(lane, ["up", "up"])
    one.broken = True
    for _ in range(6):
        assert len(lane.encode(items_of(two, "t")).vectors) == 1
    until(lane, ["down", "up"])
    one.threads.clear()
    one.broken = False
    until(lane, ["up", "up"])
    assert one.threads == {"replica r0-probe"}


def test_when_none_is_up_the_reasons_are_told(lane_of):
    one, two = Copy(), Copy()
    lane = lane_of(one, two)
    until(lane, ["up", "up"])
    one.broken = two.broken = True
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            lane.encode(items_of(one, "t"))
    assert "RuntimeError" in caught.value.message
    assert caught.value.retry_after_s


def test_a_bad_request_is_nobodys_failure(lane_of):
    one, two = Copy(), Copy()
    lane = lane_of(one, two)
    until(lane, ["up", "up"])

    def refuse(items, deadline=None, gone=None):
        raise BadRequest("too long")

    one.encode = two.encode = refuse
    with pytest.raises(BadRequest):
        lane.encode(items_of(one, "t"))
    assert [row["status"] for row in lane.status()] == ["up", "up"]


def test_another_space_is_refused_by_its_fingerprint_or_its_vectors(lane_of):
    with pytest.raises(ModelUnavailable, match="one embedding space"):
        lane_of(Copy("m"), Copy("n"))
    one, liar = Copy(), Copy(noise="other weights")
    lane = lane_of(one, liar)
    until(lane, ["up", "down"])
    right = one.vector("t")
    for _ in range(10):
        np.testing.assert_array_equal(lane.encode(items_of(one, "t")).vectors[0], right)
    assert "not those of the first" in str(lane.status()[1]["reason"])


def test_one_that_did_not_load_is_tried_again_and_proved(monkeypatch):
    monkeypatch.setattr(replicas, "LOAD_PAUSES_S", (0.01,))
    first, second = Copy(), Copy()
    failures = [ModelUnavailable("the GPU is full"), RuntimeError("it is not there"), None]

    def load():
        if failure := failures.pop(0):
            raise failure
        return Encoder(second)

    lane = Replicas([("r0", Encoder(first))], [Missing("r1", "the GPU was full", load)])
    assert [row["status"] for row in lane.status()][0] == "up"
    until(lane, ["up", "up"])
    assert not failures
    first.broken = True
    assert len(lane.encode(items_of(first, "t")).vectors) == 1
    lane.close()


def test_what_loads_later_is_of_the_same_space_or_not_taken(monkeypatch):
    monkeypatch.setattr(replicas, "LOAD_PAUSES_S", (0.01,))
    first, stranger = Copy(), Copy("other")
    closed = threading.Event()
    stranger.close = closed.set
    missing = Missing("r1", "?", lambda: Encoder(stranger))
    lane = Replicas([("r0", Encoder(first))], [missing])
    assert closed.wait(60)
    until(lane, ["up", "down"])
    assert "embedding space" in lane.status()[1]["reason"]
    lane.close()


def test_what_loads_after_the_end_is_given_back(monkeypatch):
    monkeypatch.setattr(replicas, "LOAD_PAUSES_S", (0.01,))
    first, second = Copy(), Copy()
    loading, ended, closed = threading.Event(), threading.Event(), threading.Event()
    second.close = closed.set

    def load():
        loading.set()
        assert ended.wait(60)
        return Encoder(second)

    lane = Replicas([("r0", Encoder(first))], [Missing("r1", "?", load)])
    assert loading.wait(60)
    lane.close()
    ended.set()
    assert closed.wait(60)


def test_nothing_fails_when_one_of_two_addresses_dies_under_load():
    servers = FakeProvider(), FakeProvider()
    urls = [f"{server.url}/v1" for server in servers]
    spec = ModelSpec(id="o", type="openai", model_name="m", base_urls=urls, provider="openai")
    providers = Providers(loopback(), lambda name: KEY)
    copies = [OpenAIEmbedder(spec.model_copy(update={"base_url": u}), providers) for u in urls]
    lane = Replicas([(u, Encoder(c)) for u, c in zip(urls, copies, strict=True)])
    failures, answers, stop = [], [], threading.Event()

    def work():
        while not stop.is_set():
            try:
                lane.encode(items_of(copies[0], f"text {len(answers)}"), time.monotonic() + 60)
                answers.append(1)
            except Exception as exc:
                failures.append(exc)
            stop.wait(0.02)

    def go_on():
        known = len(answers)
        eventually(lambda: len(answers) > known + 50)

    until(lane, ["up", "up"])
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    go_on()
    servers[0].always = (500, {})
    until(lane, ["down", "up"])
    go_on()
    servers[0].always = "good"
    until(lane, ["up", "up"])
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    lane.close()
    providers.close()
    for server in servers:
        server.shutdown()
        server.server_close()


def test_several_local_copies_show_in_the_model_page(config_of):
    entry = {"type": "fake", "model_name": "f", "devices": ["cpu", "cpu"]}
    app = create_app(config_of({"f": entry}), wait=True)
    lane = app.extensions["services"].engine.registry.default.loaded.encoder
    until(lane, ["up", "up"])
    client = app.test_client()
    assert client.post("/embed", json={"texts": ["a", "b"]}).status_code == 200
    rows = client.get("/models/f").json["replicas"]
    assert [row["name"] for row in rows] == ["cpu#0", "cpu#1"]
    assert isinstance(lane.places[0].encoder, Batcher)
    lane.close()


def test_a_copy_of_dense_vectors_alone_is_asked_for_nothing_else(lane_of):
    """Another copy of this service, behind its `/v1`, gives neither states of tokens nor chunks."""

    class DenseOnly(Copy):
        dense_only = True

    far, here = DenseOnly(), Copy()
    lane = lane_of(far, here)
    until(lane, ["up", "up"])
    before = far.calls
    asked = [replace(item, outputs=("tokens",)) for item in items_of(here, "a b", "c")]
    for _ in range(3):
        rows = lane.encode(asked).columns["tokens"]
        assert [row.shape for row in rows] == [(2, 8), (1, 8)]
    lane.encode(here.prepare_chunks([["a", "b"]], Prompt(), None))
    assert far.calls == before and shown(lane, "status") == ["up", "up"]
    here.broken = True
    until_down = items_of(here, "a")
    lane.encode(until_down)  # the other has dense vectors
    with pytest.raises(Unavailable):
        lane.encode(asked)
