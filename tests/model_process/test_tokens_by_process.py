"""States of tokens, vectors of chunks, scores of classes and tokens cross to workers unchanged."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from embedders.base import Embedder, Item, Pair, Prompt
from embedders.fake import FakeEmbedder
from errors import BadRequest, InputTooLong
from serving.model_process.embedder import ProcessEmbedder
from tests.model_process.clients import Client
from tests.model_process.hand import FAKE

DOCUMENTS = [["one two", "three"], ["four"], ["five six seven", "eight", "nine ten"]]


def both(clients: Callable[..., Client], name: str) -> tuple[ProcessEmbedder, FakeEmbedder]:
    """A model of a model process, which prepares there, and the same one here."""
    there = clients().load(FAKE.model_copy(update={"model_name": name}))
    assert there.preparer is None
    return there, FakeEmbedder(name, 8, 64)


def test_what_is_made_of_tokens_crosses(clients: Callable[..., Client]) -> None:
    there, here = both(clients, "m")
    assert there.facts.token_dimension == 8 and there.facts.pools_chunks

    def items(embedder: Embedder) -> list[Item]:
        texts = embedder.prepare(["a b c", "d"], Prompt(), "right")
        chunks = embedder.prepare_chunks(DOCUMENTS, Prompt("so "), None)
        asked = [replace(item, outputs=("tokens",)) for item in texts]
        return [asked[0], chunks[0], texts[0], *chunks[1:], asked[1]]

    assert items(there) == items(here)
    found, wanted = there.encode(items(there)), here.encode(items(here))
    assert found.tokens == wanted.tokens
    for index, item in enumerate(items(here)):
        for output in item.outputs:
            np.testing.assert_array_equal(found.row(index)[output], wanted.row(index)[output])
    with pytest.raises(InputTooLong) as refused:
        there.prepare_chunks([["a"], ["b " * 40, "c " * 40]], Prompt(), None)
    assert refused.value.index == 2


def test_tokens_are_told_by_the_process_that_has_them(clients: Callable[..., Client]) -> None:
    there, here = both(clients, "m+score+label")
    inputs = ["a b 12", Pair("naïve 🙂", "pair"), ""]
    prompt = Prompt("so: ")
    told = there.tokenize(inputs, prompt, special=True)
    assert told == here.tokenize(inputs, prompt, special=True)
    assert there.detokenize([[1, 2], []], skip_special=True) == ["1 2", ""]
    with pytest.raises(BadRequest) as refused:
        there.detokenize([[1], [10**6]], skip_special=True)
    assert refused.value.index == 1


def test_a_requests_own_limit_crosses(clients: Callable[..., Client]) -> None:
    there, here = both(clients, "m+score")
    pairs = [Pair("a b c", "d e f g h"), Pair("a", "b")]
    for prompt in Prompt(limit=4), Prompt(document_limit=2), Prompt(limit=6, document_limit=1):
        found = there.prepare_pairs(pairs, prompt, "right")
        assert found == here.prepare_pairs(pairs, prompt, "right")
        assert found[0].truncated and not found[1].truncated
    with pytest.raises(InputTooLong):
        there.prepare_pairs(pairs, Prompt(limit=4), "error")
