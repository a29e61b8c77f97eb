"""What the model's failures lead to. Devices are simulated at the embedder's edge (hurting.py)."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from config import Config, ModelSpec
from embedders.base import Prompt
from errors import ClientGone, DeadlineExceeded, Full, Invalid, ServiceError, Unavailable
from serving.batcher import Batcher
from serving.encoder import Encoder, Place
from serving.health import EXIT_CODE, unhealthy_reason, watch
from serving.model import Loaded, Model
from serving.replicas import Replicas
from tests.faults.conftest import until
from tests.faults.hurting import FITS, Hurting


@pytest.fixture
def hurting() -> Hurting:
    return Hurting()


@pytest.fixture
def batcher(hurting: Hurting) -> Batcher:
    return Batcher(hurting, max_tokens=1000)


def embed(batcher: Batcher, *texts: str, **how: object) -> np.ndarray:
    items = batcher.embedder.prepare(texts, Prompt(), "right")
    return batcher.encode(items, **how).vectors


@pytest.mark.fault("Models and devices")
def test_rows_that_are_not_numbers_are_made_again_once_in_float32(batcher, hurting) -> None:
    """A vector that is not finite -> computed once more in float32."""
    rows = embed(batcher, "fine", "nan")
    assert np.isfinite(rows).all() and hurting.exact == 1
    assert np.array_equal(rows[1], hurting.vector("nan"))


@pytest.mark.fault("Models and devices")
def test_a_row_that_stays_no_number_fails_that_request_alone(batcher) -> None:
    """A vector that is not finite in float32 either -> 500 for that request only."""
    with pytest.raises(ServiceError, match="not a number") as failed:
        embed(batcher, "fine", "never")
    assert failed.value.status == 500
    assert np.isfinite(embed(batcher, "fine")).all()


@pytest.mark.fault("Models and devices")
def test_a_full_memory_halves_the_pass_and_every_text_is_served(batcher, hurting) -> None:
    """The device's memory is full -> the pass is halved until it fits."""
    texts = [f"big {i}" for i in range(16)]
    rows = embed(batcher, *texts)
    assert np.array_equal(rows, [hurting.vector(text) for text in texts])
    assert hurting.sizes == [16, 8, 4, 4, 8, 4, 4] and FITS == 4


@pytest.mark.fault("Models and devices")
def test_after_a_full_memory_passes_are_smaller_for_a_while(batcher, hurting) -> None:
    """The device's memory is full -> passes are smaller for a while."""
    assert batcher._forward.budget == 1
    embed(batcher, *[f"big {i}" for i in range(8)])
    assert batcher._forward.budget == 0.5


def test_a_text_too_large_for_the_memory_alone_is_refused_alone(batcher) -> None:
    with pytest.raises(Full):
        embed(batcher, "huge")
    assert len(embed(batcher, "fine")) == 1


@pytest.mark.fault("Models and devices")
def test_a_poisonous_text_harms_nobody_else_in_its_pass(batcher, hurting) -> None:
    """A text that the model cannot encode -> 422 for that text only."""
    with pytest.raises(Invalid, match="input 1"):
        embed(batcher, "fine", "bad", "fine too")


@pytest.mark.fault("Models and devices")
def test_a_lost_device_fails_all_at_once_and_lets_nobody_wait(batcher, hurting) -> None:
    """The device is lost: an error that persists -> every waiting request fails at once."""
    with pytest.raises(Unavailable):
        embed(batcher, "sticky", "b", "c", "d")
    assert hurting.sizes == [4]  # no halving: every call would fail
    with pytest.raises(Unavailable):
        embed(batcher, "fine")


@pytest.mark.fault("Overload")
def test_a_deadline_that_passes_during_the_pass_is_told_and_harms_no_other(batcher) -> None:
    """The deadline passes during the pass -> 504; the others of the pass get their vectors."""
    import time

    with pytest.raises(DeadlineExceeded):
        embed(batcher, "slow", deadline=time.monotonic() + 0.1)
    assert len(embed(batcher, "fine")) == 1


def test_a_client_that_is_gone_costs_no_pass(batcher, hurting) -> None:
    with pytest.raises(ClientGone):
        embed(batcher, "fine", gone=lambda: True)
    assert hurting.sizes == []


