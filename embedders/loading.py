"""Loads a sentence-transformers folder onto a device, and describes the loaded model.

Everything that all local models share: the source, the device and dtype, the checks of the
checkpoint, and the facts. `local.py`, `static.py` and `fallback.py` run the model.
"""

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from config import ModelSettings, ModelSpec
from embedders import kinds, weights
from embedders.base import Facts, Kind
from embedders.device import choose_place, described, thread
from embedders.folder import names, network_config
from embedders.manifest import STANFORD
from embedders.progress import tell_of_weights
from embedders.rotary import forget_lengths
from embedders.tokens import MOST_TOKENS, Limits, limits_of
from errors import ModelUnavailable

log = logging.getLogger("embedders")
T = TypeVar("T")
# The last parts of names of buffers that older versions of transformers stored with the weights.
BUFFERS = ("position_ids", "token_type_ids", "inv_freq", "masked_bias", "attn.bias")
# The library's class for each kind of model.
FAMILIES: dict[Kind, str] = {
    "sentence_transformer": "SentenceTransformer", "sparse": "SparseEncoder",
    "multi_vector": "MultiVectorEncoder", "reranker": "CrossEncoder", "classifier": "CrossEncoder",
}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """A local model's checked files, its kind, and where it shall run."""

    spec: ModelSpec
    settings: ModelSettings
    kind: Kind
    source: weights.Source
    network: str  # the model_type of the first network, or ""
    device: Any  # torch.device
    dtype: Any  # torch.dtype of the network, or of a table of static embeddings
    notes: tuple[str, ...] = ()
    quantized: bool = False  # to int8 from float32, which `dtype` then is


