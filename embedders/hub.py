"""The files of a model that loading reads, and their download from the hub into its cache.

A folder, a cached snapshot and the hub's list of files follow one rule, `Manifest`, so that the
files that are downloaded, required and covered by the fingerprint are the same.

A snapshot that is known to be whole is used without asking the hub. Another program may have put
only the files that it reads itself into the cache, without a modules.json or prompts. The hub's
list of the files decides; its library keeps it next to the snapshot.
"""

import errno
import glob
import json
import logging
import os
import posixpath
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from errors import ModelUnavailable

log = logging.getLogger("embedders")
WAIT_S = 10.0  # for the hub's list of files; its library waits as long for a file's size
UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR}
FILES_MOST = 10_000  # files and folders; a model's folder has some dozens
DEPTH = 4  # of folders that are searched: modules in routers, and templates
_confirmed: set[Path] = set()  # whole snapshots, where the hub's list cannot be kept

Text = Callable[[str], str]  # the content of one of the files

SAFE, SAFE_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
INDEX = ".index.json"
MODULES, CONFIG, PROMPTS = "modules.json", "config.json", "config_sentence_transformers.json"
LENGTHS = re.compile(r"sentence_[a-z-]+_config\.json")  # length limits of Transformers

# Every file next to the weights may be read, except UNREAD: tokenizers choose their files' names.
READ = re.compile(r".+\.(json|txt|model|jinja|codes|tokenizer|tiktoken|bpe|vocab|spm)")
UNREAD = re.compile(
    r"\..*|(readme|licen[cs]e|notice|requirements|changelog).*|.+\.index\.json|trainer_state\.json"
    r"|.+_results\.(json|txt)",
    re.IGNORECASE,
)
TOKENIZER = re.compile(
    r"tokenizer\.json|vocab.*\.(txt|json)|dict\.txt|.+\.(model|codes|tokenizer|tiktoken)"
)
# Tokenizers without a vocabulary file.
OF_BYTES = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")
WORDS = re.compile(r"(whitespace|phrase)tokenizer_config\.json")

NETWORK = "Transformer"
# The file that each kind of module needs in addition to its weights. Other kinds need none.
WEIGHTED = {
    **dict.fromkeys((NETWORK, "Dense", "LayerNorm", "WeightedLayerPooling"), CONFIG),
    "CNN": "cnn_config.json", "LSTM": "lstm_config.json",
    "WordEmbeddings": "wordembedding_config.json", "StaticEmbedding": "tokenizer.json",
}  # fmt: skip
PLAIN = {"Pooling", "WordWeights", "BoW", "Dropout"}
ROUTERS = {"Router", "Asym"}
TEMPLATES = "additional_chat_templates/"  # the one folder in a module's that is read as well


