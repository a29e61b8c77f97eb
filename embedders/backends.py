"""Chooses the backend of a loaded model: the fastest one whose vectors are proven the library's.

The verdict is kept in the model cache, by everything that it depends on, so that a restart does not
prove it again. A model that no faster backend is right for is run by the library itself.
"""

import contextlib
import functools
import hashlib
import json
import logging
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from config import ModelSettings, ModelSpec
from embedders import weights
from embedders.base import DeviceBroken, Embedder, OutOfMemory
from embedders.device import described, meaning
from embedders.fallback import FallbackEmbedder
from embedders.graph import WIDEST, MissingPackage, OnnxLayers
from embedders.layers import TorchLayers, cores
from embedders.loading import LoadedModel, apart, load
from embedders.local import LocalEmbedder
from embedders.packed import can_pack
from embedders.proof import Proof, Reference
from embedders.static import StaticEmbedder
from embedders.tokens import MOST_TOKENS, Limits, limits_of
from errors import ModelUnavailable, ServiceError
from server.memory import while_loading

log = logging.getLogger("embedders")

Backend = tuple[str, Callable[[], Embedder]]
LIBRARY = "library"
MEASURED = ("torch", "transformers", "sentence-transformers", "tokenizers", "onnxruntime", "numpy")


@while_loading()
def local(spec: ModelSpec, settings: ModelSettings) -> Embedder:
    """Return any model that sentence-transformers loads. Raises ModelUnavailable."""
    loaded = load(spec, settings)
    try:
        return apart(lambda: choose(loaded))
    except (DeviceBroken, OutOfMemory, ServiceError):
        raise
    except Exception as exc:
        dtype = str(loaded.dtype).removeprefix("torch.")
        failed = f"sentence-transformers cannot run it in {dtype} ({described(exc)})"
        if loaded.dtype.itemsize >= 4 or meaning(exc) is not exc:
            raise ModelUnavailable(failed) from exc
    note = f"{failed}: it runs in float32"
    log.warning("%s: %s", spec.id, note)
    exact = loaded.exactly(note)
    return apart(lambda: choose(exact))


def choose(loaded: LoadedModel) -> Embedder:
    """Return the first backend whose vectors equal the library's, or the library's own."""
    name, started = loaded.spec.id, time.monotonic()
    limit, backends = _backends_of(loaded)
    reference, verdict = Reference(loaded.modules), Verdict(loaded, limit)
    proof = Proof(reference, limit, half=loaded.dtype.itemsize < 4)
    why = "no faster backend is for its kind"
    known, leaks = verdict.read()
    if known is None:
        leaks = proof.leaks
    backends.sort(key=lambda each: each[0] != known)  # the known one first
    for backend, build in backends if known != LIBRARY else []:
        embedder: Embedder | None = None
        try:
            embedder = build()
            if isinstance(embedder, LocalEmbedder):
                embedder.one_length = embedder.pads and leaks
            difference = None if backend == known else proof.difference(embedder)
        except MissingPackage as exc:
            if loaded.backend != "auto":
                raise
            difference = exc.message
        except (DeviceBroken, OutOfMemory, ServiceError):
            raise
        except Exception as exc:  # such as a private operator that changed
            if embedder is None and meaning(exc) is not exc:
                raise
            difference = described(exc)
        if embedder and difference is None:
            verdict.keep(backend, leaks)
            log.info("%s runs by %s (proven in %.2f s)", name, backend, time.monotonic() - started)
            if isinstance(embedder, LocalEmbedder):
                embedder.free_network()
            return embedder
        why = f"{backend}: {difference}"
        log.warning("%s cannot run by %s", name, why)
    verdict.keep(LIBRARY, leaks)
    note = f"run by sentence-transformers itself, one pass at a time ({why})"
    log.warning("%s is %s", name, note)
    library = FallbackEmbedder(loaded, reference, limit if limit < MOST_TOKENS else None, note)
    library.one_length = leaks
    return library


def _backends_of(loaded: LoadedModel) -> tuple[int, list[Backend]]:
    """Return how many tokens the model reads, and the backends to try, the fastest first.

    The library's own limits are set to the same, so that both cut inputs alike.
    """
    import torch
    from sentence_transformers.sentence_transformer.modules import Transformer

    first = next(iter(loaded.modules))
    wanted = loaded.spec.max_seq_length or loaded.settings.max_seq_length
    if type(first).__name__ == "StaticEmbedding":
        truncation = first.tokenizer.truncation or {}
        own = truncation.get("max_length", MOST_TOKENS)
        if wanted and wanted < own:
            side = truncation.get("direction", "right")
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
    makes: list[Any] = [None]
    heads = list(loaded.modules)[1:]
    pools = bool(heads) and hasattr(heads[0], "include_prompt")
    wants_packed = loaded.device.type == "cpu" and loaded.backend != "torch"
    if wants_packed and pools and can_pack(first.auto_model):
        # In float32 ONNX Runtime is faster than torch's oneDNN; it cannot compute in bfloat16. The
        # figures are in docs/benchmarks.md, "Ways through the network on a CPU".
        onnx = loaded.backend in ("auto", "onnx") and loaded.dtype == torch.float32
        makes = [OnnxLayers, TorchLayers, None] if onnx and most <= WIDEST else [TorchLayers, None]
    return most, [
        (make.name if make else "torch", functools.partial(LocalEmbedder, loaded, limits, make))
        for make in makes
    ]


def _reads_ids(first: Any) -> bool:
    """Return whether a module is a transformer with one state for each of its token ids."""
    text = {"method": "forward", "method_output_name": "last_hidden_state"}
    return (
        hasattr(first, "auto_model")
        and hasattr(first.tokenizer, "backend_tokenizer")
        and first.modality_config.get("text") == text
        and "message" not in first.modality_config
        and first.module_output_name == "token_embeddings"
    )


class Verdict:
    """The backend that was proven for a model on this machine, kept in a file."""

    def __init__(self, loaded: LoadedModel, limit: int) -> None:
        facts = [
            loaded.fingerprint(limit), str(loaded.dtype), _processor(loaded.device), cores(),
            loaded.backend, _code(), *(version(package) for package in MEASURED),
        ]  # fmt: skip
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
        self._name, self._wanted = loaded.spec.id, loaded.backend
        self._path = weights.own_cache(loaded.settings.model_cache_dir) / "proofs" / f"{key}.json"
        self._known: str | None = None

    def read(self) -> tuple[str | None, bool]:
        """Return the proven backend, None without one, and whether padding leaks."""
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            self._known, leaks = str(kept["backend"]), kept["leaks"] is True
        except Exception:  # missing, or damaged in any way
            self._known, leaks = None, False
        return self._known, leaks

    def keep(self, backend: str, leaks: bool) -> None:
        """Write the proven backend to the file. If that fails, the next start proves it again."""
        if self._wanted not in ("auto", backend):
            log.warning("%s runs by %s: %s does not suit it", self._name, backend, self._wanted)
        if backend == self._known:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            verdict = json.dumps({"backend": backend, "leaks": leaks})
            self._path.write_text(verdict, encoding="utf-8")  # a damaged file proves it again


@functools.cache
def _code() -> str:
    """Return a digest of this package's source, as another version proves again."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _processor(device: Any) -> str:
    """Return the name of the processor that computes, as kernels depend on it."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names = [platform.machine(), torch.backends.cpu.get_cpu_capability()]
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        names += [line for line in text.splitlines() if line.startswith("model name")][:1]
    return " ".join(names)
