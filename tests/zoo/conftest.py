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
from tests.zoo.service import HALVES, Service

# In half precision each computes as another one does, which the short run tries: embedding_gemma,
# qwen2_that_looks_both_ways, modernbert_mean.
TWINS = {"gemma_padded_on_the_left", "qwen2_without_an_end", "modernbert_cls"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a family's tests its layouts, one after the other.

    In the short run what depends little on the layout is tried with the family's first, and
    bfloat16 also with those whose attention turns, where it has gone wrong.
    """
    name = next((n for n in ("pair", "refused") if n in metafunc.fixturenames), None)
    if name:
        kinds = [kind for kind in LAYOUTS.values() if kind.family in metafunc.cls.families]
        in_half, sample = (n in metafunc.fixturenames for n in ("half", "sample"))
        first = {kind.family: kind for kind in reversed(kinds)}
        given = []
        for kind in kinds:
            turns = in_half and kind.far and kind.name not in TWINS
            short = not (in_half or sample) or kind is first[kind.family] or turns
            marks = [] if short else [pytest.mark.long]
            given.append(pytest.param(kind, id=kind.name, marks=marks))
        metafunc.parametrize(name, given, indirect=True)


@pytest.fixture(scope="module")
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """One layout, in the library and in the service. The folder's name tells nothing."""
    both = Pair(request.param, tmp_path_factory.mktemp("zoo") / "model")
    yield both
    both.close()


@pytest.fixture
def sample(pair: Pair) -> Pair:
    """The same, for what depends little on the layout."""
    return pair


@pytest.fixture
def half(pair: Pair) -> Pair:
    """The same, for what is computed in bfloat16."""
    if not HALVES:
        pytest.skip("bfloat16 is emulated here, which takes long: ZOO_LONG=1 compares it")
    return pair


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
