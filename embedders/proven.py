"""Chooses what runs a loaded model: the fastest backend whose results are proven the library's.

The verdict is kept in the model cache, by everything that it depends on, so that a restart does not
prove it again. A model that no faster backend is right for is run by the library itself.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

from embedders import weights
from embedders.base import DeviceBroken, Embedder, OutOfMemory, Small
from embedders.device import DeviceEmbedder, described, meaning
from embedders.graph import MissingPackage
from embedders.layers import cores
from embedders.loading import LoadedModel, apart
from embedders.rotary import follows_longest
from errors import ModelUnavailable, ServiceError

log = logging.getLogger("embedders")


class Comparison(Protocol):
    """The library's results for a few inputs, and what they are compared with."""

    @property
    def leaks(self) -> bool:
        """Whether padding changes an input's result in the library; see `Proof.leaks`."""

    def difference(self, embedder: Embedder) -> str | None:
        """Return how an embedder's results differ from the library's, or None."""

    def states_differ(self, embedder: Embedder) -> str | None:
        """Return how the states of tokens differ, if it gives them; see `Proof.states_differ`."""


Backend = tuple[str, Callable[[], DeviceEmbedder]]
# What gives the states of tokens: what makes the vectors, the network apart from it, or nothing.
States = Literal["own", "apart", "none"]
STATES: dict[str, States] = {"own": "own", "apart": "apart", "none": "none"}
LIBRARY = "library"
MEASURED = ("torch", "transformers", "sentence-transformers", "tokenizers", "onnxruntime", "numpy")


def in_its_dtype(loaded: LoadedModel, choose: Callable[[LoadedModel], Embedder]) -> Embedder:
    """Return the embedder that `choose` makes, of a copy in float32 if it cannot run in half.

    Raises ModelUnavailable for a model that cannot run at all.
    """
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
    log.warning("%s: %s", loaded.spec.id, note)
    exact = loaded.exactly(note)
    return apart(lambda: choose(exact))


def choose(
    loaded: LoadedModel, limit: int, backends: Sequence[Backend], proof: Comparison,
    library: Callable[[str], DeviceEmbedder],
) -> Embedder:  # fmt: skip
    """Return the first of the backends whose results equal the library's, or the library's own.

    `limit` is how many tokens the model reads; `library(note)` makes what the library runs.
    """
    name, started = loaded.spec.id, time.monotonic()
    verdict = Verdict(loaded, limit)
    why = "no faster backend is for its kind"
    known, leaks = verdict.read()
    if known is None:
        log.info("comparing %s with the library's results, once on this machine", name)
        leaks = follows_longest(loaded.modules) or proof.leaks
    ordered = sorted(backends, key=lambda each: each[0] != known)  # the known one first
    for backend, build in ordered if known != LIBRARY else []:
        embedder: DeviceEmbedder | None = None
        try:
            embedder = build()
            embedder.one_length = leaks
            difference = _settle(embedder, proof, verdict, proven=backend == known)
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
            _choose_states(embedder, proof, verdict, proven=backend == known)
            verdict.keep(backend, leaks)
            log.info("%s runs by %s (proven in %.2f s)", name, backend, time.monotonic() - started)
            embedder.free_network()
            return embedder
        why = f"{backend}: {difference}"
        log.warning("%s cannot run by %s", name, why)
    if loaded.quantized:
        raise ModelUnavailable(
            f"dtype int8 does not suit {loaded.spec.model_name!r} ({why}): set its dtype to "
            "bfloat16 or float32"
        )
    verdict.keep(LIBRARY, leaks)
    note = f"run by sentence-transformers itself, one pass at a time ({why})"
    log.warning("%s is %s", name, note)
    run = library(note)
    run.one_length = leaks
    return run


def _settle(
    embedder: DeviceEmbedder, proof: Comparison, verdict: "Verdict", *, proven: bool
) -> str | None:
    """Have small passes run by what is fastest; return how the results differ, or None."""
    if proven:
        embedder.take_small(verdict.small)
        return None
    verdict.small = embedder.take_small(None)
    difference = proof.difference(embedder)
    if difference and verdict.small:
        log.warning("its small passes run as all others do: %s", difference)
        verdict.small = embedder.take_small(())
        difference = proof.difference(embedder)
    return difference


def _choose_states(
    embedder: DeviceEmbedder, proof: Comparison, verdict: "Verdict", *, proven: bool
) -> None:  # fmt: skip
    """Have the states of tokens computed by what is proven to give them, or by nothing."""
    if not proven:
        verdict.states = "own"
        if difference := proof.states_differ(embedder):
            log.warning("%s: other states of tokens: %s", embedder.facts.backend, difference)
            embedder.tokens_apart, verdict.states = True, "apart"
            # Beside int8 the network itself would take four times as much memory again.
            if embedder.facts.dtype == "int8" or proof.states_differ(embedder):
                verdict.states = "none"
    embedder.tokens_apart = verdict.states == "apart"
    if verdict.states == "none":
        embedder.facts = replace(embedder.facts, token_dimension=0, pools_chunks=False)


class Verdict:
    """The backend that was proven for a model on this machine, kept in a file."""

    def __init__(self, loaded: LoadedModel, limit: int) -> None:
        facts = [
            loaded.fingerprint(limit), str(loaded.dtype), _processor(loaded.device), cores(),
            loaded.backend, loaded.settings.cuda_graphs, _code(),
            *(version(package) for package in MEASURED),
        ]  # fmt: skip
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
        self._name, self._wanted = loaded.spec.id, loaded.backend
        self._path = weights.own_cache(loaded.settings.model_cache_dir) / "proofs" / f"{key}.json"
        self._known: str | None = None
        self.states: States = "own"  # what gives the states of tokens
        self.small: tuple[Small, ...] = ()  # what runs small passes

    def read(self) -> tuple[str | None, bool]:
        """Return the proven backend, None without one, and whether padding leaks."""
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            if kept["busy"] and not is_busy():
                raise ValueError("what was measured then may be wrong for the machine as it is now")
            self._known, leaks = str(kept["backend"]), kept["leaks"] is True
            self.states, self.small = STATES[kept["states"]], tuple(map(_small, kept["small"]))
        except Exception:  # missing, or damaged in any way
            self._known, leaks, self.states, self.small = None, False, "own", ()
        return self._known, leaks

    def keep(self, backend: str, leaks: bool) -> None:
        """Write the proven backend to the file. If that fails, the next start proves it again."""
        if self._wanted not in ("auto", backend.partition("+")[0]):
            log.warning("%s runs by %s: %s does not suit it", self._name, backend, self._wanted)
        if backend == self._known:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            found = {
                "backend": backend, "leaks": leaks, "states": self.states, "small": self.small,
                "busy": backend.startswith("packed") and is_busy(),  # the others measure nothing
            }  # fmt: skip
            verdict = json.dumps(found)
            self._path.write_text(verdict, encoding="utf-8")  # a damaged file proves it again


def _small(each: tuple[int, str, int]) -> Small:
    """Return a step as it was kept. Raises ValueError for one that cannot be."""
    small = Small(*each)
    if type(small.most_tokens) is not int or small.cores not in (1, cores()):
        raise ValueError(f"no such step: {small}")
    return small


def is_busy() -> bool:
    """Return whether programs kept over half of the cores busy during the last minute.

    A second core gains nothing then, so a measurement chooses what is slower on an idle machine
    (Zen 4, 2 cores, 2026-11-30: packed layers on one core, 5.8 ms a query, in place of 3.6).
    """
    return os.getloadavg()[0] > cores() / 2


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
