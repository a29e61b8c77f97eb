"""Texts and a model's name in, vectors and what they cost out.

The one way through which every dialect embeds. Owns the order of the steps; knows nothing of HTTP,
of how a model is loaded (`registry`) or of how batches form (`batcher`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

import metrics
from embedders.base import Input, Item, Truncate, Vectors
from errors import BadRequest
from registry import Loaded, Model, Registry


@dataclass(frozen=True)
class EmbedRequest:
    """What to embed and how; None leaves the choice to the model's or the service's settings."""

    inputs: Sequence[Input]
    model: str | None = None
    normalize: bool | None = None
    dimensions: int | None = None
    truncate: Truncate | None = None
    prompt_name: str | None = None
    prompt: str | None = None
    deadline: float | None = None  # a time.monotonic() value
    gone: Callable[[], bool] | None = None  # whether the caller hung up


@dataclass(frozen=True)
class Embedded:
    """Vectors (n, d) float32 in the order of the inputs, and what is to be told of them."""

    vectors: Vectors
    model: Model
    loaded: Loaded
    tokens: int
    truncated: int
    took_ms: float


class Engine:
    """Embeds on any of the registry's models."""

    def __init__(self, registry: Registry, truncate: Truncate = "right") -> None:
        self.registry = registry
        self.truncate: Truncate = truncate

    def embed(self, request: EmbedRequest) -> Embedded:
        """Embed the inputs of one request.

        Raises UnknownModel, ModelLoading, ModelUnavailable, BadRequest, InputTooLong, QueueFull,
        DeadlineExceeded, ProviderError.
        """
        started = time.monotonic()
        model = self.registry.get(request.model)
        loaded = model.loaded  # one reference for the whole request: a swap never mixes models
        _check_dimensions(request.dimensions, loaded)
        prompt = loaded.embedder.prompt(request.prompt_name, request.prompt)
        items = loaded.embedder.prepare(request.inputs, prompt, request.truncate or self.truncate)
        encoded = loaded.lane.encode(items, request.deadline, request.gone)
        metrics.TRUNCATED.labels(model.spec.id).inc(count_truncated(items))
        normalize = model.normalize if request.normalize is None else request.normalize
        return Embedded(
            vectors=finish(encoded.vectors, request.dimensions, normalize),
            model=model,
            loaded=loaded,
            tokens=sum(encoded.tokens),
            truncated=count_truncated(items),
            took_ms=(time.monotonic() - started) * 1000,
        )


def count_truncated(items: Sequence[Item]) -> int:
    """Return how many inputs were cut to fit the model."""
    return sum(item.truncated for item in items)


def _check_dimensions(dimensions: int | None, loaded: Loaded) -> None:
    if dimensions is not None and dimensions > loaded.facts.dimension:
        raise BadRequest(
            f"dimensions {dimensions} is more than the {loaded.facts.dimension} of this model",
            param="dimensions",
        )


def finish(vectors: Vectors, dimensions: int | None, normalize: bool) -> Vectors:
    """Cut (n, d) vectors to `dimensions` columns and scale each to length 1 if asked.

    A shortened vector of a normalised space is normalised again, as Matryoshka models need.
    """
    cut = vectors if dimensions is None else np.ascontiguousarray(vectors[:, :dimensions])
    if not normalize:
        return cut
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    scaled: Vectors = cut / np.maximum(lengths, np.float32(1e-12))
    return scaled