class Names:
    """As much of a registry as the health watch looks at."""

    def __init__(self, model: Model) -> None:
        self.models, self.default = {"fake": model}, model
        self.tried, self.lost = threading.Event(), None


def served(encoder: Encoder) -> Model:
    made = Model(ModelSpec(id="fake", type="fake", model_name="tests/fake"), Config())
    made.put(Loaded(encoder, 0.0))
    return made


@pytest.fixture
def model(batcher: Batcher) -> Model:
    return served(batcher)


def test_health_is_told_without_a_pass_while_passes_succeed(model, batcher, hurting) -> None:
    embed(batcher, "fine")
    assert unhealthy_reason(model) is None and hurting.sizes == [1]


def test_health_fails_while_the_model_cannot_encode_and_heals_with_it(
    model, batcher, hurting
) -> None:
    hurting.down = True
    with pytest.raises(Invalid):
        embed(batcher, "fine")
    assert unhealthy_reason(model) == "the model's last pass failed"
    hurting.down = False
    until(lambda: unhealthy_reason(model) is None)  # by a real trial


def test_one_poisonous_text_does_not_make_the_service_unhealthy(model, batcher) -> None:
    with pytest.raises(Invalid):
        embed(batcher, "bad")
    until(lambda: unhealthy_reason(model) is None)


@pytest.mark.fault("Models and devices")
def test_a_hanging_pass_is_seen_and_ends_the_process(hurting) -> None:
    """A pass takes longer than `ENCODE_TIMEOUT` -> `/health` is 503, and the process ends."""
    batcher = Batcher(hurting, max_tokens=1000, hung_after_s=0.2)
    model = served(batcher)
    thread = threading.Thread(target=lambda: embed(batcher, "hang"), daemon=True)
    thread.start()
    until(lambda: unhealthy_reason(model))
    assert "has taken" in str(unhealthy_reason(model))
    ended: list[int] = []
    stop = watch(Names(model), ended.append)
    until(lambda: ended)
    stop.set()
    assert ended == [EXIT_CODE]


def test_a_healthy_model_is_not_ended_by_the_watch(model, batcher) -> None:
    ended: list[int] = []
    stop = watch(Names(model), ended.append)
    embed(batcher, "fine")
    assert not stop.wait(1.2) and not ended
    stop.set()


@pytest.fixture
def pair() -> Iterator[tuple[Model, list[Hurting]]]:
    """A model of two replicas, both up."""
    copies = [Hurting(), Hurting()]
    encoders = [Batcher(copy, max_tokens=1000) for copy in copies]
    replicas = Replicas(list(zip("01", encoders, strict=True)))
    until(lambda: {row["status"] for row in replicas.status()} == {"up"})
    yield served(replicas), copies
    replicas.close()


def on(place: Place, text: str) -> None:
    encoder = place.encoder
    encoder.encode(encoder.embedder.prepare([text], Prompt(), "right"))


def test_a_model_of_replicas_is_well_while_one_of_them_is(pair) -> None:
    model, copies = pair
    for place, copy in zip(model.loaded.encoder.places, copies, strict=True):
        assert unhealthy_reason(model) is None
        copy.down = True
        with pytest.raises(Invalid):
            on(place, "fine")
    assert unhealthy_reason(model) == (
        "no replica can encode (0: the model's last pass failed; 1: the model's last pass failed)"
    )
    copies[1].down = False
    until(lambda: unhealthy_reason(model) is None)


@pytest.mark.fault("Models and devices")
def test_a_lost_device_of_one_replica_ends_the_process(pair) -> None:
    """The device of one replica is lost -> the worker ends."""
    model, _ = pair
    with pytest.raises(Unavailable):
        on(model.loaded.encoder.places[1], "sticky")
    assert unhealthy_reason(model) is None  # the other one serves, but this one cannot heal
    ended: list[int] = []
    stop = watch(Names(model), ended.append)
    until(lambda: ended)
    stop.set()
    assert ended == [EXIT_CODE]


def test_a_client_that_is_gone_costs_no_pass_of_a_replica(pair) -> None:
    model, copies = pair
    passes = [len(copy.sizes) for copy in copies]
    items = copies[0].prepare(["fine"], Prompt(), "right")
    with pytest.raises(ClientGone):
        model.loaded.encoder.encode(items, gone=lambda: True)
    assert [len(copy.sizes) for copy in copies] == passes
