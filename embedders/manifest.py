"""Says which files of a model loading reads, which it needs and lacks, and which are pickled.

One rule for a folder, a cached snapshot and the hub's list of files: what is downloaded, what must
be there and what a fingerprint covers are the same files. Knows neither the hub nor the disk: it
gets the names, and a way to read one.
"""

import json
import posixpath
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from errors import ModelUnavailable

Text = Callable[[str], str]  # the content of one of the files

SAFE, SAFE_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
INDEX = ".index.json"
MODULES, CONFIG, PROMPTS = "modules.json", "config.json", "config_sentence_transformers.json"
LENGTHS = re.compile(r"sentence_[a-z-]+_config\.json")  # the length limit of a Transformer module

# Whatever is beside the weights is read, this apart: tokenizers name their files as they please.
READ = re.compile(r".+\.(json|txt|model|jinja|codes|tokenizer|tiktoken|bpe|vocab|spm)")
UNREAD = re.compile(
    r"\..*|(readme|licen[cs]e|notice|requirements|changelog).*|.+\.index\.json|trainer_state\.json"
    r"|.+_results\.(json|txt)",
    re.IGNORECASE,
)
TOKENIZER = re.compile(
    r"tokenizer\.json|vocab.*\.(txt|json)|dict\.txt|.+\.(model|codes|tokenizer|tiktoken)"
)
# Tokenizers without a vocabulary: all that they are is in their class.
OF_BYTES = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")
WORDS = re.compile(r"(whitespace|phrase)tokenizer_config\.json")

NETWORK = "Transformer"
# What each kind of module needs beside its weights. A kind that is not here needs nothing known.
WEIGHTED = {
    NETWORK: CONFIG,
    "Dense": CONFIG,
    "LayerNorm": CONFIG,
    "WeightedLayerPooling": CONFIG,
    "CNN": "cnn_config.json",
    "LSTM": "lstm_config.json",
    "WordEmbeddings": "wordembedding_config.json",
    "StaticEmbedding": "tokenizer.json",
}
PLAIN = {"Pooling", "WordWeights", "BoW"}
ROUTERS = {"Router", "Asym"}


@dataclass(frozen=True)
class Manifest:
    """The files of one model, relative to its folder, in name order."""

    read: tuple[str, ...]  # there, and read by loading
    pickled: tuple[str, ...]  # weights, and their index, of parts that have no safetensors
    missing: tuple[str, ...]  # needed and not there


