"""Nothing is encoded for a client that hung up while it waited."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence

import pytest
from flask import Flask, request

from config import Config
from embedders.base import Encoded, Item
from embedders.fake import FakeEmbedder
from engine import EmbedRequest, Engine
from errors import ClientGone
from routes.budget import client_gone
from serving.registry import Registry


class Held(FakeEmbedder):
    """Once it is held, encodes nothing until it is opened; keeps what it encoded."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.entered, self.open = threading.Event(), threading.Event()
        self.open.set()

    def hold(self) -> None:
        self.seen.clear()
        self.entered.clear()
        self.open.clear()

    def encode(self, items: Sequence[Item], deadline: float | None = None) -> Encoded:
        self.entered.set()
        assert self.open.wait(60)
        self.seen += [str(item.payload) for item in items]
        return super().encode(items, deadline)


def test_a_caller_that_hung_up_costs_the_engine_no_pass(config_of: Callable[..., Config]) -> None:
    held, config = Held(), config_of()
    registry = Registry(*config.catalogue(), config, lambda spec, settings: held)
    registry.load_now()
    held.hold()  # it was tried when it was loaded
    engine, errors = Engine(registry), []
    first = threading.Thread(target=engine.embed, args=(EmbedRequest(["first"]),))
    first.start()
    assert held.entered.wait(60)

    def leaving() -> None:
        try:
            engine.embed(EmbedRequest(["left"], gone=lambda: True))
        except ClientGone as exc:
            errors.append(exc)

    second = threading.Thread(target=leaving)
    second.start()
    end = time.monotonic() + 20
    while registry.default.loaded.encoder.queued()[0] < 1 and time.monotonic() < end:
        time.sleep(0.01)
    held.open.set()
    first.join()
    second.join()
    assert len(errors) == 1
    assert held.seen == ["first"]


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def check(sock: socket.socket) -> bool:
    with Flask("t").test_request_context(environ_overrides={"gunicorn.socket": sock}):
        assert request
        gone = client_gone()
        assert gone is not None
        return gone()


def test_it_tells_who_waits_from_who_left(pair) -> None:
    ours, theirs = pair
    assert not check(ours)
    theirs.send(json.dumps({}).encode())  # the next request on the same connection
    assert not check(ours)
    ours.recv(10)
    theirs.close()
    assert check(ours)


@pytest.mark.fault("Hostile clients")
def test_a_client_that_sends_more_and_leaves_is_gone() -> None:
    """A client sends a byte after its request and leaves -> its work still ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    with ours:
        theirs.sendall(b"\r\n")
        assert not check(ours)
        theirs.close()
        end = time.monotonic() + 20
        while not check(ours):
            assert time.monotonic() < end
        assert ours.recv(10) == b"\r\n"  # they are left where they were


def test_a_descriptor_over_1023_is_no_client_that_left(pair) -> None:
    ours, _ = pair
    high = os.dup2(ours.fileno(), 1500)
    with socket.socket(fileno=high) as sock:
        assert not check(sock)
