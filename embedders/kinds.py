"""Identifies the kind of model in a folder before it loads, and refuses what is of no known kind.

sentence-transformers loads nearly everything as an embedding model: it puts mean pooling on
rerankers, SPLADE, ColBERT and chat models, whose vectors then mean nothing. Only the folder's small
JSON files are read here. A folder without modules.json does not define pooling or prompts: the
tokens of a plain encoder are averaged, as sentence-transformers does, with a note. What no file
tells, such as a language model that answers yes or no, the configured type or the name decides.
"""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from embedders.architectures import (
    HALVES,
    architectures_of,
    base_of,
    is_plain,
    labels_of,
    predicts_masked,
    what_it_is,
    writes,
)
from embedders.base import Kind
from embedders.folder import Folder, Json, inside, names, pairs_with_images, sees_or_hears, short
from errors import ModelUnavailable

WHAT: dict[Kind, str] = {
    "sentence_transformer": "is an embedding model; it gives one vector a text",
    "reranker": "is a cross-encoder (reranker); it scores pairs of texts and gives no vector",
    "classifier": "is a classifier; it gives classes of texts",
    "sparse": "is a sparse model (SPLADE); its vectors are as wide as the vocabulary",
    "multi_vector": "is a late-interaction model (ColBERT); it gives one vector a token",
}
INT8: tuple[Kind, ...] = ("sentence_transformer", "reranker", "classifier")
CLIP = "is a model of text and images (CLIP); this service takes text models only"

MEAN = "no modules.json: mean pooling over all tokens is assumed, and no prompts"
MEAN_OF_HEAD = (
    "no modules.json: mean pooling over the tokens of {} is assumed, and no prompts "
    "(a SPLADE model saved so would need its own head)"
)

# Files that identify a folder, whatever its config.json says.
FILES: dict[str, Kind] = {
    "artifact.metadata": "multi_vector",
    "idf.json": "sparse",
    "query_token_weights.txt": "sparse",  # no password  # nosec B105
}
# Files that sentence-transformers writes only together with a modules.json.
LEFT_OVER = ("config_sentence_transformers.json", "sentence_*_config.json", "[0-9]_*/config.json")

NO_POOLING = (
    "is no embedding model: modules.json has no Pooling, so it gives one vector a token, not a text"
)
# The values of model_type in config_sentence_transformers.json.
MODEL_TYPES: dict[str, Kind] = {
    "ColBERT": "multi_vector", "CrossEncoder": "reranker", "MultiVectorEncoder": "multi_vector",
    "SentenceTransformer": "sentence_transformer", "SparseEncoder": "sparse",
}  # fmt: skip
# Keys of PyLate there; its older versions wrote no model_type.
OF_PYLATE = ("query_prefix", "document_prefix", "attend_to_expansion_tokens", "skiplist_words")
# Modules of other families, by a part of their class's path, and by the class's name.
PACKAGES: dict[str, Kind] = {
    "pylate": "multi_vector", "multi_vector_encoder": "multi_vector", "sparse_encoder": "sparse",
    "cross_encoder": "reranker",
}  # fmt: skip
CLASSES: dict[str, Kind] = {"CSRSparsity": "sparse", "IDF": "sparse", "SpladePooling": "sparse"}
# The values of a Transformer's transformer_task that embedding models do not have.
TASKS: dict[str, Kind] = {
    "fill-mask": "sparse", "retrieval": "multi_vector", "sequence-classification": "reranker",
    "text-generation": "reranker", "any-to-any": "reranker",
}  # fmt: skip

INPUT, TOKENS, VECTOR = "text", "token_embeddings", "sentence_embedding"
# The features that the other modules take and give. hub.py lists the files that they need.
STEPS = {
    "WordEmbeddings": (INPUT, TOKENS),
    "Pooling": (TOKENS, VECTOR),
    **dict.fromkeys(("BoW", "StaticEmbedding"), (INPUT, VECTOR)),
    **dict.fromkeys(("CNN", "LSTM", "WeightedLayerPooling", "WordWeights"), (TOKENS, TOKENS)),
    **dict.fromkeys(("Dense", "Dropout", "LayerNorm", "Normalize"), (VECTOR, VECTOR)),
}
# The names of a Transformer's config in all versions.
TRANSFORMER_CONFIGS = [
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
]


