"""What every layout promises: the service's answers are the library's. A family inherits it.

`conftest.py` gives each test its `pair`: one layout, built, loaded by the library and served.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch

from config import Config, ModelSpec
from embedders.backends import local
from embedders.base import Embedder
from errors import Invalid
from tests.zoo.layouts import Layout
from tests.zoo.library import PLAIN, Library, Way
from tests.zoo.service import Answer, Service
from tests.zoo.words import prose, sixty

LEAST = 0.99999  # the cosine to the library in float32
BY_PROMPT = [*range(0, 57, 7), 57, 58]  # the texts that are compared with each prompt and role
LEAST_HALF = 0.9995  # and in bfloat16, where the library itself is that steady
FEW = [*range(0, 57, 7), 59]  # the texts that are sent alone too


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosine of each pair of rows; two vectors of zeros are equal."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    none = [length < 1e-6 for length in lengths]
    products = (a * b).sum(1) / np.maximum(lengths[0] * lengths[1], 1e-12)
    return np.where(none[0] & none[1], 1.0, np.where(none[0] | none[1], 0.0, products))


class Pair:
    """A layout on both sides. What is computed is kept: several tests look at it."""

    def __init__(self, kind: Layout, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        kind.build(folder)
        self.library = Library(kind, folder, torch.float32)
        self.service = Service(folder, "float32")
        self.texts = sixty(kind.longest)
        self._asked: dict[tuple[str, Way], Answer] = {}
        self._right: dict[tuple[str | int | None, ...], np.ndarray] = {}

    @cached_property
    def half(self) -> Library:
        """The library in bfloat16."""
        return Library(self.kind, self.folder, torch.bfloat16)

    @cached_property
    def half_service(self) -> Service:
        """The service in bfloat16."""
        return Service(self.folder, "bfloat16")

    @cached_property
    def flat(self) -> Embedder:
        """The model with flat passes, if it can have them."""
        entry = {"id": "m", "model_name": str(self.folder), "dtype": "float32", "backend": "flat"}
        settings = Config(device="cpu", model_cache_dir=self.folder.parent / "flat")
        return local(ModelSpec.model_validate(entry), settings)

    def texts_of(self, way: Way) -> list[str]:
        """Return the texts that are compared: all sixty once, fewer with each prompt."""
        return self.texts if way is PLAIN else [self.texts[at] for at in BY_PROMPT]

    def served(self, dtype: str, way: Way = PLAIN) -> Answer:
        """Return the service's answer to all texts at once."""
        if (dtype, way) not in self._asked:
            service = self.service if dtype == "float32" else self.half_service
            self._asked[dtype, way] = service.embed(self.texts_of(way), dtype, way)
        return self._asked[dtype, way]

    def right(self, dtype: str, way: Way = PLAIN) -> np.ndarray:
        """Return the library's vectors of the same texts."""
        texts = self.texts_of(way)
        key = (dtype, len(texts), way.prompt, way.prompt_name, way.task)
        if key not in self._right:
            library = self.library if dtype == "float32" else self.half
            self._right[key] = library.encode(texts, way)
        return self._right[key]

    def assert_near(self, way: Way) -> None:
        """Hold the service's bfloat16 vectors to the library's.

        Where the library's own differ, alone and in a batch, by as much as ours from them, ours may
        be twice as far from float32 as they are.
        """
        got = self.served("bfloat16", way).vectors
        half, exact = self.right("bfloat16", way), self.right("float32", way)
        near = cosines(got, half)
        off = np.flatnonzero(near < LEAST_HALF)
        if not len(off):
            return
        texts = self.texts_of(way)
        alone = self.half.encode([texts[at] for at in off], way, 1)
        assert_no_farther(got, half, exact, (off, alone), way.name)

    def close(self) -> None:
        """Leave nothing running."""
        for name in ("service", "half_service"):
            if name in self.__dict__:
                self.__dict__[name].close()
        if "flat" in self.__dict__:
            self.flat.close()


