"""How much memory a model's weights take, read from the headers of their files."""

import json
import math
from pathlib import Path
from typing import Any

from config import ModelSettings, ModelSpec
from embedders.base import Facts, Small
from embedders.device import choose_dtype
from embedders.folder import network_config
from embedders.weights import find
from errors import ModelUnavailable

PICKLED = ("*.bin", "*.pt", "*.pth")  # in float32 nearly always
# How often a backend has the weights in memory. ONNX Runtime arranges a copy of its own: after its
# load MiniLM (91 MB) took 213 MB, 2.3 times its weights, and a BERT of 417 MB 985 MB; MiniLM by
# packed layers 113 MB, by torch 64 MB (resident memory as in bench/memory.py, float32, 2 cores of
# an AMD EPYC, 2026-11-30).
COPIES = {"onnx": 2.4}
# In int8 MiniLM (22.7 million numbers) took 50 MB, in float32 193 (the same machine and day).
INT8_COPIES = 2.2
# The networks that ONNX Runtime runs on a CPU in float32, if nothing else is asked for.
ONNX = ("bert", "roberta", "xlm-roberta", "camembert")


def weights_of(spec: ModelSpec, settings: ModelSettings, facts: Facts | None = None) -> int:
    """Return the bytes of a local model's weights as it runs, with the copy that its backend keeps.

    `facts` are known once it was loaded; before that the dtype and the backend are those that its
    device suggests. Raises ModelUnavailable.
    """
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    folder = find(
        spec.model_name, spec.revision, settings.model_cache_dir, token,
        allow_pickled=settings.allow_pickled_weights,
    )  # fmt: skip
    try:
        network = str(network_config(folder).get("model_type") or "")
        dtype, backend = (facts.dtype, facts.backend) if facts else _runs(spec, settings, network)
        wide = _width(dtype) if network else 0
        files = list(folder.rglob("*.safetensors"))
        size = sum(_bytes(file, wide) for file in files)
        safe = {file.parent for file in files}
        pickled = [file for kind in PICKLED for file in folder.rglob(kind)]
        sizes = [file.stat().st_size for file in pickled if file.parent not in safe]
        size += sum(sizes) * (wide or 4) // 4
    except (OSError, ValueError, KeyError) as exc:
        raise ModelUnavailable(f"{spec.model_name!r}: its weights cannot be read ({exc})") from exc
    copies = INT8_COPIES if dtype == "int8" else COPIES.get(backend, 1)
    if facts and any(Small(*each).backend != backend for each in facts.small_passes):
        copies += 2  # the layers in float32 beside those in half precision
    return int(size * copies) * max(1, len(spec.devices))


def _bytes(file: Path, wide: int) -> int:
    """Return the bytes of a file's tensors; those of floats have `wide` bytes a number if given."""
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    header.pop("__metadata__", None)
    return sum(_stored(row, wide) for row in header.values())


def _stored(row: dict[str, Any], wide: int) -> int:
    start, end = row["data_offsets"]
    is_float = "F" in row["dtype"]  # F32, F16, BF16
    return math.prod(row["shape"]) * wide if wide and is_float else int(end - start)


def _width(dtype: str) -> int:
    return {"float32": 4, "int8": 1}.get(dtype, 2)


def _runs(spec: ModelSpec, settings: ModelSettings, network: str) -> tuple[str, str]:
    """Return the dtype and the backend with which a model runs on the device that it asks for."""
    import torch

    kind = next(iter(spec.devices), spec.device or settings.device)
    cuda = torch.cuda.is_available()
    if kind == "auto":
        kind = "cuda" if cuda else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(kind if cuda or not kind.startswith("cuda") else "cpu")
    dtype = choose_dtype(spec.dtype or settings.dtype, device, network)
    dense = spec.type in ("auto", "sentence_transformer") and network in ONNX
    suits = dense and device.type == "cpu" and dtype == torch.float32
    wanted = spec.backend or settings.backend
    backend = "onnx" if suits and wanted in ("auto", "onnx") else wanted
    return str(dtype).removeprefix("torch."), backend