@dataclass(frozen=True, kw_only=True)
class LoadedModel(Found):
    """The library's model on its device, in the dtype it runs in, and where it is from."""

    modules: Any  # a SentenceTransformer is without a Normalize at its end
    normalizes: bool  # whether there was one

    @property
    def pooling(self) -> Any:
        """The module that pools the tokens' vectors into one, or None."""
        return next((m for m in self.modules if hasattr(m, "include_prompt")), None)

    @property
    def precision(self) -> str:
        """The name of the dtype that the model runs in."""
        return "int8" if self.quantized else str(self.dtype).removeprefix("torch.")

    @property
    def backend(self) -> str:
        """The backend that the configuration asks for."""
        return self.spec.backend or self.settings.backend

    @property
    def wanted_length(self) -> int | None:
        """The longest input in tokens that the configuration asks for, if it does."""
        return self.spec.max_seq_length or self.settings.max_seq_length

    def limits(self) -> tuple[int, Limits]:
        """Return how many tokens the networks read, 0 without one, and the limits of the last one.

        The library's own limits are set to the same, so that both cut inputs alike.
        """
        most, limits = 0, Limits(MOST_TOKENS)
        for module in self.modules.modules():
            if hasattr(module, "auto_model"):
                limits = limits_of(module, self.wanted_length)
                limits.set_on(module)
                most = max(most, limits.most)
        return most, limits

    def heads(self) -> list[Any]:
        """Return the modules after the first in float32.

        The library casts them to the network's dtype; in half precision they are loaded again.
        """
        import torch

        heads = list(self.modules)[1:]
        if all(p.dtype == torch.float32 for module in heads for p in module.parameters()):
            return heads
        folder = self.source.folder
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        for place, module in enumerate(heads):
            if any(True for _ in module.parameters()):
                path = modules[place + 1]["path"]
                again = type(module).load(str(folder), subfolder=path, local_files_only=True)
                heads[place] = again.to(self.device, torch.float32).eval()
        return heads

    def exactly(self, *notes: str) -> "LoadedModel":
        """Return the same model loaded again in float32. `notes` give the operator the reason."""
        import torch

        modules, _ = read(replace(self, dtype=torch.float32))
        _configure(modules, self)
        for ours, copy in zip(self.modules.modules(), modules.modules(), strict=False):
            if type(ours) is type(copy) and hasattr(ours, "processing_kwargs"):
                # Each network keeps its own: a Router's setter would give all the longest limit.
                copy.max_seq_length = ours.max_seq_length
                copy.query_length, copy.document_length = ours.query_length, ours.document_length
                copy.processing_kwargs = ours.processing_kwargs
        notes = *self.notes, *notes
        return replace(self, modules=modules, dtype=torch.float32, quantized=False, notes=notes)

    def facts(
        self, max_tokens: int | None, vocabulary: int | None, backend: str, *notes: str
    ) -> Facts:
        """Return the model's facts. `backend` is what runs its passes."""
        model, pooling = self.modules, getattr(self.pooling, "pooling_mode", None)
        return Facts(
            dimension=int(model.get_embedding_dimension()),
            max_tokens=max_tokens,
            device=str(self.device), dtype=self.precision, backend=backend,
            fingerprint=self.fingerprint(max_tokens), revision=self.spec.revision,
            pooling=str(pooling) if pooling else None, vocabulary=vocabulary,
            normalizes=self.normalizes,
            prompts={name: text or "" for name, text in model.prompts.items()},
            default_prompt_name=model.default_prompt_name,
            notes=(*self.notes, *notes),
        )  # fmt: skip

    def fingerprint(self, max_tokens: int | None) -> str:
        """Return 16 hex digits that differ whenever vectors of equal texts may differ."""
        spec, model = self.spec, self.modules
        normalize = self.settings.normalize if spec.normalize is None else spec.normalize
        precision = {"float32": "full", "int8": "int8"}.get(self.precision, "half")
        prompts = [model.prompts, model.default_prompt_name]
        identity = [
            self.source.digest, self.kind, max_tokens, prompts, spec.dimensions, normalize,
            precision, *([spec.pooling] if spec.pooling else []),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def find(spec: ModelSpec, settings: ModelSettings) -> Found:
    """Return a model's checked files, its kind and where it shall run. Raises ModelUnavailable."""
    name = spec.model_name
    identity, source = weights.checked(spec, settings)
    network = str(network_config(source.folder).get("model_type", ""))
    wanted = spec.dtype or settings.dtype
    notes = (*identity.notes, *source.notes)
    int8 = wanted == "int8"
    if int8:
        kinds.refuse_int8(identity.kind, name)
    place = choose_place(spec.device or settings.device, wanted, source.folder, network)
    return Found(spec, settings, identity.kind, source, network, *place, notes, int8)


def load(found: Found) -> LoadedModel:
    """Return a model that gives dense, sparse or token vectors, loaded. Raises ModelUnavailable."""
    spec = found.spec
    modules, unread = apart(lambda: read(found))
    if found.kind != "sentence_transformer":
        _refuse_untrained(found, modules)
    normalizes = _configure(modules, found)
    notes = found.notes + unread
    if spec.pooling:
        notes = tuple(note for note in notes if note != kinds.MEAN)
    if modules.transformers_model is not None and "big_bird" in found.network:
        notes += ("it uses full attention, as the library does after the first short text",)
    for note in notes:
        log.warning("%s: %s", spec.id, note)
    dtype = found.dtype
    if modules.transformers_model is None and modules.dtype is not None:
        dtype = modules.dtype  # a table of static embeddings runs in its stored dtype
    found = replace(found, dtype=dtype, notes=notes)
    return LoadedModel(**vars(found), modules=modules, normalizes=normalizes)


def apart(work: Callable[[], T]) -> T:
    """Return what `work` returns, run in the one thread that loads models.

    The libraries' imports and loaders do not bear two at once, and torch keeps memory for each
    thread that ever computed: a service whose model was exchanged 20 times under 32 clients grew by
    45 MB with a thread for each load and for each model's passes, and by 30 so (2 cores).
    """
    return thread("load").run(work)


def _refuse_untrained(found: Found, model: Any) -> None:
    """Raise ModelUnavailable for a layer that the library made up, of random numbers.

    It does so for a sparse or late-interaction model whose folder has no such layer. Stanford's
    ColBERT has its Dense layer among the weights of the network.
    """
    folder = found.source.folder
    of_stanford = "HF_ColBERT" in names(network_config(folder).get("architectures"))
    if of_stanford and not (folder / STANFORD).is_file():
        raise ModelUnavailable(
            f"{found.spec.model_name!r} is not whole: {folder} lacks {STANFORD}, which says how a "
            "ColBERT of Stanford reads texts"
        )
    files = [*folder.glob("modules.json"), *folder.rglob("router_config.json")]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    for kind in ("Dense", "SparseAutoEncoder"):
        made = sum(type(module).__name__ == kind for module in model.modules())
        inside = kind == "Dense" and not files and of_stanford
        if made > len(re.findall(rf'\.{kind}"', text)) + inside:
            raise ModelUnavailable(
                f"{found.spec.model_name!r} has no trained {kind} layer, which a "
                f"{found.kind} model of this form needs: get the whole repository"
            )


def _configure(model: Any, found: Found) -> bool:
    """Apply the configuration to the library's model; return whether it normalizes.

    A Normalize at the end is removed: the engine normalizes, and a request may ask for the vector
    before it. Raises ModelUnavailable for settings that the model cannot have.
    """
    spec = found.spec
    model.prompts = {**model.prompts, **spec.prompts}
    default = spec.default_prompt_name or model.default_prompt_name
    if default is not None and default not in model.prompts:
        known = ", ".join(sorted(model.prompts))
        raise ModelUnavailable(f"default_prompt_name {default!r} is unknown; known: {known}")
    model.default_prompt_name = default
    if found.kind != "sentence_transformer":
        if spec.dimensions is not None:
            what = kinds.WHAT[found.kind]
            raise ModelUnavailable(f"dimensions {spec.dimensions}: {spec.model_name!r} {what}")
        return False
    _pool(model, found)
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


def _pool(model: Any, found: Found) -> None:
    """Have a model without modules.json pool as its entry says. Raises ModelUnavailable for others
    that pool otherwise: their vectors would mean nothing.
    """
    wanted = found.spec.pooling
    module = next((m for m in model if hasattr(m, "pooling_mode")), None)
    own = getattr(module, "pooling_mode", None)
    if wanted is None or wanted == own:
        return
    if module is None or (found.source.folder / "modules.json").is_file():
        raise ModelUnavailable(
            f"pooling {wanted!r}: {found.spec.model_name!r} was made with {own or 'no'} pooling, "
            "and other vectors of it mean nothing; leave pooling out"
        )
    module.pooling_mode = wanted


def read(found: Found, family: str | None = None) -> tuple[Any, tuple[str, ...]]:
    """Return the library's model in the wanted dtype, and notes on its weights.

    transformers casts the parameters, and keeps in float32 what the architecture requires, buffers
    such as rotary frequencies included; a cast afterwards would round those too.
    Raises ModelUnavailable.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    import sentence_transformers

    folder, name, started = found.source.folder, found.spec.model_name, time.monotonic()
    family = family or FAMILIES[found.kind]
    tell_of_weights()
    try:
        with _reported() as (missing, unread), _read_not_mapped(casts(folder, found.dtype)):
            model = getattr(sentence_transformers, family)(
                str(folder), device=str(found.device), local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True, "dtype": found.dtype},
            )  # fmt: skip
    except Exception as exc:
        why = described(exc)
        if "ignore_mismatched_sizes" in why:  # transformers writes the names to its log alone
            why = "its weights have other shapes than its config.json says"
        raise ModelUnavailable(f"{name!r} cannot be loaded: {why}") from exc
    pooled = family == "CrossEncoder" or any(map(_reads_pooler, model.modules()))
    missing = [key for key in missing if pooled or "pooler." not in key]
    if missing:
        files = ", ".join(sorted(file.name for file in folder.rglob("*.safetensors")))
        raise ModelUnavailable(
            f"{name!r} is not whole: {files} lacks {len(missing)} weights, such as {missing[0]}"
        )
    took_s = time.monotonic() - started
    log.info("loaded %s (%s) on %s in %.1f s", name, found.dtype, found.device, took_s)
    forget_lengths(model)
    if not unread:
        return model.eval(), ()
    return model.eval(), (
        f"its file has {len(unread)} weights that the network does not read, such as {unread[0]}: "
        "it may need code that this service does not run",
    )


@contextmanager
def _reported() -> Iterator[tuple[list[str], list[str]]]:
    """Collect the names of weights that networks lack, and of those that they do not read.

    transformers fills missing weights at random, and sentence-transformers does not pass on its
    `output_loading_info`. Unread weights count if they belong to a part that the network has: heads
    for other tasks, and buffers that older versions stored, do not.
    """
    from transformers import PreTrainedModel

    missing: list[str] = []
    unread: list[str] = []
    method = PreTrainedModel.__dict__["from_pretrained"]

    def from_pretrained(cls: Any, *args: Any, **kwargs: Any) -> Any:
        asked = kwargs.pop("output_loading_info", False)
        model, info = method.__func__(cls, *args, **kwargs, output_loading_info=True)
        missing.extend(sorted(info["missing_keys"]))
        parts = {name for name, _ in model.named_modules() if name}
        for key in sorted(info["unexpected_keys"]):
            inner = key.removeprefix(f"{model.base_model_prefix}.")
            inside = any(inner.startswith(f"{part}.") for part in parts)
            if inside and not inner.endswith(BUFFERS):
                unread.append(inner)
        return (model, info) if asked else model

    PreTrainedModel.from_pretrained = classmethod(from_pretrained)
    try:
        yield missing, unread
    finally:
        PreTrainedModel.from_pretrained = method


def _reads_pooler(module: Any) -> bool:
    """Return whether a module's output is the network's pooler, which many files lack."""
    read = getattr(module, "modality_config", {}).get("text", {}).get("method_output_name", "")
    return "pooler_output" in (read if isinstance(read, list | tuple) else [read])


def casts(folder: Path, dtype: Any) -> bool:
    """Return whether weights are stored in another dtype than they run in."""
    from safetensors import safe_open

    kinds = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
    wanted = kinds[str(dtype).removeprefix("torch.")]
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "numpy") as opened:
            first = next(iter(opened.keys()), None)
            if first is not None and opened.get_slice(first).get_dtype() != wanted:
                return True
    return False


@contextmanager
def _read_not_mapped(wanted: bool) -> Iterator[None]:
    """Make transformers read weights that it casts, instead of mapping their files into memory.

    A mapped file stays in memory until its last tensor is cast: a load in bfloat16 took 3.0 times
    its weights at most, and takes 2.2 (bench/memory.py). Weights that run as they are stored are
    mapped, so that workers share them.
    """
    from transformers import modeling_utils

    opened = modeling_utils.safe_open

    def opens(*args: Any, **kwargs: Any) -> Any:
        return opened(*args, **{**kwargs, "backend": "pread"})

    modeling_utils.safe_open = opens if wanted else opened
    try:
        yield
    finally:
        modeling_utils.safe_open = opened
