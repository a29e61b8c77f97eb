"""Keeps models of the hub in its cache: whole snapshots, of no more files than loading reads.

A snapshot is used without asking the hub once it is known to be whole. Another program may have
filled the cache with the files that it reads itself; nothing tells then whether the model has a
modules.json or prompts. The hub's list of the files does: its library keeps it beside the snapshot.
"""

import errno
import glob
import logging
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from embedders.manifest import CONFIG, MODULES, Manifest, manifest, may_be_missing, only_pickled
from errors import ModelUnavailable

log = logging.getLogger("embedders")
WAIT_S = 10.0  # for the hub's list of files, as its library waits for a file's size
UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR}
FILES_MOST = 10_000  # files and folders; a model's folder has some dozens
DEPTH = 4  # folders under a model's own that are looked into: modules in routers, and templates
_confirmed: set[Path] = set()  # snapshots whose list the hub gave where it cannot be kept


def files_in(folder: Path) -> set[str]:
    """Return the files under a folder, relative to it. Dead links are left out.

    Raises ModelUnavailable for more than a model has, before the whole of a disk is walked.
    """
    found, seen = set(), 0
    for here, folders, names in os.walk(folder, followlinks=True):
        seen += len(folders) + len(names)
        if seen > FILES_MOST:
            raise ModelUnavailable(
                f"{folder} is no model's folder: it holds more than {FILES_MOST} files and folders"
            )
        inside = Path(here).relative_to(folder)
        folders[:] = [f for f in folders if f[0] != "." and len(inside.parts) < DEPTH]
        found |= {(inside / n).as_posix() for n in names if os.path.isfile(os.path.join(here, n))}
    return found


def manifest_of(folder: Path, files: Collection[str] | None = None) -> Manifest:
    """Return what loading reads of a folder; of the model's listed `files`, where they are known.

    Raises ModelUnavailable for a file that is damaged.
    """

    def text(path: str) -> str:
        try:
            return (folder / path).read_text(encoding="utf-8")
        except (OSError, UnicodeError) as exc:
            raise ModelUnavailable(f"{folder / path} cannot be read ({exc})") from exc

    return manifest(files_in(folder) if files is None else files, text)


def snapshot(
    name: str, revision: str | None, cache_dir: Path | None, token: str | None, pickled: bool
) -> Path:
    """Return the folder of the hub's model `name`, whole. Raises ModelUnavailable.

    Where the hub cannot be asked, a snapshot that lacks nothing that is known is good enough;
    `doubt` says what is not known of it. Pickled weights are downloaded only if they are allowed.
    """
    kept = cached(name, revision, cache_dir)
    if kept and doubt(kept) is None and not _lacking(kept):
        return kept
    try:
        return _complete(name, revision, cache_dir, token, kept, pickled)
    except ModelUnavailable:
        raise
    except Exception as exc:
        refusal = _why(name, exc)
        if kept is None:
            nowhere = f"{name!r} is neither a folder, nor bundled, nor cached, and "
            raise ModelUnavailable(("" if name in refusal else nowhere) + refusal) from exc
        # a chat's template changes no vector of a plain text
        if lacking := [path for path in _lacking(kept) if not path.endswith(".jinja")]:
            raise ModelUnavailable(
                f"{name!r} is in the cache without {', '.join(lacking[:3])}, and {refusal}; "
                f"start with the hub within reach once, or copy the whole model to {kept}"
            ) from exc
        log.warning("%s: %s: using the cache as it is", name, refusal)
        return kept


