"""Builds the embedder that a model's `type` asks for. The list of types is the list of files."""

from collections.abc import Callable

from config import ModelSettings, ModelSpec
from embedders.base import Embedder
from embedders.fake import FakeEmbedder
from embedders.local import local
from errors import ModelUnavailable

Builder = Callable[[ModelSpec, ModelSettings], Embedder]


def _fake(spec: ModelSpec, settings: ModelSettings) -> Embedder:
    return FakeEmbedder(spec.model_name, spec.dimensions or 8, spec.max_seq_length or 16)


EMBEDDERS: dict[str, Builder] = {
    "sentence_transformer": local,
    "fake": _fake,
}


def build(spec: ModelSpec, settings: ModelSettings) -> Embedder:
    """Build (for a local model: load) the embedder of `spec`. Raises ModelUnavailable."""
    builder = EMBEDDERS.get(spec.type)
    if builder is None:
        raise ModelUnavailable(f"type {spec.type!r} is not built into this version")
    return builder(spec, settings)
