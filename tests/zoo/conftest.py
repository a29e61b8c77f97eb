"""Builds each layout once, serves it, and takes it away again."""

from collections.abc import Iterator

import pytest

from tests.zoo import layouts_bert as layouts_bert
from tests.zoo import layouts_decoders as layouts_decoders
from tests.zoo import layouts_encoders as layouts_encoders
from tests.zoo import layouts_parts as layouts_parts
from tests.zoo import layouts_refused as layouts_refused
from tests.zoo.layouts import LAYOUTS, Layout
from tests.zoo.likeness import Pair
from tests.zoo.service import Service


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a family's tests its layouts, one after the other."""
    name = next((n for n in ("pair", "refused") if n in metafunc.fixturenames), None)
    if name:
        kinds = [kind for kind in LAYOUTS.values() if kind.family in metafunc.cls.families]
        metafunc.parametrize(name, kinds, ids=[kind.name for kind in kinds], indirect=True)


@pytest.fixture(scope="module")
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """One layout, in the library and in the service. The folder's name tells nothing."""
    both = Pair(request.param, tmp_path_factory.mktemp("zoo") / "model")
    yield both
    both.close()


@pytest.fixture(scope="module")
def refused(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Layout, Service]]:
    """A folder that is no embedding model, and the service that was given it."""
    folder = tmp_path_factory.mktemp("zoo") / "model"
    request.param.build(folder)
    service = Service(folder, "float32")
    yield request.param, service
    service.close()
