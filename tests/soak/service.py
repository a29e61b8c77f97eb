"""The service on its real model, whose device fails now and then: what the soak runs.

Every so many passes the device's memory is "full", which is simulated here at the embedder's edge;
a text that holds the poison always fails. All else is what `app.py` serves.
"""

import itertools
from collections.abc import Callable

import embedders
from config import load_config
from embedders.base import Embedder, OutOfMemory, Prompt
from factory import create_worker
from observability.logs import configure

POISON = "a text that the simulated device cannot bear"
FULL_EVERY = 50  # passes


def build(spec, settings, *args: object) -> Embedder:
    """Build the real embedder and make it fail on purpose."""
    made = embedders.build(spec, settings, *args)
    made.encode = failing(made.encode, made.prepare([POISON], Prompt(), "right")[0].payload)
    return made


def failing(encode: Callable, poison: list[int]) -> Callable:
    """Fail on the poison, and every so often as a device whose memory is full."""
    passes = itertools.count(1)

    def hurting(items, deadline=None):
        if any(list(item.payload) == list(poison) for item in items):
            raise RuntimeError("the simulated device refuses")
        if len(items) > 1 and next(passes) % FULL_EVERY == 0:
            raise OutOfMemory("the simulated device is full")
        return encode(items, deadline)

    return hurting


def __getattr__(name: str):
    """Build `app` when gunicorn asks for it."""
    if name != "app":
        raise AttributeError(name)
    config = load_config()
    configure(config.log_level, config.log_format)
    globals()["app"] = create_worker(config, build=build)
    return globals()["app"]
