"""Makes safetensors of pickled weights, once, beside the other files of the model.

A pickle can ask for code to be run. torch's reader of weights knows tensors only; whatever else a
file asks for is refused, and nothing of it is run. The copy is named by what it was made of, so
that another model, or other weights of the same name, have a copy of their own.
"""

import hashlib
import json
import logging
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from embedders.manifest import SAFE_INDEX, Manifest
from errors import ModelUnavailable

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows: two processes both convert, and one copy stays
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("embedders")
RECORD = (
    ".converted"  # the copy's files with their sha256: written last, so a copy with it is whole
)
LARGEST = 8  # times the file's size that its tensors may take: one that is repeated takes more


def converted(folder: Path, name: str, found: Manifest, key: str, cache: Path) -> Path:
    """Return a folder with the model's files, its weights as safetensors; it is made once.

    `key` is a digest of the files it is made of. Raises ModelUnavailable for a pickle that is
    damaged, holds anything but tensors or asks for code, and if `cache` cannot be written.
    """
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")[-60:]
    target = cache / f"{plain or 'model'}-{key[:16]}"
    if _whole(target):
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _alone(cache / f".{target.name}.lock"):
            if not _whole(target):  # another process may have made it while this one waited
                _make(folder, name, found, target)
    except OSError as exc:
        raise ModelUnavailable(
            f"{name!r} has pickled weights, and their copy as safetensors cannot be written "
            f"({exc}); EMBEDDING_MODEL_CACHE_DIR must be a folder that can be written"
        ) from exc
    return target


def intact(target: Path, sums: Mapping[str, str]) -> bool:
    """Tell whether the copy's files, whose sha256 `sums` gives, are still as they were made."""
    record: dict[str, str] = json.loads((target / RECORD).read_text(encoding="utf-8"))
    return all(record.get(path) == digest for path, digest in sums.items())


def discard(target: Path) -> None:
    """Delete a copy that is damaged."""
    with suppress(OSError):
        (target / RECORD).unlink()
    shutil.rmtree(target, ignore_errors=True)


def _whole(target: Path) -> bool:
    try:
        record = json.loads((target / RECORD).read_text(encoding="utf-8"))
        return all((target / path).is_file() for path in record)
    except (OSError, ValueError):
        return False


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes out of a block. Where files cannot be locked, both do the work."""
    with path.open("ab") as file:
        if fcntl:
            with suppress(OSError):
                fcntl.flock(
                    file, fcntl.LOCK_EX
                )  # dropped with the file, and by the process's death
        yield


def _make(folder: Path, name: str, found: Manifest, target: Path) -> None:
    log.info("%s has pickled weights: making safetensors of them in %s", name, target)
    for left in target.parent.glob(f".{target.name}.*.tmp"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    discard(target)
    made = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        for path in found.read:
            _bring(folder / path, made / path)
        for path in found.pickled:
            if not path.endswith(".json"):
                _convert(folder / path, made / safe_name(path))
        for path in found.pickled:
            if path.endswith(".json"):
                _index(folder / path, (made / path).parent)
        made.chmod(0o755)  # as the cache's other folders: mkdtemp's is its owner's alone
        _record(made)
        try:
            made.replace(target)
        except OSError:
            if not _whole(target):  # of two that could not be kept apart, one copy stays
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    log.info("%s: made safetensors in %s", name, target)


def _bring(source: Path, to: Path) -> None:
    """Copy a small file; link to weights that are safetensors already."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".safetensors":
        with suppress(OSError, NotImplementedError):
            to.symlink_to(source.absolute())
            return
    shutil.copyfile(source, to)


def safe_name(path: str) -> str:
    """Return the name of a pickle's safetensors: `pytorch_model-1-of-2.bin` is `model-1-of-2`."""
    folder, _, name = path.rpartition("/")
    plain = name.removesuffix(".bin").replace("pytorch_model", "model") + ".safetensors"
    return f"{folder}/{plain}" if folder else plain


def _convert(source: Path, to: Path) -> None:
    """Write the tensors of a pickle as safetensors."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        save_file(_apart(source, _tensors(source)), to, {"format": "pt"})
    except (SafetensorError, ValueError, KeyError) as exc:
        if isinstance(exc.__cause__ or exc.__context__, OSError) or "I/O" in str(exc):
            raise OSError(str(exc)) from exc
        raise ModelUnavailable(f"{source} holds a tensor that safetensors cannot ({exc})") from exc


def _tensors(source: Path) -> dict[str, Any]:
    """Return the tensors of a pickle by name. Raises ModelUnavailable for anything else."""
    import torch

    try:
        with warnings.catch_warnings(action="ignore"):  # of an old form: what comes of it is said
            held = torch.load(  # a file in torch's zip is mapped: its tensors take no memory
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


def _apart(source: Path, tensors: dict[str, Any]) -> dict[str, Any]:
    """Return the tensors with memory of their own: safetensors hold each as a whole."""
    size = sum(value.nbytes for value in tensors.values())
    if size > LARGEST * source.stat().st_size + (1 << 20):
        raise ModelUnavailable(f"{source} holds {size} bytes of tensors, far more than it has")
    taken: set[int] = set()
    for key, value in tensors.items():
        tensor, memory = value.detach(), value.untyped_storage()
        if memory.data_ptr() in taken or memory.nbytes() != tensor.nbytes:  # tied, or a part
            tensor = tensor.clone(memory_format=_contiguous())
        taken.add(memory.data_ptr())
        tensors[key] = tensor.contiguous()
    return tensors


def _contiguous() -> Any:
    import torch

    return torch.contiguous_format


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


def _record(made: Path) -> None:
    """Write down the copy's files. Cut off by a power failure, they are found out by it."""
    record = {}
    for path in sorted(path for path in made.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        record[path.relative_to(made).as_posix()] = digest
    (made / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