class Identity(NamedTuple):
    """The kind of a model, and notes on what is assumed of it."""

    kind: Kind
    notes: tuple[str, ...] = ()


def identify(folder: Path, name: str, wanted: str = "auto") -> Identity:
    """Return the kind of a model, and notes on what is assumed; a complete folder needs none.

    `wanted` is the configured type. Raises ModelUnavailable with one line: what the model is, and
    what to do instead.
    """
    given = Folder(folder, name)
    _refuse_gguf(given)
    given.refuse_adapter()
    found = _identify(given, wanted)
    if wanted != "auto" and found.kind != wanted:
        raise given.refusal(f'{WHAT[found.kind]}: its type is no {wanted}; leave "type" out')
    return found


def refuse_int8(kind: Kind, name: str) -> None:
    """Raise ModelUnavailable for a kind of model that the dtype int8 is not for."""
    if kind not in INT8:
        raise ModelUnavailable(
            f"dtype int8 is for dense models, rerankers and classifiers, and {name!r} "
            f"{WHAT[kind]}: set its dtype to bfloat16 or float32"
        )


def _identify(folder: Folder, wanted: str) -> Identity:
    config = folder.object("config.json")
    modules = folder.value("modules.json")
    listed = None if modules is None else list(_modules(folder, modules))
    if folder.has("model_index.json"):
        raise folder.refusal("is a pipeline of diffusers; it makes images")
    if kind := _named_kind(folder, config) or _kind_of_modules(folder, listed or []):
        networks = [path for each, path in listed or [] if each.endswith("Transformer")]
        for path in networks or ([""] if listed is None else []):
            config = folder.check_network(path)
            if senses := sees_or_hears(config):
                what = WHAT[kind].split(";")[0]
                raise folder.refusal(f"{what} of {senses}; this service takes text models only")
        several = kind == "reranker" and labels_of(config) > 1
        return Identity("classifier" if several else kind)
    if listed is None:
        return _identify_bare(folder, config, wanted)
    features = frozenset({INPUT})
    for each, path in listed:
        features = _after(folder, each, path, features)
    if VECTOR not in features:
        raise folder.refusal(NO_POOLING)
    return Identity("sentence_transformer")


def _refuse_gguf(folder: Folder) -> None:
    named = "gguf" in folder.name.lower() or folder.path.suffix.lower() == ".gguf"
    if folder.path.is_dir():
        others = any(folder.path.rglob("*.safetensors")) or any(folder.path.rglob("*.bin"))
        named = not others and (named or folder.has("*.gguf") or folder.has("*/*.gguf"))
    if named:
        raise folder.refusal(
            "is GGUF, which this service does not read; use the repository with safetensors "
            "that it was made from"
        )


def _named_kind(folder: Folder, config: Json) -> Kind | None:
    """Return the kind that a file, a class or the name says, or None; it may be a plain one."""
    own = folder.object("config_sentence_transformers.json")
    named = str(own.get("model_type", "SentenceTransformer"))
    if named not in MODEL_TYPES:
        unknown = f"is a {short(named)} of sentence-transformers, which this version does not know"
        raise folder.refusal(unknown)
    if MODEL_TYPES[named] != "sentence_transformer":
        return MODEL_TYPES[named]
    late = str(own.get("similarity_fn_name")).lower() == "maxsim"
    if late or any(key in own for key in OF_PYLATE):
        return "multi_vector"
    for file, kind in FILES.items():
        if folder.has(file):
            return kind
    words = " ".join(architectures_of(config))
    if re.search(r"colbert|lateinteraction|ForRetrieval\b", words, re.IGNORECASE):
        return "multi_vector"
    if re.search("splade|sparseenc|neuralsparse", words, re.IGNORECASE):
        return "sparse"
    if folder.has("modules.json"):
        return None  # modules.json decides; the model's name is only a hint
    name = folder.name.rstrip("/").rsplit("/")[-1].lower()
    if "colbert" in name:
        return "multi_vector"
    return "sparse" if re.search(r"splade|neural-sparse|sparse-enco", name) else None


