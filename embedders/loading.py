"""Loads a sentence-transformers folder onto a device, and says what is known of it.

Owns everything that is the same for every kind of local model: where it comes from, which device
and precision it gets, and its facts. How inputs go through it is `local.py`'s and `whole.py`'s.
"""

import functools
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from config import ModelSettings, ModelSpec
from embedders import weights
from embedders.base import Facts
from errors import ModelUnavailable

log = logging.getLogger("embedders")
_one_at_a_time = threading.Lock()  # the libraries' imports and loaders are not made for two threads
T = TypeVar("T")


@dataclass(frozen=True)
class LoadedModel:
    """A `SentenceTransformer` in float32 on its device, with what it was loaded from."""

    modules: Any  # SentenceTransformer: its modules in order
    spec: ModelSpec
    settings: ModelSettings
    digest: str  # of the weights
    device: Any  # torch.device

    @property
    def pooling(self) -> Any:
        """The module that makes one vector of the tokens', or None."""
        return next((m for m in self.modules if hasattr(m, "include_prompt")), None)

    @property
    def wanted_tokens(self) -> int | None:
        """The length limit that the configuration asks for."""
        return self.spec.max_seq_length or self.settings.max_seq_length

    def facts(
        self, dtype: str, max_tokens: int | None, vocabulary: int | None, backend: str = "torch"
    ) -> Facts:
        """Describe the model. Raises ModelUnavailable for a default prompt that it has not."""
        spec, model = self.spec, self.modules
        prompts = {**model.prompts, **spec.prompts}
        default = spec.default_prompt_name or model.default_prompt_name
        if default is not None and default not in prompts:
            known = ", ".join(sorted(prompts))
            raise ModelUnavailable(f"default_prompt_name {default!r} is none of: {known}")
        pooling = getattr(self.pooling, "pooling_mode", None)
        normalize = self.settings.normalize if spec.normalize is None else spec.normalize
        kinds = [type(module).__name__ for module in model]
        precision = "full" if dtype == "float32" else "half"
        identity = [self.digest, kinds, pooling, max_tokens, prompts, normalize, precision]
        return Facts(
            dimension=int(model.get_embedding_dimension()),
            max_tokens=max_tokens,
            device=str(self.device),
            dtype=dtype,
            backend=backend,
            fingerprint=_fingerprint(identity),
            revision=spec.revision,
            pooling=str(pooling) if pooling else None,
            vocabulary=vocabulary,
            prompts=prompts,
            default_prompt_name=default,
        )


def load(spec: ModelSpec, settings: ModelSettings) -> LoadedModel:
    """Find, check and load a model. Raises ModelUnavailable with a reason to act on."""
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    folder = weights.find(spec.model_name, spec.revision, settings.model_cache_dir, token)
    digest = weights.check(folder, spec.model_name)
    device = choose_device(spec.device or settings.device, room_for(folder))
    modules = apart(lambda: _load(folder, device, spec.model_name))
    return LoadedModel(modules, spec, settings, digest, device)


def apart(work: Callable[[], T]) -> T:
    """Do a part of a model's loading in the one thread that there is for it; return the result.

    torch keeps memory, and threads beside it, for each thread that ever computed. A service whose
    model was exchanged 20 times under 32 clients grew by 45 MB while each load had the thread of
    its request and each model threads of its own for passes, and by 30 since (2 cores, 2026-11-26).
    """
    done: Future[T] = Future()
    with _one_at_a_time:
        _inbox().put((done, work))
        return done.result()


@functools.cache
def _inbox() -> "SimpleQueue[tuple[Future[Any], Callable[[], Any]]]":
    inbox: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()

    def serve() -> None:
        while True:
            done, work = inbox.get()
            try:
                done.set_result(work())
            except BaseException as exc:  # whoever waits raises it
                done.set_exception(exc)
            del done, work  # they hold a model

    threading.Thread(target=serve, name="load", daemon=True).start()
    return inbox


