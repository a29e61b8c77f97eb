"""What is done to a model's results after the cache, for each output.

Vectors are cut and normalised, light terms left out, scores activated. All of it is cheap, and one
cached result serves every wish.
"""

import numpy as np

from embedders.base import Activation, Sparse, Vectors


def finish(vectors: Vectors, dimensions: int | None, normalize: bool) -> Vectors:
    """Return (n, d) vectors cut to `dimensions` columns, and of length 1 if asked.

    A shortened vector of a normalised space is normalised again, as Matryoshka models need.
    """
    cut = vectors if dimensions is None else np.ascontiguousarray(vectors[:, :dimensions])
    if not normalize:
        return cut
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    scaled: Vectors = cut / np.maximum(lengths, np.float32(1e-12))
    return scaled


def cosines(one: Vectors, many: Vectors) -> Vectors:
    """Return the cosines (n,) of a vector (d,) with each of many (n, d); those of zeros are 0."""
    lengths = np.linalg.norm(many, axis=1) * np.linalg.norm(one)
    found: Vectors = (many @ one / np.maximum(lengths, np.float32(1e-12))).astype(np.float32)
    return np.clip(found, -1.0, 1.0)


def top_terms(sparse: Sparse, top_n: int | None = None, min_weight: float = 0.0) -> Sparse:
    """Return the `top_n` heaviest terms of at least `min_weight`, by index as before.

    Of terms of one weight those with the lower indices stay.
    """
    indices, values = sparse
    if min_weight > 0:
        heavy = np.abs(values) >= min_weight
        indices, values = indices[heavy], values[heavy]
    if top_n is not None and len(values) > top_n:
        sizes = np.abs(values)
        last = np.partition(sizes, -top_n)[-top_n]
        kept = np.flatnonzero(sizes > last)
        alike = np.flatnonzero(sizes == last)[: top_n - len(kept)]
        kept = np.sort(np.concatenate([kept, alike]))
        indices, values = indices[kept], values[kept]
    return Sparse(indices, values)


def activated(scores: Vectors, activation: Activation) -> Vectors:
    """Return the scores (n, labels) float32 that a model's activation makes of raw ones."""
    if activation == "identity":
        return scores
    wide = scores.astype(np.float64)  # e^88 overflows in float32
    if activation == "sigmoid":
        return (1 / (1 + np.exp(-wide))).astype(np.float32)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    shares: Vectors = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares
