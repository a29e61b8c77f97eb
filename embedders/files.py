"""What a local model's files say of it: nothing is loaded, and no hub is asked."""

import json
import math
from pathlib import Path
from typing import NamedTuple

from config import ModelSettings, ModelSpec
from embedders import hub
from embedders.folder import network_config
from embedders.weights import here
from errors import ModelUnavailable


class Files(NamedTuple):
    """The files of a model that loading reads."""

    size: int  # in bytes
    modified: float  # when the newest was written, in seconds since 1970
    network: str  # the kind of its network, such as "bert", or ""
    parameters: int | None  # None where they are pickled


def read_files(spec: ModelSpec, settings: ModelSettings) -> Files | None:
    """Return what the files say of a model, or None where they are not on this machine."""
    name, revision = spec.model_name, spec.revision
    try:
        folder = here(name, revision) or hub.cached(name, revision, settings.model_cache_dir)
        return None if folder is None else _read(folder)
    except (ModelUnavailable, OSError, ValueError, KeyError):
        return None


def _read(folder: Path) -> Files:
    found = hub.manifest_of(folder)
    files = [folder / name for name in (*found.read, *found.pickled)]
    stats = [file.stat() for file in files]
    safe = [file for file in files if file.suffix == ".safetensors"]
    return Files(
        size=sum(stat.st_size for stat in stats),
        modified=max(stat.st_mtime for stat in stats),
        network=str(network_config(folder).get("model_type") or ""),
        parameters=None if found.pickled else sum(map(_parameters, safe)),
    )


def _parameters(file: Path) -> int:
    """Return how many numbers the tensors of a file have, without those that count positions."""
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    header.pop("__metadata__", None)
    return sum(math.prod(row["shape"]) for row in header.values() if "F" in row["dtype"])