class Manifest:
    """The files of one model, relative to its folder, in name order.

    `read` are present and read by loading, `pickled` the weights, and their index, of parts without
    safetensors, `missing` needed and absent. Raises ModelUnavailable for a damaged file.
    """

    def __init__(self, files: Collection[str], text: Text) -> None:
        self._files, self._text = files, text
        self._read = {name for name in (MODULES, PROMPTS) if name in files}
        self._pickled: set[str] = set()
        self._missing: set[str] = set()
        if MODULES in files:
            modules = self._json(MODULES)
            if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
                raise ModelUnavailable(f"{MODULES} is not a list of modules")
            for module in modules:
                self._part(_inside(module.get("path")), str(module.get("type")))
        else:
            self._part("", NETWORK)
        self.read, self.pickled = tuple(sorted(self._read)), tuple(sorted(self._pickled))
        self.missing = tuple(sorted(self._missing))

    @property
    def pickles(self) -> str:
        """The pickled weights, to be shown."""
        return ", ".join(path for path in self.pickled if not path.endswith(INDEX))

    def _part(self, folder: str, type_: str) -> None:
        kind = type_.rpartition(".")[2]
        names = [path.removeprefix(folder) for path in self._files if path.startswith(folder)]
        short = {name: name.removeprefix(TEMPLATES) for name in names if READ.fullmatch(name)}
        here = [name for name in short if "/" not in short[name]]
        self._read |= {folder + name for name in here if not UNREAD.fullmatch(short[name])}
        if kind in PLAIN:
            self._need(folder + CONFIG)
        if kind in WEIGHTED:
            self._need(folder + WEIGHTED[kind])
            self._weights(folder, kind == NETWORK)
        if kind == NETWORK:
            self._tokenizer(folder, here)
        if kind == "WordEmbeddings" and not any(map(WORDS.fullmatch, here)):
            self._missing.add(folder + "whitespacetokenizer_config.json")
        if kind in ROUTERS:
            named = "router_config.json" if "router_config.json" in here else CONFIG
            if self._need(folder + named):
                types = _object(self._json(folder + named)).get("types")
                for path, inner in _object(types).items():
                    self._part(_inside(folder + path), str(inner))

    def _weights(self, folder: str, network: bool) -> None:
        """Collect a module's weights: safetensors if there are any, else its pickle.

        Only a network's weights may be in several files, or in files of unusual names.
        """
        safe, pickled = [SAFE, SAFE_INDEX], [PICKLE, PICKLE_INDEX]
        if network and folder + CONFIG in self._files:
            named = _object(self._json(folder + CONFIG)).get("transformers_weights")
            safe, pickled = ([str(named)], []) if named else (safe, pickled)
        usable = [f for f in safe + pickled if network or not f.endswith(INDEX)]
        found = [f for f in usable if folder + f in self._files]
        if not found:
            self._missing.add(folder + safe[0])
            return
        path = folder + found[0]
        files = {path, *self._shards(folder, path)} if path.endswith(INDEX) else {path}
        (self._read if found[0] in safe else self._pickled).update(files)

    def _shards(self, folder: str, index: str) -> set[str]:
        """Return the files that an index names and that exist; the others are missing."""
        named = _object(_object(self._json(index)).get("weight_map")).values()
        paths = {folder + _inside(str(name)).rstrip("/") for name in named}
        if not paths:
            raise ModelUnavailable(f"{index} names no weights")
        self._missing |= paths.difference(self._files)
        return paths.intersection(self._files)

    def _tokenizer(self, folder: str, here: list[str]) -> None:
        """Collect what a tokenizer lacks. Raises ModelUnavailable for another repository's."""
        for name in filter(LENGTHS.fullmatch, here):
            if other := _object(self._json(folder + name)).get("tokenizer_name_or_path"):
                raise ModelUnavailable(
                    f"{folder}{name} takes the tokenizer from {other!r}, outside the model's files"
                )
        config = folder + "tokenizer_config.json"
        own = _object(self._json(config)) if config in self._files else {}
        of_bytes = str(own.get("tokenizer_class")).removesuffix("Fast") in OF_BYTES
        if not of_bytes and not any(map(TOKENIZER.fullmatch, here)):
            self._missing.add(folder + "tokenizer.json")
        bytepairs = "vocab.json" in here and not any(
            re.fullmatch(r"tokenizer\.json|merges\.txt|.+\.(model|codes)", name) for name in here
        )
        if bytepairs:  # without its merges it would split every word into letters
            self._missing.add(folder + "merges.txt")

    def _need(self, path: str) -> bool:
        """Return whether a file exists; if not, it is missing."""
        if path not in self._files:
            self._missing.add(path)
        return path in self._files

    def _json(self, path: str) -> Any:
        """Return the content of a JSON file. Raises ModelUnavailable if it is damaged."""
        try:
            return json.loads(self._text(path))
        except ValueError as exc:
            what = f"{path} is damaged or was not downloaded whole ({exc})"
            raise ModelUnavailable(what) from exc