def cached(name: str, revision: str | None, cache_dir: Path | None) -> Path | None:
    """Return the folder of a snapshot, whole or not, that the cache has for a revision."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:  # no pattern: the library asks for no file, and so does not judge what is there
        return Path(
            snapshot_download(
                name, revision=revision, cache_dir=cache_dir, local_files_only=True,
                allow_patterns=[],
            )
        )  # fmt: skip
    except (LocalEntryNotFoundError, ValueError):
        return None


def doubt(folder: Path) -> str | None:
    """Return what is not known of a cached snapshot; None if nothing, or if it is no snapshot."""
    place = _place(folder)
    if place is None or listed(folder) is not None or folder.resolve() in _confirmed:
        return None
    files = files_in(folder)
    absent = place.parent / ".no_exist" / folder.name  # noted by the hub's library
    known = {path for path in files_in(absent)} if absent.is_dir() else set()
    try:
        unknown = may_be_missing(manifest_of(folder), files | known)
    except ModelUnavailable:
        return "whether its files are whole"
    return f"whether it has {', '.join(unknown)}" if unknown else None


def listed(folder: Path) -> list[str] | None:
    """Return the hub's list of a snapshot's files, if its library kept it."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, HFValidationError

    place = _place(folder)
    if place is None:
        return None
    name = place.parent.name.removeprefix("models--").replace("--", "/")
    try:
        tree = get_cached_repo_tree(name, revision=folder.name, cache_dir=place.parent.parent)
    except (CachedRepoTreeNotFoundError, HFValidationError):
        return None
    return [file.path for file in tree]


def _place(folder: Path) -> Path | None:
    """Return the folder of snapshots that this one is in, if it is a snapshot in a hub's cache."""
    place = folder.absolute().parent
    return place if (place.name, place.parent.name[:8]) == ("snapshots", "models--") else None


def _lacking(folder: Path) -> list[str]:
    """Return the files that a snapshot lacks, by the hub's list if it is known."""
    there = files_in(folder)
    try:
        found = manifest_of(folder, listed(folder))
    except ModelUnavailable as exc:  # a file that names others is not there, or is damaged
        return [str(exc)]
    return [path for path in (*found.read, *found.pickled, *found.missing) if path not in there]


def _complete(
    name: str, revision: str | None, cache_dir: Path | None, token: str | None,
    kept: Path | None, pickled: bool,
) -> Path:  # fmt: skip
    """Download what a snapshot lacks and return its folder. Raises what the hub's library does."""
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.errors import RevisionNotFoundError

    api = HfApi(token=token)
    asked = kept.name if kept else revision  # what is half here is completed, not updated
    try:
        info = api.model_info(name, revision=asked, timeout=WAIT_S)
    except RevisionNotFoundError:
        asked = revision  # the hub has forgotten that commit
        info = api.model_info(name, revision=asked, timeout=WAIT_S)
    options: dict[str, Any] = {"cache_dir": cache_dir, "token": token}
    log.info("downloading %s", name)
    folder = Path(  # the cache remembers what the revision is and which files it has
        snapshot_download(name, revision=asked, allow_patterns=[MODULES, CONFIG], **options)
    )
    if folder.name != info.sha:  # it moved meanwhile
        info = api.model_info(name, revision=folder.name, timeout=WAIT_S)
    files = {file.rfilename for file in info.siblings or ()}

    def text(path: str) -> str:
        file = hf_hub_download(name, path, revision=folder.name, **options)
        return Path(file).read_text(encoding="utf-8")

    found = manifest(files, text)
    if found.pickled and not pickled:
        raise ModelUnavailable(only_pickled(name, found))
    wanted = [*found.read, *found.pickled]
    exact = [glob.escape(path) for path in wanted]
    snapshot_download(name, revision=folder.name, allow_patterns=exact, **options)
    if gone := set(wanted) - files_in(folder):
        raise ConnectionError(f"{min(gone)} was not downloaded")
    _confirmed.add(folder.resolve())
    return folder


def _why(name: str, exc: Exception) -> str:
    """Return why the hub gave nothing, and what to do about it."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    for cause in _causes(exc):
        if isinstance(cause, HfHubHTTPError) and cause.response is not None:
            status = cause.response.status_code
            hint = "; a private or gated model needs HF_TOKEN" if status in (401, 403, 404) else ""
            return f"the hub refused {name!r} ({status}){hint}"
        if isinstance(cause, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE forbids to ask the hub"
        if isinstance(cause, OSError) and cause.errno in UNWRITABLE:
            return f"what the hub has of {name!r} cannot be kept ({cause})"
    if isinstance(exc, ValueError):
        return "no model of the hub can have that name"
    return f"the hub cannot be reached ({type(exc).__name__})"


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__
