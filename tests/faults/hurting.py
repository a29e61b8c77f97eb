"""The service on an embedder that fails as devices do, when a text's words ask for it.

What CUDA does is simulated here, at the embedder's edge: there is no GPU in these tests.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from config import ModelSettings, ModelSpec, load_config
from embedders.base import (
    DeviceBroken,
    Embedder,
    Encoded,
    Input,
    Item,
    OutOfMemory,
    Prompt,
    Truncate,
)
from embedders.fake import FakeEmbedder
from observability.logs import configure

# A file: while it is there, what it says happens to whoever loads the model: `kill fail wait`; to
# one process alone if it names that, as in `wait 4711`.
WHILE_LOADING = os.environ.get("WHILE_LOADING")
# A file: as long as it is there, no pass over a text that says `held` ends.
HELD = os.environ.get("HELD")
DIMENSION = int(os.environ.get("DIMENSION", "8"))  # of its vectors: large ones make long replies
FITS = 4  # inputs that fit the simulated device when one of them says "big"


# A folder, made if the interpreter takes this module down, which no thread in C++ outlives.
TAKEN_DOWN = os.environ.get("TAKEN_DOWN")


class Last:
    """Tells of the interpreter's end."""

    def __del__(self, tell=os.mkdir, name=TAKEN_DOWN) -> None:
        if name:
            tell(name)


sys.told_at_the_end = Last()  # what is in `sys` goes last, whatever holds the modules


class Hurting(FakeEmbedder):
    """Obeys the words `slow held hang nan never big sticky bad bug` of the texts it encodes."""

    def __init__(self) -> None:
        super().__init__(dimension=DIMENSION, max_tokens=64)
        self.sizes: list[int] = []
        self.exact = 0
        self.down = False  # every pass fails until this is cleared

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        if any("bug" in str(given).split() for given in inputs):
            raise KeyError("an inner secret")
        return super().prepare(inputs, prompt, truncate)

    def encode(self, items: Sequence[Item], deadline: float | None = None) -> Encoded:
        texts = [str(item.payload) for item in items]
        words = {word for text in texts for word in text.split()}
        self.sizes.append(len(items))
        if self.down or "bad" in words:
            raise RuntimeError("the simulated device refuses")
        if "sticky" in words:
            raise DeviceBroken("CUDA error: device-side assert triggered")
        if "huge" in words or ("big" in words and len(items) > FITS):
            raise OutOfMemory("CUDA out of memory")
        if "hang" in words:
            threading.Event().wait()
        if "slow" in words:
            time.sleep(1)
        while "held" in words and HELD and Path(HELD).exists():
            time.sleep(0.02)
        encoded = super().encode(items)
        for row, text in enumerate(texts):
            if {"nan", "never"} & set(text.split()):
                encoded.vectors[row, 0] = np.nan
        return encoded

    def encode_exactly(self, items: Sequence[Item]) -> Encoded:
        self.exact += 1
        encoded = FakeEmbedder.encode(self, items)
        for row, item in enumerate(items):
            if "never" in str(item.payload).split():
                encoded.vectors[row, 0] = np.inf
        return encoded


def build(spec: ModelSpec, settings: ModelSettings) -> Embedder:
    """Build it, or be killed as the kernel does where memory runs out, or fail, or wait."""
    while WHILE_LOADING and Path(WHILE_LOADING).exists():
        what, *whom = (Path(WHILE_LOADING).read_text() or "wait").split()  # amid its writing: empty
        if whom and str(os.getpid()) not in whom:
            break
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "fail":
            raise RuntimeError("the simulated model cannot be loaded")
        logging.warning("the simulated model takes its time")
        time.sleep(0.2)
    return Hurting()


def __getattr__(name: str):
    """Build `app` when gunicorn asks for it, so that tests may import the rest."""
    if name != "app":
        raise AttributeError(name)
    from factory import create_worker  # a model process needs no web server's libraries

    config = load_config()
    configure(config.log_level, config.log_format)
    globals()["app"] = create_worker(config, build=build)
    return globals()["app"]
