"""A few results show whether a model may serve, and whether two replicas are one model."""

from collections.abc import Sequence

import numpy as np
import pytest

from embedders.base import Column, Embedder, Encoded, Facts, Gone, Item, Output, Row, Sparse
from errors import ModelUnavailable
from serving.checks import agree, check


class Gives(Embedder):
    """Gives these values, whatever it is asked."""

    def __init__(self, output: Output, values: Column) -> None:
        labels = ("score",) if output == "score" else ()
        self.facts = Facts(
            dimension=2, max_tokens=8, device="cpu", dtype="float32", fingerprint="0",
            outputs=(output,), labels=labels, vocabulary=9,
        )  # fmt: skip
        self._values = values

    def trial(self, text: str = "ok") -> list[Item]:
        return [Item((1,), 1)]

    def encode(
        self, items: Sequence[Item], deadline: float | None = None, gone: Gone | None = None
    ) -> Encoded:
        return Encoded({self.facts.outputs[0]: self._values}, [1] * len(items))


def terms(*pairs: tuple[int, float]) -> Sparse:
    indices, values = zip(*pairs, strict=True) if pairs else ((), ())
    return Sparse(np.array(indices, np.int32), np.array(values, np.float32))


def array(*rows: Sequence[float]) -> np.ndarray:
    return np.array(rows, np.float32)


GOOD: list[tuple[Output, Column]] = [
    ("dense", array([1, 0], [0, 1], [1, 1])),
    ("score", array([0.1], [0.9], [0.1])),
    ("sparse", [terms((1, 0.5)), terms(), terms((1, 0.5), (4, 2.0))]),
    ("multi_vector", [array([1, 0]), array([1, 0], [0, 1]), array([0, 1])]),
]
BAD: list[tuple[Output, Column, str]] = [
    ("dense", array([1, 0], [1, 0], [1, 0]), "every text the same vector"),
    ("dense", array([1, 0, 0], [0, 1, 0], [1, 1, 0]), "have the shape"),
    ("score", array([0.5], [0.5], [0.5]), "every pair the same score"),
    ("score", array([0.5], [np.nan], [0.1]), "not finite"),
    ("score", array([0.5, 1], [0.1, 1], [0.1, 0]), "scores have the shape"),
    ("sparse", [terms(), terms(), terms()], "all empty"),
    ("sparse", [terms((4, 1.0), (1, 1.0)), terms(), terms()], "out of order"),
    ("sparse", [terms((4, -1.0)), terms(), terms()], "not positive"),
    ("sparse", [terms((4, 1.0))] * 3, "the same sparse result"),
    ("sparse", [terms((4, 1.0)), None, terms()], "gives no sparse result"),
    ("multi_vector", [array([1, 0]), array([0, 0]), array([0, 1])], "missing or zero"),
]


@pytest.mark.parametrize(("output", "values"), GOOD)
def test_results_that_can_be_right_pass(output: Output, values: Column) -> None:
    check(Gives(output, values))


@pytest.mark.parametrize(("output", "values", "why"), BAD)
def test_results_that_cannot_be_right_are_told(output: Output, values: Column, why: str) -> None:
    with pytest.raises(ModelUnavailable, match=why):
        check(Gives(output, values))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"dense": array([1, 0])[0]}, {"dense": array([1, 0.01])[0]}, True),
        ({"dense": array([1, 0])[0]}, {"dense": array([0, 1])[0]}, False),
        ({"score": array([4.0])[0]}, {"score": array([4.1])[0]}, True),
        ({"score": array([4.0])[0]}, {"score": array([3.0])[0]}, False),
        ({"sparse": terms((1, 1.0), (2, 0.01))}, {"sparse": terms((1, 1.0))}, True),
        ({"sparse": terms((1, 1.0))}, {"sparse": terms((2, 1.0))}, False),
        ({"multi_vector": array([1, 0])}, {"multi_vector": array([1, 0], [1, 0])}, False),
        ({"dense": array([1, 0])[0]}, {"score": array([1, 0])[0]}, False),
    ],
)
def test_replicas_are_alike_if_their_results_are(one: Row, other: Row, same: bool) -> None:
    assert agree(one, other) is same
