"""Loads a sentence-transformers folder onto a device, and says what is known of it.

Owns everything that is the same for every kind of local model: where it comes from, which device
and dtype it gets, and its facts. How inputs go through it is `local.py`'s, `static.py`'s and
`fallback.py`'s.
"""

import functools
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from config import ModelSettings, ModelSpec
from embedders import kinds, weights
from embedders.base import Facts
from embedders.checkpoint import read
from embedders.device import OneThread, choose_device, choose_dtype, room_for
from errors import ModelUnavailable

log = logging.getLogger("embedders")
T = TypeVar("T")


@dataclass(frozen=True)
class LoadedModel:
    """A `SentenceTransformer` on its device, in the dtype it runs in, and where it is from."""

    modules: Any  # SentenceTransformer, without a Normalize at its end
    normalizes: bool  # whether there was one
    spec: ModelSpec
    settings: ModelSettings
    source: weights.Source
    device: Any  # torch.device
    dtype: Any  # torch.dtype of the network, or of a table of static embeddings
    notes: tuple[str, ...] = ()

    @property
    def pooling(self) -> Any:
        """The module that makes one vector of the tokens', or None."""
        return next((m for m in self.modules if hasattr(m, "include_prompt")), None)

    @property
    def wanted_tokens(self) -> int | None:
        """The length limit that the configuration asks for."""
        return self.spec.max_seq_length or self.settings.max_seq_length

    def heads(self) -> list[Any]:
        """Return the modules after the first in float32.

        The library casts them to the network's dtype; in half precision they are read again.
        """
        import torch

        heads = list(self.modules)[1:]
        if all(p.dtype == torch.float32 for module in heads for p in module.parameters()):
            return heads
        folder = self.source.folder
        paths = [row["path"] for row in json.loads(_text(folder / "modules.json"))]
        for place, module in enumerate(heads):
            if any(True for _ in module.parameters()):
                path = paths[place + 1]
                again = type(module).load(str(folder), subfolder=path, local_files_only=True)
                heads[place] = again.to(self.device, torch.float32).eval()
        return heads

    def exactly(self, *notes: str) -> "LoadedModel":
        """Load the same model once more, in float32. `notes` say why, to its operator."""
        import torch

        modules, _ = read(self.source.folder, self.device, torch.float32, self.spec.model_name)
        _settle(modules, self.spec)
        for ours, copy in zip(self.modules.modules(), modules.modules(), strict=False):
            if type(ours) is type(copy) and hasattr(ours, "processing_kwargs"):
                # Each network's own: a Router's setter would give every route the longest.
                copy.max_seq_length = ours.max_seq_length
                copy.query_length, copy.document_length = ours.query_length, ours.document_length
                copy.processing_kwargs = ours.processing_kwargs
        return LoadedModel(
            modules, self.normalizes, self.spec, self.settings, self.source, self.device,
            torch.float32, (*self.notes, *notes),
        )  # fmt: skip

    def facts(
        self, max_tokens: int | None, vocabulary: int | None, backend: str, *notes: str
    ) -> Facts:
        """Describe the model. `backend` is what runs its passes, `notes` what is to be told."""
        spec, model = self.spec, self.modules
        pooling = getattr(self.pooling, "pooling_mode", None)
        dtype = str(self.dtype).removeprefix("torch.")
        return Facts(
            dimension=int(model.get_embedding_dimension()),
            max_tokens=max_tokens,
            device=str(self.device),
            dtype=dtype,
            backend=backend,
            fingerprint=self.fingerprint(max_tokens),
            revision=spec.revision,
            pooling=str(pooling) if pooling else None,
            vocabulary=vocabulary,
            normalizes=self.normalizes,
            prompts=dict(model.prompts),
            default_prompt_name=model.default_prompt_name,
            notes=(*self.notes, *notes),
        )

    def fingerprint(self, max_tokens: int | None) -> str:
        """Return 16 hex digits that differ whenever vectors of equal texts may differ."""
        import torch

        spec, model = self.spec, self.modules
        normalize = self.settings.normalize if spec.normalize is None else spec.normalize
        precision = "full" if self.dtype == torch.float32 else "half"
        prompts = [model.prompts, model.default_prompt_name]
        identity = [self.source.digest, max_tokens, prompts, spec.dimensions, normalize, precision]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def load(spec: ModelSpec, settings: ModelSettings) -> LoadedModel:
    """Find, check and load a model. Raises ModelUnavailable with a reason to act on."""
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    name, cache = spec.model_name, settings.model_cache_dir
    pickled = settings.allow_pickled_weights
    if "gguf" in name.lower():  # a file, or a repository of them: nothing to download
        kinds.identify(Path(name), name)
    folder = weights.find(name, spec.revision, cache, token, allow_pickled=pickled)
    notes = kinds.identify(folder, name)
    source = weights.check(folder, name, cache, allow_pickled=pickled)
    kind, wanted = model_type(source.folder), spec.dtype or settings.dtype
    on_gpu = choose_dtype(wanted, _gpu(), kind) if _gpu() else None
    device = choose_device(spec.device or settings.device, room_for(source.folder, on_gpu))
    dtype = choose_dtype(wanted, device, kind)
    modules, unread = apart(lambda: read(source.folder, device, dtype, name))
    normalizes = _settle(modules, spec)
    notes += source.notes
    if unread:
        notes += (f"its file has {len(unread)} weights that the network does not read, {unread[0]} "
                  "among them: it may need code that this service does not run",)  # fmt: skip
    if modules.transformers_model is not None and "big_bird" in kind:
        notes += ("it attends in full, as the library does after the first short text",)
    for note in notes:
        log.warning("%s: %s", spec.id, note)
    if modules.transformers_model is None and modules.dtype is not None:
        dtype = modules.dtype  # a table of static embeddings is run as it is stored
    return LoadedModel(modules, normalizes, spec, settings, source, device, dtype, notes)


