"""Downloads the files of a model that loading reads from the hub, into the hub's own cache.

A snapshot that is known to be whole is used without asking the hub. Another program may have put
only the files that it reads itself into the cache, without a modules.json or prompts. The hub's
list of the files decides; its library keeps it next to the snapshot.
"""

import errno
import glob
import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from embedders.downloads import shown
from embedders.manifest import CONFIG, MODULES, PICKLED_HEADS, Manifest, may_be_missing
from errors import ModelAbsent, ModelUnavailable

log = logging.getLogger("embedders")
WAIT_S = 10.0  # for the hub's list of files; its library waits as long for a file's size
UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR}
FILES_MOST = 10_000  # files and folders; a model's folder has some dozens
DEPTH = 4  # of folders that are searched: modules in routers, and templates
_confirmed: set[Path] = set()  # whole snapshots, where the hub's list cannot be kept


def files_in(folder: Path) -> set[str]:
    """Return the files under a folder, relative to it, without dead links.

    Raises ModelUnavailable for more files than a model has, before it walks a whole disk.
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
    """Return what loading reads of a folder, or of the hub's list of its `files`.

    Raises ModelUnavailable for a damaged file.
    """

    def text(path: str) -> str:
        try:
            return (folder / path).read_text(encoding="utf-8")
        except (OSError, UnicodeError) as exc:
            raise ModelUnavailable(f"{folder / path} cannot be read ({exc})") from exc

    return Manifest(files_in(folder) if files is None else files, text)


def snapshot(
    name: str, revision: str | None, cache_dir: Path | None, token: str | None, pickled: bool
) -> Path:
    """Return the folder of the hub's model `name`, whole. Raises ModelUnavailable.

    Where the hub cannot be reached, a snapshot is used if no file is known to be missing;
    `unverified` says what is not known of it. Pickled weights are downloaded only if allowed.
    """
    kept = cached(name, revision, cache_dir)
    if kept and unverified(kept) is None and not _lacking(kept, pickled):
        return kept
    try:
        with shown(name) as counts:
            return _complete(name, revision, cache_dir, token, kept, pickled, counts)
    except ModelUnavailable:
        raise
    except Exception as exc:
        refusal, reached = _reason(name, exc)
        if kept is None:
            nowhere = f"{name!r} is neither a folder, nor bundled, nor cached, and "
            kind = ModelUnavailable if reached else ModelAbsent
            raise kind(("" if name in refusal else nowhere) + refusal) from exc
        # A chat template changes no vector of a plain text.
        if lacking := [path for path in _lacking(kept, pickled) if not path.endswith(".jinja")]:
            raise ModelUnavailable(
                f"{name!r} is in the cache without {', '.join(lacking[:3])}, and {refusal}; "
                f"start once with access to the hub, or copy the whole model to {kept}"
            ) from exc
        log.warning("%s: %s; the cached model is used", name, refusal)
        return kept


def cached(name: str, revision: str | None, cache_dir: Path | None) -> Path | None:
    """Return the cached snapshot of a revision, whole or not, or None."""
    from huggingface_hub import errors, snapshot_download

    # Without a pattern the library looks for no file, and so does not refuse half a model.
    options: dict[str, Any] = {"local_files_only": True, "allow_patterns": []}
    try:
        return Path(snapshot_download(name, revision=revision, cache_dir=cache_dir, **options))
    except (errors.LocalEntryNotFoundError, ValueError):
        return None


def unverified(folder: Path) -> str | None:
    """Return what is not known of a cached snapshot ("whether it has ..."), or None."""
    place = _snapshots(folder)
    if place is None or listed(folder) is not None or folder.resolve() in _confirmed:
        return None
    files = files_in(folder)
    absent = place.parent / ".no_exist" / folder.name  # written by the hub's library
    known = files_in(absent) if absent.is_dir() else set()
    try:
        unknown = may_be_missing(manifest_of(folder), files | known)
    except ModelUnavailable:
        return "whether its files are whole"
    return f"whether it has {', '.join(unknown)}" if unknown else None


def listed(folder: Path) -> list[str] | None:
    """Return the hub's list of a snapshot's files, if its library kept one."""
    from huggingface_hub import errors, get_cached_repo_tree

    place = _snapshots(folder)
    if place is None:
        return None
    name = place.parent.name.removeprefix("models--").replace("--", "/")
    try:
        tree = get_cached_repo_tree(name, revision=folder.name, cache_dir=place.parent.parent)
    except (errors.CachedRepoTreeNotFoundError, errors.HFValidationError):
        return None
    return [file.path for file in tree]


def _snapshots(folder: Path) -> Path | None:
    """Return the parent folder of a snapshot in a hub's cache, None for any other folder."""
    place = folder.absolute().parent
    return place if (place.name, place.parent.name[:8]) == ("snapshots", "models--") else None


