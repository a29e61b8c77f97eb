"""The files of a model that loading reads, by the names of all its files.

A folder, a cached snapshot and the hub's list of files follow this one rule, so that the files that
are downloaded, required and covered by the fingerprint are the same.
"""

import json
import posixpath
import re
from collections.abc import Callable, Collection
from typing import Any

from errors import ModelUnavailable

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

NETWORKS = ("Transformer", "MLMTransformer")
TABLE = "SparseStaticEmbedding"
# The file that each kind of module needs in addition to its weights. Other kinds need none.
WEIGHTED = {
    **dict.fromkeys((*NETWORKS, "Dense", "LayerNorm", "WeightedLayerPooling"), CONFIG),
    **dict.fromkeys(("SparseAutoEncoder", TABLE), CONFIG),
    "CNN": "cnn_config.json", "LSTM": "lstm_config.json",
    "WordEmbeddings": "wordembedding_config.json", "StaticEmbedding": "tokenizer.json",
}  # fmt: skip
PLAIN = {
    "BoW", "Dropout", "LogitScore", "MultiVectorMask", "Pooling", "SpladePooling", "WordWeights",
}  # fmt: skip
# bge-m3's heads beside its modules, as safetensors or pickled; without them it is a dense model.
HEADS = ("sparse_linear", "colbert_linear")
PICKLED_HEADS = {f"{head}.pt" for head in HEADS}
STANFORD = "artifact.metadata"  # how a ColBERT of Stanford reads texts
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
            self._part("", NETWORKS[0])
        heads = {f"{head}.safetensors" for head in HEADS}
        if MODULES in files and heads <= set(files):
            self._read |= heads
        elif MODULES in files and set(files) >= PICKLED_HEADS:
            self._pickled |= PICKLED_HEADS
        if STANFORD in files:
            self._read.add(STANFORD)
            self._json(STANFORD)
        ends = (".safetensors", ".pt")
        lost = [head for head in HEADS if not any(head + end in files for end in ends)]
        alone = MODULES in files and len(lost) == 1
        self.lost_head = lost[0] if alone else None  # the one that a model with the other lacks
        self.read, self.pickled = tuple(sorted(self._read)), tuple(sorted(self._pickled))
        self.missing = tuple(sorted(self._missing))

    @property
    def needs_pickles(self) -> bool:
        """Whether nothing can be loaded without pickled weights; a model runs without its heads."""
        return not PICKLED_HEADS.issuperset(self.pickled)

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
            self._weights(folder, kind in NETWORKS)
        if kind in (*NETWORKS, TABLE):
            self._tokenizer(folder, here)
        if kind == TABLE and self._need(folder + CONFIG):
            self._refuse_path(folder + CONFIG)
        if kind == "WordEmbeddings" and not any(map(WORDS.fullmatch, here)):
            self._missing.add(folder + "whitespacetokenizer_config.json")
        if kind in ROUTERS:
            named = "router_config.json" if "router_config.json" in here else CONFIG
            if self._need(folder + named):
                types = _object(self._json(folder + named)).get("types")
                for path, inner in _object(types).items():
                    self._part(_inside(folder + path), str(inner))

    def _refuse_path(self, config: str) -> None:
        """Raise ModelUnavailable for a table that the library would read from anywhere."""
        if other := _object(self._json(config)).get("path"):
            raise ModelUnavailable(
                f"{config} takes the weights from {other!r}, outside the model's files; save the "
                "model again with sentence-transformers"
            )

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
    for path in set(found.pickled) - PICKLED_HEADS:
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