def assert_equal(got: np.ndarray, right: np.ndarray, all_right: np.ndarray, what: str) -> None:
    """Hold vectors to the library's, as they are and without what they have in common."""
    middle = all_right.mean(0)
    assert got.shape == right.shape, f"{what}: {got.shape} numbers, not {right.shape}"
    whole, centred = cosines(got, right), cosines(got - middle, right - middle)
    least = min(whole.min(), centred.min())
    worst = int(np.minimum(whole, centred).argmin())
    assert least >= LEAST, f"{what}: cosine {least:.6f} to the library, at text {worst}"


def assert_no_farther(
    got: np.ndarray,
    half: np.ndarray,
    exact: np.ndarray,
    again: tuple[np.ndarray, np.ndarray],
    what: str,
) -> None:
    """Hold vectors to be no farther from float32 than twice the library's own bfloat16.

    `again` has the places of texts that the library encoded once more, in another batch.
    """
    at, other = again
    near, steady = cosines(got, half), cosines(half[at], other).min()
    theirs = 1 - np.append(cosines(half, exact), cosines(other, exact[at]))
    ours = 1 - cosines(got, exact)
    figures = (
        f"{what}: bfloat16 cosine {near.min():.5f} to the library, it to itself {steady:.5f}; "
        f"to float32 ours is {1 - ours.max():.5f} and the library's {1 - theirs.max():.5f}"
    )
    assert steady < LEAST_HALF and ours.max() <= 2 * theirs.max(), figures