def _lacking(folder: Path, pickled: bool) -> list[str]:
    """Return the files that a snapshot lacks, by the hub's list where there is one.

    Unless `pickled`, heads that are pickled are not wanted.
    """
    there = files_in(folder)
    try:
        found = manifest_of(folder, listed(folder))
    except ModelUnavailable as exc:  # a file that names others is missing or damaged
        return [str(exc)]
    heads = () if pickled else PICKLED_HEADS
    wanted = {*found.read, *found.pickled, *found.missing}.difference(heads)
    return sorted(wanted - there)


def only_pickled(name: str, found: Manifest) -> ModelUnavailable:
    """Return the refusal of pickled weights, with the setting that allows them."""
    return ModelUnavailable(
        f"{name!r} has only pickled weights ({found.pickles}), "
        "which ALLOW_PICKLED_WEIGHTS=false refuses"
    )


def _complete(
    name: str, revision: str | None, cache_dir: Path | None, token: str | None,
    kept: Path | None, pickled: bool, counts: type,
) -> Path:  # fmt: skip
    """Return a snapshot's folder after downloading what it lacks. Raises the library's errors."""
    from huggingface_hub import HfApi, errors, hf_hub_download, snapshot_download

    api = HfApi(token=token)
    asked = kept.name if kept else revision  # a partial snapshot is completed, not updated
    try:
        info = api.model_info(name, revision=asked, timeout=WAIT_S)
    except errors.RevisionNotFoundError:
        asked = revision  # the hub no longer has that commit
        info = api.model_info(name, revision=asked, timeout=WAIT_S)
    options: dict[str, Any] = {"cache_dir": cache_dir, "token": token, "tqdm_class": counts}
    log.info("downloading %s", name)
    # This also stores the revision's commit and its list of files.
    first = snapshot_download(name, revision=asked, allow_patterns=[MODULES, CONFIG], **options)
    folder = Path(first)
    if folder.name != info.sha:  # the revision changed in the meantime
        info = api.model_info(name, revision=folder.name, timeout=WAIT_S)
    files = {file.rfilename for file in info.siblings or ()}

    def text(path: str) -> str:
        file = hf_hub_download(name, path, revision=folder.name, **options)
        return Path(file).read_text(encoding="utf-8")

    found = Manifest(files, text)
    if found.needs_pickles and not pickled:
        raise only_pickled(name, found)
    wanted = {*found.read, *(found.pickled if pickled else ())}
    exact = [glob.escape(path) for path in wanted]
    snapshot_download(name, revision=folder.name, allow_patterns=exact, **options)
    if gone := wanted - files_in(folder):
        raise ConnectionError(f"{min(gone)} was not downloaded")
    _confirmed.add(folder.resolve())
    return folder


def _reason(name: str, exc: Exception) -> tuple[str, bool]:
    """Return why the download failed and what to do, and whether the hub was reached."""
    from huggingface_hub import errors

    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, errors.HfHubHTTPError) and cause.response is not None:
            status = cause.response.status_code
            hint = "; a private or gated model needs HF_TOKEN" if status in (401, 403, 404) else ""
            return f"the hub refused {name!r} ({status}){hint}", True
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE forbids requests to the hub", False
        if isinstance(cause, OSError) and cause.errno in UNWRITABLE:
            return f"the files of {name!r} cannot be written ({cause})", True
        cause = cause.__cause__
    if isinstance(exc, ValueError):
        return "a model of the hub cannot have that name", True
    return f"the hub cannot be reached ({type(exc).__name__})", False
