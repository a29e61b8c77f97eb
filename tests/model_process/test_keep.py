"""What a caller of one worker wishes for a model's memory is done where the model is."""

import math
from collections.abc import Callable

import numpy as np

from serving.encoder import Encoder
from tests.faults.conftest import until
from tests.model_process.clients import Client, encode
from tests.model_process.hand import FAKE, right


def test_a_wish_decides_when_an_idle_model_is_unloaded_until_it_is(
    clients: Callable[..., Client],
) -> None:
    encoder = clients().encoder(idle_unload_s=300)
    assert np.array_equal(encode(encoder.embedder, "a"), right(["a"]))
    encoder.keep(0)
    until(lambda: encoder.health().unloaded)
    assert np.array_equal(encode(encoder.embedder, "a"), right(["a"]))
    until(lambda: not encoder.health().unloaded)
    encoder.keep(math.inf)
    encoder.keep(0)
    until(lambda: encoder.health().unloaded)


def test_a_wish_for_good_holds_and_nothing_leaves_where_no_idle_model_does(
    clients: Callable[..., Client],
) -> None:
    def encoder(name: str, idle_s: float | None) -> Encoder:
        given = {"model_name": f"tests/{name}", "idle_unload_s": idle_s}
        return clients().encoder(FAKE.model_copy(update=given))

    kept, never = encoder("kept", 0.5), encoder("never", None)
    kept.keep(math.inf)
    never.keep(0)
    leaving = encoder("leaving", 0.5)
    until(lambda: leaving.health().unloaded)
    assert not kept.health().unloaded and not never.health().unloaded
