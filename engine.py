"""Texts and a model's name in, vectors and what they cost out.

The one way through which every dialect embeds. Owns the order of the steps; knows nothing of HTTP,
of how a model is loaded or of how batches form (`serving/`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from embedders.base import Input, Truncate, Vectors
from errors import BadRequest
from observability import metrics, tracing
from recall import Ask, Direct, Encoder
from serving.registry import Loaded, Model, Registry


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
    role: str | None = None  # the side of a retrieval, or another use, as clients name it
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
    hits: int  # inputs whose vector need not be made
    took_ms: float


class Engine:
    """Embeds on any of the registry's models, through a cache if `encoder` has one."""

    def __init__(
        self, registry: Registry, truncate: Truncate = "auto", encoder: Encoder | None = None
    ) -> None:
        self.registry = registry
        self.truncate: Truncate = truncate
        self._encoder = encoder or Direct()

    def embed(self, request: EmbedRequest) -> Embedded:
        """Embed the inputs of one request.

        Raises UnknownModel, ModelLoading, ModelUnavailable, BadRequest, InputTooLong, QueueFull,
        DeadlineExceeded, ProviderError.
        """
        started = time.monotonic()
        model = self.registry.get(request.model)
        loaded = model.loaded  # one reference for the whole request: a swap never mixes models
        _check_dimensions(request.dimensions, loaded.facts.dimension)
        prompt = loaded.embedder.prompt(request.prompt_name, request.prompt, request.role)
        truncate = request.truncate or self.truncate
        ask = Ask(loaded, request.inputs, prompt, truncate, request.deadline, request.gone)
        tracing.describe(model=model.spec.id, texts=len(request.inputs))
        answer = self._encoder.encode(ask)
        tracing.describe(tokens=answer.tokens)
        _check_dimensions(request.dimensions, answer.vectors.shape[1])
        metrics.TRUNCATED.labels(model.spec.id).inc(answer.truncated)
        own = model.normalize or loaded.facts.normalizes
        normalize = own if request.normalize is None else request.normalize
        return Embedded(
            vectors=finish(answer.vectors, request.dimensions, normalize),
            model=model,
            loaded=loaded,
            tokens=answer.tokens,
            truncated=answer.truncated,
            hits=answer.hits,
            took_ms=(time.monotonic() - started) * 1000,
        )


def _check_dimensions(dimensions: int | None, most: int) -> None:
    if dimensions is not None and most and dimensions > most:  # 0: not known yet
        raise BadRequest(
            f"dimensions {dimensions} is more than the {most} of this model",
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
