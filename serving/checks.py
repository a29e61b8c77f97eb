"""Checks what a model gives for a few inputs before it serves, and that two replicas give the same.

A model with damaged weights or a damaged tokenizer loads without an error. It shows in its results:
they are not finite, zero, or the same for every input.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from embedders.base import Embedder, Output, Row, Sparse, Value, Vectors
from embedders.device import described
from errors import ModelUnavailable, ServiceError

# Words, other scripts, one letter: on these a model with damaged weights or tokenizer fails.
GOLDEN = ("The quick brown fox jumps over the lazy dog.", "向量 вектор مُتَّجِه", "a")
SAME_SPACE = 0.98  # cosine of two replicas' probes; precision and batching explain no more
SAME_SCORE, SAME_SCORE_SHARE = 0.1, 0.05  # by which two replicas' raw scores may differ


def check(embedder: Embedder) -> None:
    """Raise ModelUnavailable if the results of a few inputs cannot be right.

    A remote model is not asked: each call costs money.
    """
    if not embedder.batched:
        return
    facts = embedder.facts
    try:
        items = list(chain.from_iterable(map(embedder.trial, GOLDEN)))
        encoded = embedder.encode([replace(item, outputs=facts.outputs) for item in items])
    except Exception as exc:
        said = exc.message if isinstance(exc, ServiceError) else described(exc)
        raise ModelUnavailable(f"it cannot encode a text ({said})") from exc
    rows = [encoded.row(index) for index in range(len(items))]
    for output in facts.outputs:
        values = [row[output] for row in rows if output in row]
        if len(values) < len(rows):
            raise ModelUnavailable(f"it gives no {output} result for a text")
        if wrong := _wrong(embedder, output, values):
            raise ModelUnavailable(wrong)


def agree(one: Row, other: Row) -> bool:
    """Return whether two replicas' results for one input are those of one model."""
    return one.keys() == other.keys() and all(
        _agree(output, value, other[output]) for output, value in one.items()
    )


def _wrong(embedder: Embedder, output: Output, values: Sequence[Value]) -> str | None:
    """Return why the values of an output cannot be right, or None."""
    numbers = [value.values if isinstance(value, Sparse) else value for value in values]
    if not all(np.isfinite(each).all() for each in numbers):
        what = "scores" if output == "score" else "vectors"
        return f"its {what} hold numbers that are not finite"
    if output == "dense":
        return _wrong_vectors(np.stack(numbers), embedder)
    if output == "score":
        if {each.shape for each in numbers} != {(len(embedder.facts.labels),)}:
            return f"its scores have the shape {numbers[0].shape}"
        if len(numbers) > 1 and np.ptp(np.stack(numbers), axis=0).max() < 1e-6:
            return "it gives every pair the same score"
    if output == "sparse":
        rows = [value for value in values if isinstance(value, Sparse)]
        if not any(len(row.indices) for row in rows):
            return "its sparse vectors are all empty"
        if any((np.diff(row.indices) <= 0).any() or (row.values <= 0).any() for row in rows):
            return "its sparse vectors have indices out of order or weights that are not positive"
    if output == "multi_vector" and not all(
        each.ndim == 2 and len(each) and (np.linalg.norm(each, axis=1) > 1e-6).all()
        for each in numbers
    ):
        return "the vectors of its tokens are missing or zero"
    same = all(_equal(value, values[0]) for value in values)
    return f"it gives every text the same {output} result" if same and len(values) > 1 else None


def _wrong_vectors(vectors: Vectors, embedder: Embedder) -> str | None:
    if vectors.shape[1:] != (embedder.facts.dimension,):
        return f"its vectors have the shape {vectors.shape[1:]}, not ({embedder.facts.dimension},)"
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if embedder.facts.vocabulary is None:  # a word average: zero where it knows none of the words
        vectors, lengths = vectors[lengths[:, 0] > 0], lengths[lengths[:, 0] > 0]
        if len(vectors) < 2:
            return None
    if not (lengths > 1e-6).all():
        return "its vectors are all zero, so they cannot be normalised"
    units = vectors / lengths
    if np.abs(np.linalg.norm(units, axis=1) - 1).max() > 1e-3:
        return "its vectors do not have length 1 after normalising"
    if np.ptp(units, axis=0).max() < 1e-6:
        return "it gives every text the same vector"
    return None


def _equal(one: Value, other: Value) -> bool:
    if isinstance(one, Sparse) and isinstance(other, Sparse):
        return np.array_equal(one.indices, other.indices) and np.allclose(one.values, other.values)
    return np.shape(one) == np.shape(other) and np.allclose(np.asarray(one), np.asarray(other))


def _agree(output: Output, one: Value, other: Value) -> bool:
    if isinstance(one, Sparse) and isinstance(other, Sparse):
        _, ours, theirs = np.intersect1d(one.indices, other.indices, return_indices=True)
        dot = float(one.values[ours] @ other.values[theirs])
        lengths = float(np.linalg.norm(one.values)) * float(np.linalg.norm(other.values))
        return dot >= SAME_SPACE * lengths
    a, b = np.asarray(one), np.asarray(other)
    if a.shape != b.shape:
        return False
    if output == "score":
        return bool(np.allclose(a, b, rtol=SAME_SCORE_SHARE, atol=SAME_SCORE))
    lengths = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(np.vdot(a, b)) >= SAME_SPACE * lengths
