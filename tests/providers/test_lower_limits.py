"""A provider cuts at its own limit: a lower one is honoured where it cannot matter, or refused."""

import pytest

from config import ModelSpec
from embedders.base import Pair, Prompt
from embedders.providers import Providers
from embedders.remote_reranker import RemoteReranker
from errors import BadRequest
from tests.providers.conftest import loopback


def test_a_text_that_cannot_have_more_tokens_is_taken(remote):
    """A token has at least one byte."""
    embedder = remote("openai")
    assert len(embedder.prepare(["é" * 10, [1, 2, 3]], Prompt(limit=20), "right")) == 2
    for text in ("é" * 11, [1] * 21):
        with pytest.raises(BadRequest, match="at its own limit, not at 20 tokens"):
            embedder.prepare([text], Prompt(limit=20), "right")
    with pytest.raises(BadRequest, match="at its own limit"):
        embedder.prepare(["é" * 10], Prompt("a", limit=20), "right")


def test_a_reranker_behind_an_api_keeps_to_both_limits(provider):
    spec = ModelSpec(id="r", type="reranker", model_name="r", base_url=provider.url)
    reranker = RemoteReranker(spec, Providers(loopback()))
    pairs = [Pair("query", "a document")]
    for fits in Prompt(limit=15), Prompt(document_limit=10), Prompt():
        assert len(reranker.prepare_pairs(pairs, fits, "right")) == 1
    for short in Prompt(limit=14), Prompt(document_limit=9):
        with pytest.raises(BadRequest, match="at its own limit"):
            reranker.prepare_pairs(pairs, short, "right")


@pytest.mark.parametrize("ask", ["tokenize", "detokenize", "chunks"])
def test_a_providers_tokens_are_not_known_here(remote, ask):
    embedder = remote("openai")
    asked = {
        "tokenize": lambda: embedder.tokenize(["a"], Prompt(), special=True),
        "detokenize": lambda: embedder.detokenize([[1]], skip_special=True),
        "chunks": lambda: embedder.prepare_chunks([["a"]], Prompt(), None),
    }
    with pytest.raises(BadRequest, match="not known here"):
        asked[ask]()
    assert not embedder.facts.token_dimension and not embedder.facts.pools_chunks
