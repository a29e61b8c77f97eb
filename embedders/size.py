"""How much memory a model's weights take, read from the headers of their files."""

import json
import math
from pathlib import Path
from typing import Any

from config import ModelSettings, ModelSpec
from embedders.device import choose_dtype
from embedders.folder import network_config
from embedders.weights import find
from errors import ModelUnavailable

PICKLED = ("*.bin", "*.pt", "*.pth")  # in float32 nearly always


def weights_of(spec: ModelSpec, settings: ModelSettings, dtype: str | None = None) -> int:
    """Return the bytes of a local model's weights in the dtype in which it runs.

    A packed copy replaces the weights that it is made of, so there is one of them. Before the load
    the dtype is the one that its device suggests. Raises ModelUnavailable.
    """
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    folder = find(
        spec.model_name, spec.revision, settings.model_cache_dir, token,
        allow_pickled=settings.allow_pickled_weights,
    )  # fmt: skip
    try:
        network = network_config(folder).get("model_type")
        wide = 0 if network is None else _width(dtype or _dtype(spec, settings, str(network)))
        files = list(folder.rglob("*.safetensors"))
        size = sum(_bytes(file, wide) for file in files)
        if not files:
            pickled = [file for kind in PICKLED for file in folder.rglob(kind)]
            size = sum(file.stat().st_size for file in pickled) * (wide or 4) // 4
    except (OSError, ValueError, KeyError) as exc:
        raise ModelUnavailable(f"{spec.model_name!r}: its weights cannot be read ({exc})") from exc
    return size * max(1, len(spec.devices))


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
    return 4 if dtype == "float32" else 2


def _dtype(spec: ModelSpec, settings: ModelSettings, network: str) -> str:
    """Return the dtype in which a model runs on the device that it asks for."""
    import torch

    wanted = spec.dtype or settings.dtype
    kind = next(iter(spec.devices), spec.device or settings.device)
    cuda = torch.cuda.is_available()
    if kind == "auto":
        kind = "cuda" if cuda else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(kind if cuda or not kind.startswith("cuda") else "cpu")
    return str(choose_dtype(wanted, device, network)).removeprefix("torch.")