def _kind_of_modules(folder: Folder, modules: list[tuple[str, str]]) -> Kind | None:
    """Return the kind of the first module that embedding models do not have, or None."""
    for kind, path in modules:
        package, _, name = kind.rpartition(".")
        of_package = (PACKAGES[part] for part in package.split(".") if part in PACKAGES)
        found = next(of_package, None) or CLASSES.get(name)
        if name == "Transformer" and found is None:
            task = str(_own_config(folder, path).get("transformer_task", "feature-extraction"))
            found = TASKS.get(task)
        if name in ("Asym", "Router") and found in (None, "sparse"):
            steps = [step for route in _routes(folder, path) for step in route]
            found = _kind_of_modules(folder, steps)
        if found:
            return found
    return None


def _modules(folder: Folder, given: object) -> Iterator[tuple[str, str]]:
    """Yield the class and the folder of each module."""
    for module in given if isinstance(given, list) and given else [None]:
        module = module if isinstance(module, dict) else {}
        kind, path = module.get("type"), module.get("path")
        if not isinstance(kind, str) or not isinstance(path, str):
            raise folder.refusal("is damaged: modules.json is no list of types and paths")
        _refuse_outside(folder, "modules.json", path)
        yield kind, path.strip("/")


def _refuse_outside(folder: Folder, file: str, path: str) -> None:
    pure = PurePosixPath(path.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or "\0" in path or len(path) > 200:
        raise folder.refusal(f"is not loaded: {file} names a path outside its folder")


def _after(folder: Folder, kind: str, path: str, has: frozenset[str]) -> frozenset[str]:
    """Return the features after a module, from those before it. Refuses one out of place."""
    name = kind.rpartition(".")[2]
    if name == "CLIPModel":
        raise folder.refusal(CLIP)
    if not kind.startswith("sentence_transformers."):
        raise folder.needs_code(kind)
    if name == "Transformer":
        return has | {_transformer(folder, path)}
    if name in ("Asym", "Router"):
        return _router(folder, path, has)
    if name not in STEPS:
        raise folder.refusal(f"has a module {short(name)!r}, which this version does not know")
    takes, gives = STEPS[name]
    if name in ("Dense", "Normalize"):
        config = folder.object(inside("config.json", path))
        takes = str(config.get("module_input_name") or takes)
        gives = str(config.get("module_output_name") or takes)
    if takes not in has:
        order = f"cannot run: nothing before {name} in modules.json gives {short(takes)}"
        raise folder.refusal(NO_POOLING if takes == VECTOR else order)
    return has | {gives}


def _transformer(folder: Folder, path: str) -> str:
    """Return the feature that a Transformer gives."""
    own = _own_config(folder, path)
    task = own.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise folder.refusal(f"is made for {short(task)}, not for embeddings")
    folder.refuse_quantized(own)
    config = folder.check_network(path)
    takes = own.get("modality_config")
    if not isinstance(takes, dict):  # saved by a version whose Transformer took texts only
        if pairs_with_images(config):
            raise folder.refusal(CLIP)
        senses = sees_or_hears(config)
        if senses in ("images", "sound"):
            raise folder.refusal(f"is a model of {senses}; this service takes text models only")
        return TOKENS
    if not _takes_text(own):
        raise folder.refusal(f"takes no text, but {short(', '.join(takes))}")
    text = takes.get("text")
    if isinstance(text, dict) and text.get("method", "forward") != "forward":
        raise folder.refusal(CLIP)
    return str(own.get("module_output_name") or TOKENS)


def _own_config(folder: Folder, path: str) -> Json:
    """Return a Transformer's own config; sentence-transformers looks for it in the same order."""
    found = (folder.object(inside(file, path)) for file in TRANSFORMER_CONFIGS)
    return next(filter(None, found), {})


def _takes_text(own: Json) -> bool:
    given = own.get("modality_config")
    return not isinstance(given, dict) or "text" in given or "message" in given


def _router(folder: Folder, path: str, has: frozenset[str]) -> frozenset[str]:
    """Return the features that all routes of a Router for texts give."""
    outcomes = []
    for steps in _routes(folder, path):
        first, at = steps[0] if steps else ("", "")
        if first.endswith(".Transformer") and not _takes_text(_own_config(folder, at)):
            continue  # a route for images; texts take another
        features = has
        for kind, at in steps:
            features = _after(folder, kind, at, features)
        outcomes.append(features)
    if not outcomes:
        raise folder.refusal("takes no text: no route of its Router is for texts")
    return frozenset.intersection(*outcomes)


def _routes(folder: Folder, path: str) -> list[list[tuple[str, str]]]:
    """Return each route of a Router: the class and the folder of each of its modules."""
    file = inside("router_config.json", path)
    config = folder.object(file) or folder.object(inside("config.json", path))
    types, routes = config.get("types"), config.get("structure")
    if not isinstance(types, dict) or not isinstance(routes, dict) or not routes:
        raise folder.refusal(f"is not whole: {short(file)} names no routes")
    found = [
        [(str(types.get(step)), inside(step, path)) for step in names(route)]
        for route in routes.values()
    ]
    for _, at in chain.from_iterable(found):
        _refuse_outside(folder, file, at)
    return found


def _identify_bare(folder: Folder, config: Json, wanted: str) -> Identity:
    """Return the kind of a folder without modules.json, which holds one network."""
    if not folder.has("config.json"):
        raise folder.refusal("holds no model: no config.json")
    if any(map(folder.has, LEFT_OVER)):
        raise folder.refusal("is not whole: modules.json is missing; get the whole repository")
    if config.get("model_type") == "model2vec":
        raise folder.refusal("is a static model (model2vec) without modules.json")
    config = folder.check_network("")
    given = architectures_of(config)
    architecture = given[0] if given else base_of(config["model_type"])
    if kind := _kind_of_head(folder, config, architecture, wanted):
        return Identity(kind)
    if architecture in HALVES or is_plain(config, architecture):
        return Identity("sentence_transformer", (MEAN,))
    if predicts_masked(config, architecture):
        if wanted == "sparse":
            return Identity("sparse")
        note = MEAN if architecture.endswith("ForPreTraining") else MEAN_OF_HEAD
        return Identity("sentence_transformer", (note.format(short(architecture)),))
    raise folder.refusal(what_it_is(config, architecture))


def _kind_of_head(folder: Folder, config: Json, architecture: str, wanted: str) -> Kind | None:
    """Return the kind of a network whose head gives scores, or None. Refuses other heads."""
    own = config.get("sentence_transformers")
    scores = "sbert_ce_default_activation_function" in config
    scores = scores or (isinstance(own, dict) and "activation_fn" in own)
    if scores or architecture.endswith("ForSequenceClassification"):
        return "reranker" if labels_of(config) == 1 else "classifier"
    if pairs_with_images(config):
        raise folder.refusal(CLIP)
    if senses := sees_or_hears(config):
        raise folder.refusal(
            f"is a model of {senses} ({short(architecture)}) without modules.json; "
            "this service takes text models only"
        )
    if writes(config) and not predicts_masked(config, architecture):
        if wanted == "reranker" or "rerank" in folder.name.lower():
            return "reranker"  # it answers yes or no; no file tells it from a model that chats
        templates = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
        chats = folder.object("tokenizer_config.json").get("chat_template")
        chats = chats or any(map(folder.has, templates))
        what = "a chat model" if chats else "a language model"
        raise folder.refusal(
            f"is {what} ({short(architecture)}); an embedding model made of one has a "
            'modules.json, and a reranker needs "type": "reranker"'
        )
    return None
