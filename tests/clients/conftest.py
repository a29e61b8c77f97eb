"""Services that the clients of this folder talk to."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.conftest import served, write_models

FAKE: dict[str, dict] = {"fake": {"type": "fake", "model_name": "tests/fake", "max_seq_length": 64}}
# One that gives three outputs, and a reranker.
KINDS: dict[str, dict] = {
    "all": {"type": "fake", "model_name": "tests/all+dense+sparse+multi_vector"},
    "reranker": {"type": "fake", "model_name": "tests/reranker+score", "max_seq_length": 64},
}


@contextmanager
def fake_service(folder: Path, models: dict[str, dict] = FAKE, **settings: str) -> Iterator[str]:
    """A real gunicorn on fake models, or on others."""
    env = {"MODEL_CONFIG": str(write_models(folder / "models.json", models)),
           "SUPPORTED_MODELS_FILE": str(folder / "none"),
           "STORE_DIR": str(folder / "store"), **settings}  # fmt: skip
    with served(**env) as base:
        yield base


@pytest.fixture(scope="package")
def fake_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service on a fake model."""
    with fake_service(tmp_path_factory.mktemp("service")) as url:
        yield url


@pytest.fixture(scope="package")
def kinds_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service on fake models of several kinds."""
    with fake_service(tmp_path_factory.mktemp("kinds"), KINDS) as url:
        yield url


@pytest.fixture
def serve_fake(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Serve a fake model with settings by their environment names."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(fake_service(tmp_path, **settings))