def apart(work: Callable[[], T]) -> T:
    """Do a part of a model's loading in the one thread that there is for it; return the result.

    torch keeps memory, and threads beside it, for each thread that ever computed. A service whose
    model was exchanged 20 times under 32 clients grew by 45 MB while each load had the thread of
    its request and each model threads of its own for passes, and by 30 since (2 cores, 2026-11-26).
    """
    return _loader().run(work)


@functools.cache
def _loader() -> OneThread:
    return OneThread("load")  # the libraries' imports and loaders are not made for two


def _gpu() -> Any:
    """Return the device of the GPU that `auto` would take, or None."""
    import torch

    return torch.device("cuda") if torch.cuda.is_available() else None


def model_type(folder: Path) -> str:
    """Return the architecture that config.json names (such as "bert"), or an empty string."""
    for path in (folder / "config.json", *sorted(folder.glob("0_*/config.json"))):
        if path.is_file():
            return str(json.loads(_text(path)).get("model_type", ""))
    return ""


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _settle(model: Any, spec: ModelSpec) -> bool:
    """Give the library's model what the configuration says, and tell whether it normalizes.

    A Normalize at the end is taken off, as the engine does that: a request may ask for the vector
    before it. Raises ModelUnavailable for what the model cannot have.
    """
    model.prompts = {**model.prompts, **spec.prompts}
    default = spec.default_prompt_name or model.default_prompt_name
    if default is not None and default not in model.prompts:
        known = ", ".join(sorted(model.prompts))
        raise ModelUnavailable(f"default_prompt_name {default!r} is none of: {known}")
    model.default_prompt_name = default
    width = int(model.get_embedding_dimension())
    if spec.dimensions is not None:
        if spec.dimensions > width:
            raise ModelUnavailable(f"dimensions {spec.dimensions}: the model has only {width}")
        model.truncate_dim = spec.dimensions
    last = list(model)[-1]
    normalizes = type(last).__name__ == "Normalize" and len(model) > 1
    if normalizes:
        model._modules.popitem()  # `del model[-1]` would rename the others
    return normalizes
