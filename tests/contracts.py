"""What every embedder promises, whatever it runs on. A new one inherits these tests unchanged."""

import threading

import numpy as np
import pytest

from embedders.base import Embedder, Prompt
from errors import BadRequest, InputTooLong

TEXTS = ["one", "two words", "", "one", "\x00 nul", "ünïcode 漢字 🙂", "a much longer text " * 3]
LONG = "word " * 5000


class EmbedderContract:
    """Needs a fixture `embedder` of a local (batched) kind."""

    def encode(self, embedder: Embedder, texts: list[str]) -> np.ndarray:
        return embedder.encode(embedder.prepare(texts, Prompt(), "right")).vectors

    def test_it_gives_one_finite_float32_row_a_text(self, embedder: Embedder) -> None:
        vectors = self.encode(embedder, TEXTS)
        assert vectors.shape == (len(TEXTS), embedder.facts.dimension)
        assert vectors.dtype == np.float32
        assert vectors.flags.c_contiguous
        assert np.isfinite(vectors).all()

    def test_equal_texts_have_equal_vectors_and_order_is_kept(self, embedder: Embedder) -> None:
        vectors = self.encode(embedder, TEXTS)
        for row, text in zip(vectors, TEXTS, strict=True):
            alone = self.encode(embedder, [text])[0]
            np.testing.assert_allclose(row, alone, atol=2e-2)
        np.testing.assert_array_equal(vectors[0], vectors[3])

    def test_it_counts_tokens_and_tells_what_it_cut(self, embedder: Embedder) -> None:
        short, long = embedder.prepare(["one", LONG], Prompt(), "right")
        assert not short.truncated
        assert long.truncated
        assert long.tokens == embedder.facts.max_tokens
        assert 0 < short.tokens < long.tokens

    def test_it_keeps_the_side_it_is_asked_to_keep(self, embedder: Embedder) -> None:
        text = "alpha " * 3000 + "omega " * 3000
        right, left = (embedder.prepare([text], Prompt(), s)[0] for s in ("right", "left"))
        start = embedder.prepare(["alpha " * 3000], Prompt(), "right")[0]
        end = embedder.prepare(["omega " * 3000], Prompt(), "left")[0]
        assert list(right.payload)[:10] == list(start.payload)[:10]
        assert list(left.payload)[-10:] == list(end.payload)[-10:]

    def test_it_refuses_to_cut_when_asked_to(self, embedder: Embedder) -> None:
        with pytest.raises(InputTooLong) as caught:
            embedder.prepare(["short", LONG], Prompt(), "error")
        assert caught.value.index == 1

    @pytest.mark.parametrize("ids", [[-1], [10**9], [1, 2, 2**63]])
    def test_it_refuses_token_ids_it_does_not_have(self, embedder: Embedder, ids: list) -> None:
        with pytest.raises(BadRequest) as caught:
            embedder.prepare(["fine", ids], Prompt(), "right")
        assert caught.value.index == 1

    def test_a_prompt_goes_before_the_text(self, embedder: Embedder) -> None:
        with_prompt = embedder.prepare(["text"], Prompt("query: "), "right")
        assert with_prompt == embedder.prepare(["query: text"], Prompt(), "right")

    def test_prompts_are_chosen_by_name_role_or_text(self, embedder: Embedder) -> None:
        assert embedder.prompt(None, "mine: ").text == "mine: "
        assert embedder.prompt("search_query", None) == embedder.prompt("query", None)
        assert embedder.prompt(None, None).text == ""
        with pytest.raises(BadRequest, match="document, query"):
            embedder.prompt("nonsense", None)

    def test_nothing_of_the_caller_is_changed(self, embedder: Embedder) -> None:
        texts, ids = ["b", "a"], [5, 6, 7]
        embedder.prepare([*texts, ids], Prompt(), "right")
        assert (texts, ids) == (["b", "a"], [5, 6, 7])

    def test_threads_with_different_policies_do_not_disturb_each_other(
        self, embedder: Embedder
    ) -> None:
        inputs = ["one two three", LONG, "four"]
        policies = ["right", "left"] * 4
        alone = {side: embedder.prepare(inputs, Prompt(), side) for side in ("right", "left")}
        wrong: list[str] = []
        start = threading.Barrier(len(policies))

        def work(side: str) -> None:
            start.wait()
            for _ in range(20):
                if embedder.prepare(inputs, Prompt(), side) != alone[side]:
                    wrong.append(side)

        threads = [threading.Thread(target=work, args=(side,)) for side in policies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
