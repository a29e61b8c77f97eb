"""Builds a local model of any kind, and lists the backends that may run it, the fastest first."""

import functools
import logging
import sys
from collections.abc import Callable
from dataclasses import replace

from config import ModelSettings, ModelSpec
from embedders import m3, multi_vector, proven, reranker, sparse
from embedders.base import Embedder, Kind
from embedders.fallback import proven_or_library
from embedders.graph import WIDEST, OnnxLayers
from embedders.kinds import WHAT
from embedders.layers import TorchLayers, has_onednn
from embedders.loading import Found, LoadedModel, find, load
from embedders.local import LocalEmbedder
from embedders.packed import can_pack
from embedders.proof import Reference
from embedders.proven import Backend
from embedders.quantized import QuantizedLayers, check, magnitudes_of
from embedders.rotary import follows_longest
from embedders.states import gives
from embedders.static import StaticEmbedder
from embedders.tokens import MOST_TOKENS
from errors import ModelUnavailable
from server.memory import while_loading

log = logging.getLogger("embedders")

# What builds a local model that is no plain embedding model, by its kind.
KINDS: dict[Kind, Callable[[Found], Embedder]] = {
    "reranker": reranker.build,
    "classifier": reranker.build,
    "sparse": sparse.build,
    "multi_vector": multi_vector.build,
}


@while_loading()
def local(spec: ModelSpec, settings: ModelSettings) -> Embedder:
    """Return any local model, of any kind. Raises ModelUnavailable."""
    if "sentence_transformers" not in sys.modules:
        log.info("importing torch and sentence-transformers: some seconds, more from a cold disk")
    found = find(spec, settings)
    if found.kind != "sentence_transformer":
        if found.kind not in KINDS:
            what = f"{spec.model_name!r} {WHAT[found.kind]}; this version does not serve it yet"
            raise ModelUnavailable(what)
        return KINDS[found.kind](found)
    return proven.in_its_dtype(load(found), choose)


def choose(loaded: LoadedModel) -> Embedder:
    """Return the first backend whose vectors equal the library's, or the library's own."""
    if loaded.quantized:
        return _in_int8(loaded)
    if m3.has_heads(loaded):
        try:
            heads = m3.Heads.of(loaded)
        except ModelUnavailable as exc:
            note = f"it gives dense vectors only: {exc.message}"
            log.warning("%s: %s", loaded.spec.id, note)
            loaded = replace(loaded, notes=(*loaded.notes, note))
        else:
            return m3.choose(loaded, heads)
    limit, backends = _backends_of(loaded)
    return proven_or_library(loaded, limit, backends, Reference(loaded.modules))


def _in_int8(loaded: LoadedModel) -> Embedder:
    """Return a model in int8, which is proven near the library's float32. Raises ModelUnavailable.

    Of a model with heads, such as bge-m3, only the dense vectors are made of quantized layers.
    """
    (first, *heads), (most, limits) = loaded.modules, loaded.limits()
    pools = gives(first) and heads and hasattr(heads[0], "include_prompt")
    check(first.auto_model if pools else None, most, loaded.backend)
    if m3.has_heads(loaded):
        note = "it gives dense vectors only, as its dtype is int8"
        loaded = replace(loaded, notes=(*loaded.notes, note))
    magnitudes = magnitudes_of(first.auto_model, first.tokenizer, most)
    make = functools.partial(QuantizedLayers, magnitudes)
    build = functools.partial(LocalEmbedder, loaded, limits, make)
    reference = Reference(loaded.modules)
    return proven_or_library(loaded, most, [(QuantizedLayers.name, build)], reference)


def _backends_of(loaded: LoadedModel) -> tuple[int, list[Backend]]:
    """Return how many tokens the model reads, and the backends to try, the fastest first."""
    import torch

    first = next(iter(loaded.modules))
    wanted = loaded.wanted_length
    if type(first).__name__ == "StaticEmbedding":
        truncation = first.tokenizer.truncation or {}
        own = truncation.get("max_length", MOST_TOKENS)
        if wanted and wanted < own:
            side = truncation.get("direction", "right")
            first.tokenizer.enable_truncation(wanted, direction=side)
        return min(wanted or own, own), [("static", lambda: StaticEmbedder(loaded))]
    most, limits = loaded.limits()
    if type(first).__name__ == "WordEmbeddings":
        first.max_seq_length = most = min(wanted or MOST_TOKENS, first.max_seq_length)
    if wanted and most and most < wanted:
        log.warning("%s takes at most %d tokens", loaded.spec.id, most)
    if not most or not gives(first):
        return most or MOST_TOKENS, []
    build = functools.partial(LocalEmbedder, loaded, limits)
    backends: list[Backend] = [("torch", build)]
    heads = list(loaded.modules)[1:]
    pools = bool(heads) and hasattr(heads[0], "include_prompt")
    on_gpu, on_cpu = (loaded.device.type == kind for kind in ("cuda", "cpu"))
    wanted_way = loaded.backend
    if wanted_way == "flat" or (pools and wanted_way == "auto" and on_gpu):
        backends.insert(0, ("flat", functools.partial(build, flat=True)))
        if on_gpu and loaded.settings.cuda_graphs == "auto":
            graphs = functools.partial(build, flat=True, graphs=True)
            backends.insert(0, ("flat+graphs", graphs))
    elif on_cpu and wanted_way == "auto" and not can_pack(first.auto_model):
        if has_onednn() and not follows_longest(loaded.modules):
            backends.insert(0, ("torch+packed", functools.partial(build, repack=True)))
    elif pools and on_cpu and wanted_way != "torch" and can_pack(first.auto_model):
        # In float32 ONNX Runtime is faster than torch's oneDNN; it cannot compute in bfloat16. The
        # figures are in docs/benchmarks.md, "Ways through the network on a CPU".
        backends.insert(0, (TorchLayers.name, functools.partial(build, TorchLayers)))
        onnx = wanted_way in ("auto", "onnx") and loaded.dtype == torch.float32
        if onnx and most <= WIDEST:
            backends.insert(0, (OnnxLayers.name, functools.partial(build, OnnxLayers)))
    return most, backends
