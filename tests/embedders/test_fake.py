"""The fake embedder keeps the promises of the real ones."""

import pytest

from embedders.fake import FakeEmbedder
from tests.contracts import EmbedderContract


class TestFake(EmbedderContract):
    @pytest.fixture
    def embedder(self) -> FakeEmbedder:
        return FakeEmbedder()
