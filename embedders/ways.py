"""Chooses how a loaded model is run: the fastest way whose vectors are proven to be the library's.

A verdict is kept beside the downloaded models, by all that it depends on, so that a restart does
not pay for it again. What no way of ours is right for is run by the library itself.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from config import ModelSettings, ModelSpec
from embedders import weights
from embedders.base import DeviceBroken, Embedder, OutOfMemory
from embedders.device import meaning, told
from embedders.fallback import FallbackEmbedder
from embedders.graph import WIDEST, MissingPackage, OnnxLayers, OpenVinoLayers
from embedders.layers import TorchLayers, cores
from embedders.limits import MOST_TOKENS, Limits, limits_of
from embedders.loading import LoadedModel, apart, load
from embedders.local import LocalEmbedder
from embedders.packed import can_pack, sparing_memory
from embedders.proof import Proof
from embedders.reference import Reference
from embedders.static import StaticEmbedder
from errors import ModelUnavailable, ServiceError

log = logging.getLogger("embedders")

Way = tuple[str, Callable[[], Embedder]]
LIBRARY = "library"
MEASURED = ("torch", "transformers", "sentence-transformers", "tokenizers", "onnxruntime", "numpy")


@sparing_memory()
def local(spec: ModelSpec, settings: ModelSettings) -> Embedder:
    """Load any model that sentence-transformers loads. Raises ModelUnavailable."""
    loaded = load(spec, settings)
    try:
        return apart(lambda: choose(loaded))
    except (DeviceBroken, OutOfMemory, ServiceError):
        raise
    except Exception as exc:
        dtype = str(loaded.dtype).removeprefix("torch.")
        failed = f"sentence-transformers cannot run it in {dtype} ({told(exc)})"
        if loaded.dtype.itemsize >= 4 or meaning(exc) is not exc:
            raise ModelUnavailable(failed) from exc
    note = f"{failed}: it runs in float32"
    log.warning("%s: %s", spec.id, note)
    exact = loaded.exactly(note)
    return apart(lambda: choose(exact))


def choose(loaded: LoadedModel) -> Embedder:
    """Return the first way whose vectors equal the library's, or the library's own."""
    name, started = loaded.spec.id, time.monotonic()
    limit, ways = _ways_of(loaded)
    reference, verdict = Reference(loaded.modules), Verdict(loaded, limit)
    proof = Proof(reference, limit, half=loaded.dtype.itemsize < 4)
    reasons: list[str] = []
    known, leaks = verdict.read()
    if known is None:
        leaks = proof.leaks
    for way, build in sorted(ways, key=lambda each: each[0] != known):  # the known one first
        if known == LIBRARY:
            break
        try:
            embedder = _built(loaded, build)
            if isinstance(embedder, LocalEmbedder):
                embedder.alike = embedder.pads and leaks
            difference = None if way == known else _difference(proof, embedder)
        except _NotFor as exc:
            difference = str(exc)
        if difference is None:
            verdict.keep(way, leaks)
            log.info("%s runs by %s (%.2f s to prove it)", name, way, time.monotonic() - started)
            _warn_of_wish(loaded, way)
            if isinstance(embedder, LocalEmbedder):
                embedder.settle()
            return embedder
        log.warning("%s cannot run by %s: %s", name, way, difference)
        reasons.append(f"{way}: {difference}")
    verdict.keep(LIBRARY, leaks)
    _warn_of_wish(loaded, LIBRARY)
    why = reasons[-1] if reasons else "no faster way is for its kind"
    note = f"run by sentence-transformers itself, one pass at a time ({why})"
    log.warning("%s is %s", name, note)
    embedder = FallbackEmbedder(loaded, reference, limit if limit < MOST_TOKENS else None, note)
    embedder.alike = leaks
    return embedder


class _NotFor(Exception):
    """A way cannot run this model; says why."""


def _difference(proof: Proof, embedder: Embedder) -> str | None:
    try:
        return proof.difference(embedder)
    except (DeviceBroken, OutOfMemory, ServiceError):
        raise
    except Exception as exc:
        return told(exc)


def _ways_of(loaded: LoadedModel) -> tuple[int, list[Way]]:
    """Return how many tokens the model reads, and the ways that may be for it, the best first.

    The library's own limits are set to the same, so that both cut inputs alike.
    """
    from sentence_transformers.sentence_transformer.modules import Transformer

    first, wanted = next(iter(loaded.modules)), loaded.wanted_tokens
    if type(first).__name__ == "StaticEmbedding":
        own = (first.tokenizer.truncation or {}).get("max_length", MOST_TOKENS)
        if wanted and wanted < own:
            side = (first.tokenizer.truncation or {}).get("direction", "right")
            first.tokenizer.enable_truncation(wanted, direction=side)
        return min(wanted or own, own), [("static", lambda: StaticEmbedder(loaded))]
    most = 0
    if type(first).__name__ == "WordEmbeddings":
        first.max_seq_length = most = min(wanted or MOST_TOKENS, first.max_seq_length)
    limits = Limits(MOST_TOKENS)
    for module in loaded.modules.modules():
        if isinstance(module, Transformer):
            limits = limits_of(module, wanted)
            limits.set_on(module)
            most = max(most, limits.most)
    if wanted and most and most < wanted:
        log.warning("%s takes at most %d tokens", loaded.spec.id, most)
    if not most or not _reads_ids(first):
        return most or MOST_TOKENS, []
    ways: list[Way] = [("torch", lambda: LocalEmbedder(loaded, limits))]
    heads = list(loaded.modules)[1:]
    pools = bool(heads) and hasattr(heads[0], "include_prompt")
    if loaded.device.type == "cpu" and pools and can_pack(first.auto_model):
        makes = _makes(loaded.spec.backend or loaded.settings.backend, loaded.dtype, most)
        packed: list[Way] = [
            (m.name, functools.partial(LocalEmbedder, loaded, limits, m)) for m in makes
        ]
        ways = packed + ways
    return most, ways


def _reads_ids(first: Any) -> bool:
    """Tell whether a module is a transformer that reads token ids and gives a state for each."""
    text = {"method": "forward", "method_output_name": "last_hidden_state"}
    return (
        hasattr(first, "auto_model")
        and hasattr(first.tokenizer, "backend_tokenizer")
        and first.modality_config.get("text") == text
        and "message" not in first.modality_config
        and first.module_output_name == "token_embeddings"
    )


def _makes(backend: str, dtype: Any, limit: int) -> list[Any]:
    """Return what may compute a packed model's layers, the best for it first.

    In float32 ONNX Runtime is faster than torch's oneDNN, in bfloat16 it cannot compute; the
    figures are in docs/benchmarks.md, "Ways through the network on a CPU".
    """
    import torch

    if backend == "torch":
        return []
    if limit <= WIDEST:
        if backend in ("auto", "onnx") and dtype == torch.float32:
            return [OnnxLayers, TorchLayers]
        if backend == "openvino" and dtype != torch.float16:
            return [OpenVinoLayers, TorchLayers]
    return [TorchLayers]


def _built(loaded: LoadedModel, build: Callable[[], Embedder]) -> Embedder:
    """Make an embedder. Raises _NotFor for one that cannot be made for this model."""
    try:
        return build()
    except MissingPackage as exc:
        if (loaded.spec.backend or loaded.settings.backend) != "auto":
            raise
        raise _NotFor(exc.message) from None
    except ServiceError:
        raise
    except Exception as exc:  # a private operator changed, a layer is built otherwise
        if meaning(exc) is not exc:
            raise
        raise _NotFor(told(exc)) from None


def _warn_of_wish(loaded: LoadedModel, way: str) -> None:
    backend = loaded.spec.backend or loaded.settings.backend
    if backend not in ("auto", way):
        log.warning("%s runs by %s, %s is not for it", loaded.spec.id, way, backend)


class Verdict:
    """Which way was proven for a model on this machine, kept in a file."""

    def __init__(self, loaded: LoadedModel, limit: int) -> None:
        facts = [
            loaded.fingerprint(limit), str(loaded.dtype), _processor(loaded.device), cores(),
            loaded.spec.backend or loaded.settings.backend, _code(),
            *(version(package) for package in MEASURED),
        ]  # fmt: skip
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
        self._path = weights.own_cache(loaded.settings.model_cache_dir) / "proofs" / f"{key}.json"
        self._known: str | None = None

    def read(self) -> tuple[str | None, bool]:
        """Return the way that was proven and whether padding leaks; no way if none was."""
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            self._known, leaks = str(kept["way"]), kept["leaks"] is True
        except Exception:  # not there, or damaged in whatever way
            self._known, leaks = None, False
        return self._known, leaks

    def keep(self, way: str, leaks: bool) -> None:
        """Write down a way, if it can be written; else the next start proves it again."""
        if way == self._known:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._path.parent, delete=False) as file:
                json.dump({"way": way, "leaks": leaks}, file)
            try:
                os.replace(file.name, self._path)
            except OSError:
                os.unlink(file.name)


@functools.cache
def _code() -> str:
    """Return a digest of this package's source: another version proves again."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _processor(device: Any) -> str:
    """Name what computes: its kernels differ from others'."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names = [platform.machine(), torch.backends.cpu.get_cpu_capability()]
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        names += [line for line in text.splitlines() if line.startswith("model name")][:1]
    return " ".join(names)