class _Reader:
    """Walks the parts of a model and notes their files."""

    def __init__(self, files: Collection[str], text: Text) -> None:
        self.files, self.text = files, text
        self.read: set[str] = set()
        self.pickled: set[str] = set()
        self.missing: set[str] = set()

    def whole(self) -> None:
        """Note the files of the model."""
        for name in (MODULES, PROMPTS):
            if name in self.files:
                self.read.add(name)
        if MODULES not in self.files:
            self.part("", NETWORK)
            return
        modules = self.json(MODULES)
        if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
            raise ModelUnavailable(f"{MODULES} is not a list of modules")
        for module in modules:
            self.part(_inside(module.get("path")), str(module.get("type")))

    def part(self, folder: str, type_: str) -> None:
        """Note the files of one module, and of the modules in it."""
        kind = type_.rpartition(".")[2]
        here = [name for name in self._in(folder) if READ.fullmatch(name)]
        self.read |= {
            folder + name for name in here if not UNREAD.fullmatch(name.rpartition("/")[2])
        }
        if kind in PLAIN:
            self.need(folder + CONFIG)
        if kind in WEIGHTED:
            self.need(folder + WEIGHTED[kind])
            self.weights(folder, kind == NETWORK)
        if kind == NETWORK:
            self.tokenizer(folder, here)
        if kind == "WordEmbeddings" and not any(map(WORDS.fullmatch, here)):
            self.missing.add(folder + "whitespacetokenizer_config.json")
        if kind in ROUTERS:
            named = "router_config.json" if "router_config.json" in here else CONFIG
            if self.need(folder + named):
                types = _object(self.json(folder + named)).get("types")
                for path, inner in _object(types).items():
                    self.part(_inside(folder + path), str(inner))

    def weights(self, folder: str, network: bool) -> None:
        """Note a part's weights: safetensors if there are any, else its pickle.

        Only a network's may be in several files, or in others than are usual.
        """
        safe, pickled = [SAFE, SAFE_INDEX], [PICKLE, PICKLE_INDEX]
        if network and folder + CONFIG in self.files:
            named = _object(self.json(folder + CONFIG)).get("transformers_weights")
            safe, pickled = ([str(named)], []) if named else (safe, pickled)
        found = [f for f in safe + pickled if folder + f in self.files]
        found = [f for f in found if network or not f.endswith(INDEX)]
        if not found:
            self.missing.add(folder + safe[0])
            return
        path = folder + found[0]
        files = {path, *self.shards(folder, path)} if path.endswith(INDEX) else {path}
        if found[0] in safe:
            self.read |= files
        else:
            self.pickled |= files

    def shards(self, folder: str, index: str) -> set[str]:
        """Return the files that an index names. Those that are not there are missing."""
        named = _object(_object(self.json(index)).get("weight_map")).values()
        paths = {folder + _inside(str(name)).rstrip("/") for name in named}
        if not paths:
            raise ModelUnavailable(f"{index} names no weights")
        self.missing |= {path for path in paths if path not in self.files}
        return {path for path in paths if path in self.files}

    def tokenizer(self, folder: str, here: list[str]) -> None:
        """Note what a tokenizer lacks. Raises ModelUnavailable if it is another repository's."""
        for name in filter(LENGTHS.fullmatch, here):
            if other := _object(self.json(folder + name)).get("tokenizer_name_or_path"):
                raise ModelUnavailable(
                    f"{folder}{name} takes the tokenizer from {other!r}, outside the model's files"
                )
        config = folder + "tokenizer_config.json"
        told = _object(self.json(config)) if config in self.files else {}
        of_bytes = str(told.get("tokenizer_class")).removesuffix("Fast") in OF_BYTES
        if not of_bytes and not any(map(TOKENIZER.fullmatch, here)):
            self.missing.add(folder + "tokenizer.json")
        bytepairs = "vocab.json" in here and not any(
            re.fullmatch(r"tokenizer\.json|merges\.txt|.+\.(model|codes)", name) for name in here
        )
        if bytepairs:  # read without its merges, it is a tokenizer that cuts all to letters
            self.missing.add(folder + "merges.txt")

    def need(self, path: str) -> bool:
        """Tell whether a file is there; it is missing otherwise."""
        if path not in self.files:
            self.missing.add(path)
        return path in self.files

    def json(self, path: str) -> Any:
        """Return the content of a JSON file. Raises ModelUnavailable for other content."""
        try:
            return json.loads(self.text(path))
        except ValueError as exc:
            raise ModelUnavailable(
                f"{path} is damaged or was not downloaded whole ({exc})"
            ) from exc

    def _in(self, folder: str) -> Iterator[str]:
        for path in self.files:
            name = path.removeprefix(folder)
            below = name.removeprefix("additional_chat_templates/")  # the only folder that is read
            if path.startswith(folder) and "/" not in below:
                yield name


def manifest(files: Collection[str], text: Text) -> Manifest:
    """Return what loading reads of `files`. Raises ModelUnavailable for a file that is damaged."""
    reader = _Reader(files, text)
    reader.whole()
    read, pickled, missing = (
        tuple(sorted(paths)) for paths in (reader.read, reader.pickled, reader.missing)
    )
    return Manifest(read, pickled, missing)


def may_be_missing(found: Manifest, files: Collection[str]) -> list[str]:
    """Return the files that change what is loaded and whose absence nothing among `files` tells."""
    wanted = [MODULES, PROMPTS, "tokenizer_config.json", "special_tokens_map.json"]
    if not any(path.endswith("tokenizer.json") for path in files):
        wanted += ["tokenizer.json", "added_tokens.json"]
    if not any(LENGTHS.fullmatch(path.rpartition("/")[2]) for path in files):
        wanted.append("sentence_bert_config.json")
    for path in found.pickled:
        wanted += [posixpath.join(posixpath.dirname(path), name) for name in (SAFE, SAFE_INDEX)]
    named = {path if path in wanted else path.rpartition("/")[2] for path in files}
    return sorted(set(wanted) - named)


def only_pickled(name: str, found: Manifest) -> str:
    """Say which weights are pickled and what allows them."""
    files = ", ".join(path for path in found.pickled if not path.endswith(".json"))
    return f"{name!r} has only pickled weights ({files}), which ALLOW_PICKLED_WEIGHTS=false refuses"


def _inside(path: Any) -> str:
    """Return a folder as `name/`, or "" for the root. Raises ModelUnavailable for one outside."""
    plain = posixpath.normpath(path or ".") if isinstance(path, str | None) else ".."
    if plain.startswith(("/", "..")) or "\\" in plain:
        raise ModelUnavailable(f"it names a folder outside its own: {path!r}")
    return "" if plain == "." else plain + "/"


def _object(content: Any) -> dict[str, Any]:
    return content if isinstance(content, dict) else {}