class Likeness:
    """The tests of one family of layouts."""

    families: tuple[str, ...]

    def test_it_is_served(self, pair: Pair) -> None:
        state = pair.service.state("float32")
        assert state["status"] == "ready", state["reason"]
        assert state["dimension"] == pair.right("float32").shape[1]

    def test_sixty_texts_have_the_librarys_vectors(self, pair: Pair) -> None:
        right = pair.right("float32")
        assert_equal(pair.served("float32").vectors, right, right, "together")
        each = [pair.service.embed([pair.texts[at]], "float32") for at in FEW]
        alone = np.concatenate([answer.vectors for answer in each])
        assert_equal(alone, right[FEW], right, "alone")

    def test_every_prompt_and_role_gives_the_librarys_vectors(self, pair: Pair) -> None:
        for way in pair.library.ways():
            right = pair.right("float32", way)
            assert_equal(pair.served("float32", way).vectors, right, right, way.name)

    def test_flat_passes_have_the_librarys_vectors(
        self, pair: Pair, caplog: pytest.LogCaptureFixture
    ) -> None:
        backend = pair.flat.facts.backend
        if pair.kind.padded:
            assert backend != "flat"
            assert pair.kind.padded in caplog.text or backend in ("static", "library")
            return
        assert backend == "flat", caplog.text
        for way in [PLAIN, *pair.library.ways()]:
            right, sent = pair.right("float32", way), way.sent
            prompt = pair.flat.prompt(
                sent.get("prompt_name"), sent.get("prompt"), sent.get("input_type")
            )
            texts = pair.texts_of(way)
            try:
                items = pair.flat.prepare(texts, prompt, "auto")
            except Invalid:  # a text without a token, which nobody can encode
                continue
            got = pair.flat.encode(items).vectors
            lengths = np.linalg.norm(got, axis=1, keepdims=True)
            assert_equal(got / np.maximum(lengths, 1e-12), right, right, f"flat, {way.name}")

    def test_a_role_may_have_the_names_of_other_services(self, sample: Pair) -> None:
        pair = sample
        texts = [pair.texts[at] for at in FEW[:-1]]
        for way in pair.library.synonyms():
            right = pair.library.encode(texts, way)
            got = pair.service.embed(texts, "float32", way).vectors
            assert_equal(got, right, right, way.name)

    def test_bfloat16_is_as_near_as_the_librarys(self, half: Pair) -> None:
        pair = half
        state = pair.half_service.state("bfloat16")
        assert state["status"] == "ready", state["reason"]
        for way in [PLAIN, *pair.library.ways()]:
            if pair.kind.halves:
                pair.assert_near(way)
            else:
                got, exact = pair.served("bfloat16", way).vectors, pair.right("float32", way)
                assert cosines(got, exact).min() >= 0.995, way.name

    def test_tokens_and_cuts_are_counted_as_the_library_counts(self, pair: Pair) -> None:
        for way in [PLAIN, *pair.library.ways()]:
            counts, cut = pair.library.tokens(pair.texts_of(way), way)
            got = pair.served("float32", way)
            assert (got.tokens, got.cut) == (sum(counts), cut), way.name

    def test_an_empty_text_has_the_librarys_vector_or_is_refused(self, pair: Pair) -> None:
        try:
            right = pair.library.encode([""])
        except (RuntimeError, IndexError, ValueError):  # there is no token to compute anything of
            reply = pair.service.post(["", "text"], "float32")
            assert reply.status_code == 400, reply.json
            assert "input 0" in reply.json["error"]["message"]
            return
        got = pair.service.embed([""], "float32").vectors
        assert cosines(got, right).min() >= LEAST

    def test_it_sees_the_order_of_words(self, pair: Pair) -> None:
        """The control: attention that is flat would hide what is computed wrongly in it."""
        if not pair.kind.order:
            return
        texts = [prose(12, seed) for seed in range(8)]
        turned = [" ".join(reversed(text.split())) for text in texts]
        middle = pair.right("float32").mean(0)
        one, other = (pair.library.encode(these) - middle for these in (texts, turned))
        assert cosines(one, other).max() < 0.985

    def test_two_thousand_tokens_have_the_librarys_vector_where_attention_turns(
        self, pair: Pair
    ) -> None:
        if pair.kind.far:
            text = of_tokens(pair.library, 2000)
            exact = pair.library.encode([text])
            got = pair.service.embed([text], "float32")
            assert abs(got.tokens - 2000) < 20 and got.cut == 0
            assert cosines(got.vectors, exact)[0] >= LEAST

    def test_two_thousand_tokens_in_bfloat16_are_no_farther_off_than_the_librarys(
        self, half: Pair
    ) -> None:
        if half.kind.far:
            text = of_tokens(half.library, 2000)
            exact = half.library.encode([text])
            ours = 1 - cosines(half.half_service.embed([text], "bfloat16").vectors, exact)[0]
            right = off_by_half(half, text, exact)
            assert ours <= right, f"{ours:.6f} off float32, and {right:.6f} is right"


def off_by_half(pair: Pair, text: str, exact: np.ndarray) -> float:
    """Return how far from float32 a long text's vector may be: twice as far as the library's.

    A rotation by a rounded angle is farther off than that, though often nearer than `LEAST_HALF`.
    """
    alone, beside = pair.half.encode([text]), in_company(pair.half, text)
    return 2 * (1 - min(cosines(alone, exact)[0], cosines(beside, exact)[0])) + 2e-5


def of_tokens(library: Library, count: int) -> str:
    """Return a text of about so many tokens."""
    words = prose(count, 3).split()
    few, many = 1, count
    while few < many:
        middle = (few + many + 1) // 2
        fits = library.counts([" ".join(words[:middle])], PLAIN, cut=False)[0] <= count
        few, many = (middle, many) if fits else (few, middle - 1)
    return " ".join(words[:few])


def in_company(library: Library, text: str) -> np.ndarray:
    """Return the library's vector of a long text beside a longer one, with padding."""
    pair: Sequence[str] = [text, text + " and then a little more of it"]
    found = library.model.encode(pair, normalize_embeddings=True, convert_to_tensor=True,
                                 show_progress_bar=False)  # fmt: skip
    return found[:1].float().numpy()
