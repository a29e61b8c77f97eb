"""Holds the passes of the fake model, so that a test looks while a request is encoded."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from embedders.base import Item
from embedders.fake import FakeEmbedder


class Gate(NamedTuple):
    """Whether a pass has begun, and what lets all passes go on."""

    entered: threading.Event
    opened: threading.Event


@contextmanager
def gated() -> Iterator[Gate]:
    """Hold every pass that begins inside the block until the gate is opened, or the block ends."""
    gate, encode = Gate(threading.Event(), threading.Event()), FakeEmbedder.encode

    def held(self: FakeEmbedder, items: list[Item], *more: object) -> object:
        gate.entered.set()
        assert gate.opened.wait(60)
        return encode(self, items)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeEmbedder, "encode", held)
        try:
            yield gate
        finally:
            gate.opened.set()