def may_be_missing(found: Manifest, files: Collection[str]) -> list[str]:
    """Return the files that would change what is loaded, if `files` is not a complete list."""
    wanted = [MODULES, PROMPTS, "tokenizer_config.json", "special_tokens_map.json"]
    if not any(path.endswith("tokenizer.json") for path in files):
        wanted += ["tokenizer.json", "added_tokens.json"]
    if not any(LENGTHS.fullmatch(path.rpartition("/")[2]) for path in files):
        wanted.append("sentence_bert_config.json")
    for path in found.pickled:
        wanted += [posixpath.join(posixpath.dirname(path), name) for name in (SAFE, SAFE_INDEX)]
    named = {path if path in wanted else path.rpartition("/")[2] for path in files}
    return sorted(set(wanted) - named)


def _inside(path: Any) -> str:
    """Return a folder as `name/`, or "" for the root. Raises ModelUnavailable for one outside."""
    plain = posixpath.normpath(path or ".") if isinstance(path, str | None) else ".."
    if plain.startswith(("/", "..")) or "\\" in plain:
        raise ModelUnavailable(f"it names a folder outside the model: {path!r}")
    return "" if plain == "." else plain + "/"


def _object(content: Any) -> dict[str, Any]:
    return content if isinstance(content, dict) else {}


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
    if kept and unverified(kept) is None and not _lacking(kept):
        return kept
    try:
        return _complete(name, revision, cache_dir, token, kept, pickled)
    except ModelUnavailable:
        raise
    except Exception as exc:
        refusal = _reason(name, exc)
        if kept is None:
            nowhere = f"{name!r} is neither a folder, nor bundled, nor cached, and "
            raise ModelUnavailable(("" if name in refusal else nowhere) + refusal) from exc
        # A chat template changes no vector of a plain text.
        if lacking := [path for path in _lacking(kept) if not path.endswith(".jinja")]:
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


def _lacking(folder: Path) -> list[str]:
    """Return the files that a snapshot lacks, by the hub's list where there is one."""
    there = files_in(folder)
    try:
        found = manifest_of(folder, listed(folder))
    except ModelUnavailable as exc:  # a file that names others is missing or damaged
        return [str(exc)]
    return [path for path in (*found.read, *found.pickled, *found.missing) if path not in there]


def only_pickled(name: str, found: Manifest) -> ModelUnavailable:
    """Return the refusal of pickled weights, with the setting that allows them."""
    return ModelUnavailable(
        f"{name!r} has only pickled weights ({found.pickles}), "
        "which ALLOW_PICKLED_WEIGHTS=false refuses"
    )


def _complete(
    name: str, revision: str | None, cache_dir: Path | None, token: str | None,
    kept: Path | None, pickled: bool,
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
    options: dict[str, Any] = {"cache_dir": cache_dir, "token": token}
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
    if found.pickled and not pickled:
        raise only_pickled(name, found)
    wanted = {*found.read, *found.pickled}
    exact = [glob.escape(path) for path in wanted]
    snapshot_download(name, revision=folder.name, allow_patterns=exact, **options)
    if gone := wanted - files_in(folder):
        raise ConnectionError(f"{min(gone)} was not downloaded")
    _confirmed.add(folder.resolve())
    return folder


def _reason(name: str, exc: Exception) -> str:
    """Return why the download failed, and what to do about it."""
    from huggingface_hub import errors

    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, errors.HfHubHTTPError) and cause.response is not None:
            status = cause.response.status_code
            hint = "; a private or gated model needs HF_TOKEN" if status in (401, 403, 404) else ""
            return f"the hub refused {name!r} ({status}){hint}"
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE forbids requests to the hub"
        if isinstance(cause, OSError) and cause.errno in UNWRITABLE:
            return f"the files of {name!r} cannot be written ({cause})"
        cause = cause.__cause__
    if isinstance(exc, ValueError):
        return "a model of the hub cannot have that name"
    return f"the hub cannot be reached ({type(exc).__name__})"
