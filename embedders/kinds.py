"""Says what a model's folder holds before it is loaded, and refuses what is no embedding model.

sentence-transformers loads nearly everything: it puts mean pooling on rerankers, SPLADE, ColBERT
and chat models, and their vectors mean nothing. Only the folder's small JSON files are read here.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from embedders.bare import (
    CLIP,
    LATE,
    RERANKER,
    SPARSE,
    identify_bare,
    pairs_with_images,
    says_so,
    sees_or_hears,
)
from embedders.folder import Folder, Json, inside, names, short
from embedders.network import check_network, refuse_adapter, refuse_quantized

NO_POOLING = (
    "is no embedding model: modules.json has no Pooling, so it gives a vector a token, not a text"
)
# What config_sentence_transformers.json calls a model, and what it is.
MODEL_TYPES = {
    "ColBERT": LATE,
    "CrossEncoder": RERANKER,
    "MultiVectorEncoder": LATE,
    "SparseEncoder": SPARSE,
}
# What PyLate writes there, whose older versions named no type.
OF_PYLATE = ("query_prefix", "document_prefix", "attend_to_expansion_tokens", "skiplist_words")
# Modules of other families, by a part of their class's path or by its name.
PACKAGES = {
    "pylate": LATE,
    "multi_vector_encoder": LATE,
    "sparse_encoder": SPARSE,
    "cross_encoder": RERANKER,
}
CLASSES = {"CLIPModel": CLIP, "CSRSparsity": SPARSE, "IDF": SPARSE, "SpladePooling": SPARSE}
# What a Transformer is for.
TASKS = {
    "fill-mask": SPARSE,
    "retrieval": LATE,
    "sequence-classification": RERANKER,
    "text-generation": "is a causal reranker; it scores pairs of texts and gives no vector",
    "any-to-any": "is a causal reranker; it scores pairs of texts and gives no vector",
}

INPUT, TOKENS, VECTOR = "text", "token_embeddings", "sentence_embedding"
# The other modules: what each takes and gives, and the config.json that it cannot do without.
STEPS = {
    "BoW": (INPUT, VECTOR, "config.json"),
    "CNN": (TOKENS, TOKENS, "cnn_config.json"),
    "Dense": (VECTOR, VECTOR, "config.json"),
    "Dropout": (VECTOR, VECTOR, "config.json"),
    "LSTM": (TOKENS, TOKENS, "lstm_config.json"),
    "LayerNorm": (VECTOR, VECTOR, "config.json"),
    "Normalize": (VECTOR, VECTOR, None),
    "Pooling": (TOKENS, VECTOR, "config.json"),
    "StaticEmbedding": (INPUT, VECTOR, None),
    "WeightedLayerPooling": (TOKENS, TOKENS, "config.json"),
    "WordEmbeddings": (INPUT, TOKENS, "wordembedding_config.json"),
    "WordWeights": (TOKENS, TOKENS, "config.json"),
}
# The names that a Transformer's config had over the years.
TRANSFORMER_CONFIGS = [
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
]


def identify(folder: Path, name: str) -> tuple[str, ...]:
    """Return what is assumed of a model, to tell its operator; a whole folder leaves nothing.

    Raises ModelUnavailable with one line: what the model is, and what to do instead.
    """
    given = Folder(folder, name)
    _refuse_gguf(given)
    refuse_adapter(given)
    _refuse_other_types(given)
    modules = given.value("modules.json")
    if modules is None:
        return identify_bare(given)
    says_so(given, given.object("config.json"))
    features = frozenset({INPUT})
    for kind, path in _modules(given, modules):
        features = _after(given, kind, path, features)
    if VECTOR not in features:
        raise given.refusal(NO_POOLING)
    return ()


def _refuse_gguf(folder: Folder) -> None:
    """Raise ModelUnavailable for weights of llama.cpp, a file or a folder of them."""
    named = "gguf" in folder.name.lower() or folder.path.suffix.lower() == ".gguf"
    if folder.path.is_dir():
        others = any(folder.path.rglob("*.safetensors")) or any(folder.path.rglob("*.bin"))
        named = not others and (named or folder.has("*.gguf") or folder.has("*/*.gguf"))
    if named:
        raise folder.refusal(
            "is GGUF, which this service does not read; use the repository with safetensors "
            "that it was made from"
        )


def _refuse_other_types(folder: Folder) -> None:
    """Raise ModelUnavailable if the folder itself says that it is no SentenceTransformer."""
    config = folder.object("config_sentence_transformers.json")
    kind = config.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        unknown = f"is a {short(kind)} of sentence-transformers, which this version does not know"
        raise folder.refusal(MODEL_TYPES.get(str(kind), unknown))
    late = str(config.get("similarity_fn_name")).lower() == "maxsim"
    if late or any(key in config for key in OF_PYLATE):
        raise folder.refusal(LATE)


def _modules(folder: Folder, given: object) -> Iterator[tuple[str, str]]:
    """Yield the class and the folder of each module. Raises ModelUnavailable for others."""
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
    """Return the features that there are after a module, of those before it.

    Raises ModelUnavailable for a module of another family, of another package or out of place.
    """
    package, _, name = kind.rpartition(".")
    what = next((PACKAGES[part] for part in package.split(".") if part in PACKAGES), None)
    what = what or CLASSES.get(name)
    if what:
        raise folder.refusal(what)
    if not kind.startswith("sentence_transformers."):
        raise folder.refusal(
            f"needs code of its repository ({short(kind)}), which this service does not run"
        )
    if name == "Transformer":
        return has | {_transformer(folder, path)}
    if name in ("Asym", "Router"):
        return _router(folder, path, has)
    if name not in STEPS:
        raise folder.refusal(f"has a module {short(name)!r}, which this version does not know")
    takes, gives, file = STEPS[name]
    if file and not folder.has(file, path):
        raise folder.refusal(f"is not whole: {short(inside(file, path))} is missing")
    if name in ("Dense", "Normalize"):
        config = folder.object(inside("config.json", path))
        takes = str(config.get("module_input_name") or takes)
        gives = str(config.get("module_output_name") or takes)
    if takes not in has:
        order = f"cannot run: nothing before {name} in modules.json gives {short(takes)}"
        raise folder.refusal(NO_POOLING if takes == VECTOR else order)
    return has | {gives}


def _transformer(folder: Folder, path: str) -> str:
    """Return the feature that a Transformer gives. Raises ModelUnavailable if it is no encoder."""
    own = _own_config(folder, path)
    task = own.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        unknown = f"is made for {short(task)}, not for embeddings"
        raise folder.refusal(TASKS.get(str(task), unknown))
    refuse_quantized(folder, own)
    config = check_network(folder, path)
    takes = own.get("modality_config")
    if not isinstance(takes, dict):  # saved when texts were all that a Transformer took
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
    """Return a Transformer's own config, as sentence-transformers finds it."""
    files = [inside(file, path) for file in TRANSFORMER_CONFIGS]
    return next((found for file in files if (found := folder.object(file))), {})


def _takes_text(own: Json) -> bool:
    given = own.get("modality_config")
    return not isinstance(given, dict) or "text" in given or "message" in given


def _router(folder: Folder, path: str, has: frozenset[str]) -> frozenset[str]:
    """Return the features that every route of a Router gives that a text may take."""
    file = inside("router_config.json", path)
    config = folder.object(file) or folder.object(inside("config.json", path))
    types, routes = config.get("types"), config.get("structure")
    if not isinstance(types, dict) or not isinstance(routes, dict) or not routes:
        raise folder.refusal(f"is not whole: {short(file)} names no routes")
    outcomes = []
    for route in routes.values():
        steps = [(str(types.get(step)), inside(step, path)) for step in names(route)]
        for _, at in steps:
            _refuse_outside(folder, file, at)
        first, at = steps[0] if steps else ("", "")
        if first.endswith(".Transformer") and not _takes_text(_own_config(folder, at)):
            continue  # a route of images; texts take another
        features = has
        for kind, at in steps:
            features = _after(folder, kind, at, features)
        outcomes.append(features)
    if not outcomes:
        raise folder.refusal("takes no text: every route of its Router is for something else")
    return frozenset.intersection(*outcomes)
