"""Reads a checkpoint, and what the libraries tell of it in their log only."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedders.device import told
from errors import ModelUnavailable

log = logging.getLogger("embedders")
# Ends of names of buffers that older versions of transformers wrote among the weights.
BUFFERS = ("position_ids", "token_type_ids", "inv_freq", "masked_bias", "attn.bias")


def read(folder: Path, device: Any, dtype: Any, name: str) -> tuple[Any, tuple[str, ...]]:
    """Load the modules in `dtype`, without the network and without the repository's code.

    Returns the `SentenceTransformer`, and weights of the files that its network does not read.
    Raises ModelUnavailable.

    transformers casts the parameters and keeps in float32 what the architecture asks for, buffers
    such as rotary frequencies among it; a cast afterwards would round those too.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from sentence_transformers import SentenceTransformer

    started = time.monotonic()
    try:
        with _reported() as report, _read_not_mapped(_casts(folder, dtype)):
            model = SentenceTransformer(
                str(folder),
                device=str(device),
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True, "dtype": dtype},
            )
    except Exception as exc:
        raise ModelUnavailable(f"{name!r} cannot be loaded: {told(exc)}") from exc
    pooled = any(_reads_pooler(module) for module in model.modules())
    missing = [key for key in report.missing if pooled or "pooler." not in key]
    if missing:
        files = ", ".join(sorted(file.name for file in folder.rglob("*.safetensors")))
        raise ModelUnavailable(
            f"{name!r} is not whole: {files} lacks {len(missing)} weights, {missing[0]} among them"
        )
    log.info("loaded %s on %s in %.1f s", name, device, time.monotonic() - started)
    return model.eval(), tuple(report.unread)


@dataclass
class _Report:
    """Names of weights that the files lack, and of those that the network has no place for."""

    missing: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


@contextmanager
def _reported() -> Iterator[_Report]:
    """Collect what transformers tells in its log only: missing weights are made up at random.

    Unread weights count where they belong to a part that the network has: those of heads for other
    tasks, and buffers that older versions wrote, do not.
    """
    from transformers import modeling_utils

    found = _Report()
    report = modeling_utils.log_state_dict_report

    def note(model: Any, *args: Any, **kwargs: Any) -> Any:
        told = kwargs["loading_info"]
        found.missing.extend(sorted(told.missing_keys))
        parts = {name for name, _ in model.named_modules() if name}
        for key in sorted(told.unexpected_keys):
            inner = key.removeprefix(f"{model.base_model_prefix}.")
            inside = any(inner.startswith(f"{part}.") for part in parts)
            if inside and not inner.endswith(BUFFERS):
                found.unread.append(inner)
        return report(model, *args, **kwargs)

    modeling_utils.log_state_dict_report = note
    try:
        yield found
    finally:
        modeling_utils.log_state_dict_report = report


def _reads_pooler(module: Any) -> bool:
    """Tell whether a module's output is the network's pooler, which many files come without."""
    read = getattr(module, "modality_config", {}).get("text", {}).get("method_output_name", "")
    return "pooler_output" in (read if isinstance(read, list | tuple) else [read])


def _casts(folder: Path, dtype: Any) -> bool:
    """Tell whether weights are stored in another dtype than they run in."""
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
    """Have transformers read weights that are cast, not map their files into memory.

    A mapped file stays as a whole until the last tensor of it is cast: a load in bfloat16 took 3.0
    times its weights at the worst moment, and takes 2.2 (bench/memory.py). What runs as it is
    stored is mapped: workers share it.
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
