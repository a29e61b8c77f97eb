"""The whole service on a simulated GPU, and what ends its worker."""

from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from config import Config
from context import KEY
from factory import create_app
from serving.health import watch
from tests.gpu.simulated import Simulated, building


@pytest.fixture
def model() -> Simulated:
    return Simulated()


@pytest.fixture
def app(config_of: Callable[..., Config], model: Simulated) -> Flask:
    made = create_app(config_of(), build=building(model), wait=True)
    model.passes.clear()
    return made


@pytest.fixture
def embed(app: Flask) -> Callable[..., TestResponse]:
    """Send texts to the service; safe from many threads."""
    return lambda *texts: app.test_client().post("/embed", json={"texts": texts})


@pytest.fixture
def ended(app: Flask) -> Iterator[list[int]]:
    """The exit codes with which the health watch ended the worker."""
    codes: list[int] = []
    stop = watch(app.extensions[KEY].engine.registry, codes.append)
    yield codes
    stop.set()