def room_for(folder: Path) -> int:
    """Return the bytes that a model needs on a GPU: float32 weights, of half precision on disk at
    worst, and half a gigabyte for its passes.
    """
    return 2 * sum(file.stat().st_size for file in folder.rglob("*.safetensors")) + (512 << 20)


def _has_room(needed: int) -> bool:
    import torch

    free, _ = torch.cuda.mem_get_info()
    if free < needed:
        log.warning(
            "the GPU has %d MB free, %d MB are needed: using the CPU", free >> 20, needed >> 20
        )
    return bool(free >= needed)


def choose_device(wanted: str, needed: int = 0) -> Any:
    """Return the torch device for `cpu`, `cuda`, `cuda:N`, `mps` or `auto`.

    `auto` is a GPU with `needed` bytes free, else the CPU. Raises ModelUnavailable for a device
    that this machine does not have.
    """
    import torch

    cuda = torch.cuda.is_available()
    mps = torch.backends.mps.is_available()
    if wanted == "auto":
        return torch.device("cuda" if cuda and _has_room(needed) else "mps" if mps else "cpu")
    device = torch.device(wanted)
    count = torch.cuda.device_count() if cuda else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ModelUnavailable(
            f"DEVICE={wanted}: this machine has {count} CUDA devices; use cpu or auto"
        )
    if device.type == "mps" and not mps:
        raise ModelUnavailable("DEVICE=mps: this machine has no Apple GPU; use cpu or auto")
    return device


def choose_dtype(wanted: str, device: Any) -> Any:
    """Return the torch dtype; `auto` is bfloat16 where the hardware computes in it natively."""
    import torch

    if wanted != "auto":
        return getattr(torch, wanted)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and _cpu_has_bfloat16():
        return torch.bfloat16
    return torch.float32


def _cpu_has_bfloat16() -> bool:
    """Tell whether the CPU multiplies bfloat16 matrices natively (AVX512-BF16 or AMX)."""
    import torch

    flags = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, flag, bool)() for flag in flags)


def _load(folder: Path, device: Any, name: str) -> Any:
    """Load the modules in float32, without the network and without the repository's code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from sentence_transformers import SentenceTransformer

    started = time.monotonic()
    try:
        with _missing_weights() as missing:
            model = SentenceTransformer(
                str(folder),
                device=str(device),
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True, "dtype": "float32"},
            )
    except Exception as exc:
        raise ModelUnavailable(f"{name!r} cannot be loaded: {_one_line(exc)}") from exc
    if missing:
        files = ", ".join(sorted(file.name for file in folder.rglob("*.safetensors")))
        raise ModelUnavailable(
            f"{name!r} is not whole: {files} lacks {len(missing)} weights, {missing[0]} among them"
        )
    log.info("loaded %s on %s in %.1f s", name, device, time.monotonic() - started)
    return model.eval()


@contextmanager
def _missing_weights() -> Iterator[list[str]]:
    """Collect the names of weights that the files lack: transformers makes them up at random.

    It says so in its log only, and its loader hands its findings to nobody else.
    """
    from transformers import modeling_utils

    missing: list[str] = []
    report = modeling_utils.log_state_dict_report

    def note(*args: Any, **kwargs: Any) -> Any:
        lacking = kwargs["loading_info"].missing_keys
        # a pooler is often left out, and its output is used by none of the modules after it
        missing.extend(sorted(key for key in lacking if "pooler." not in key))
        return report(*args, **kwargs)

    modeling_utils.log_state_dict_report = note
    try:
        yield missing
    finally:
        modeling_utils.log_state_dict_report = report


def _one_line(exc: Exception) -> str:
    text = " ".join(str(exc).split())
    return f"{type(exc).__name__}: {text[:300]}"


def _fingerprint(identity: object) -> str:
    """Return 16 hex digits that differ whenever vectors of equal texts may differ."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
