"""Identifies the kind of model in a folder before it loads, and refuses all but embedding models.

sentence-transformers loads nearly everything: it puts mean pooling on rerankers, SPLADE, ColBERT
and chat models, whose vectors then mean nothing. Only the folder's small JSON files are read here.
A folder without modules.json does not define pooling or prompts: the tokens of a plain encoder are
averaged, as sentence-transformers does, with a note, and every other model is refused.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from embedders.folder import Folder, Json, inside, names, pairs_with_images, sees_or_hears, short

SPARSE = "is a sparse model (SPLADE); its vectors are as wide as the vocabulary"
LATE = "is a late-interaction model (ColBERT); it gives one vector a token, not a text"
RERANKER = "is a cross-encoder (reranker); it scores pairs of texts and gives no vector"
CLIP = "is a model of text and images (CLIP); this service takes text models only"

MEAN = "no modules.json: mean pooling over all tokens is assumed, and no prompts"
MEAN_OF_HEAD = (
    "no modules.json: mean pooling over the tokens of {} is assumed, and no prompts "
    "(a SPLADE model saved so would need its own head)"
)

# Files that identify a folder, whatever its config.json says.
FILES = {
    "artifact.metadata": LATE,
    "idf.json": SPARSE,
    "query_token_weights.txt": SPARSE,
    "model_index.json": "is a pipeline of diffusers; it makes images",
}
# Files that sentence-transformers writes only together with a modules.json.
LEFT_OVER = ("config_sentence_transformers.json", "sentence_*_config.json", "[0-9]_*/config.json")

# What a model is by the ending of its architecture. Other endings are spelled out.
ENDINGS = {
    "ForTokenClassification": "a tagger; it labels tokens",
    "ForQuestionAnswering": "a reader; it finds answers in a text",
    "ForNextSentencePrediction": "a pair classifier; it scores pairs of texts",
    "ForMultipleChoice": "a multiple-choice model; it scores answers",
    "ForConditionalGeneration": "a generative model; it writes text",
    "WithLMHeadModel": "a language model; it writes text",
}
# Masked language models whose tokens must not be averaged: FNet takes no mask, so padding changes
# every token; MRA needs a kernel of its own; Reformer hashes at random in each pass.
NO_MEAN = {"fnet", "mra", "reformer"}
# Plain encoders that transformers has no masked language model of.
ALSO_PLAIN = {"bert-generation", "splinter", "xlnet"}
# The encoders of encoder-decoders, saved alone.
HALVES = {
    "LongT5EncoderModel", "M2M100Encoder", "MT5EncoderModel", "SwitchTransformersEncoderModel",
    "T5EncoderModel", "T5GemmaEncoderModel", "UMT5EncoderModel",
}  # fmt: skip

NO_POOLING = (
    "is no embedding model: modules.json has no Pooling, so it gives one vector a token, not a text"
)
# The refused values of model_type in config_sentence_transformers.json.
MODEL_TYPES = {
    "ColBERT": LATE, "CrossEncoder": RERANKER, "MultiVectorEncoder": LATE, "SparseEncoder": SPARSE,
}  # fmt: skip
# Keys of PyLate there; its older versions wrote no model_type.
OF_PYLATE = ("query_prefix", "document_prefix", "attend_to_expansion_tokens", "skiplist_words")
# Modules of other families, by a part of their class's path, and by the class's name.
PACKAGES = {
    "pylate": LATE, "multi_vector_encoder": LATE, "sparse_encoder": SPARSE,
    "cross_encoder": RERANKER,
}  # fmt: skip
CLASSES = {"CLIPModel": CLIP, "CSRSparsity": SPARSE, "IDF": SPARSE, "SpladePooling": SPARSE}
# The refused values of a Transformer's transformer_task.
CAUSAL = "is a causal reranker; it scores pairs of texts and gives no vector"
TASKS = {
    "fill-mask": SPARSE, "retrieval": LATE, "sequence-classification": RERANKER,
    "text-generation": CAUSAL, "any-to-any": CAUSAL,
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


def identify(folder: Path, name: str) -> tuple[str, ...]:
    """Return notes on what is assumed of a model; a complete folder needs no assumption.

    Raises ModelUnavailable with one line: what the model is, and what to do instead.
    """
    given = Folder(folder, name)
    _refuse_gguf(given)
    given.refuse_adapter()
    _refuse_other_types(given)
    modules = given.value("modules.json")
    if modules is None:
        return _identify_bare(given)
    _refuse_named(given, given.object("config.json"))
    features = frozenset({INPUT})
    for kind, path in _modules(given, modules):
        features = _after(given, kind, path, features)
    if VECTOR not in features:
        raise given.refusal(NO_POOLING)
    return ()


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


def _refuse_other_types(folder: Folder) -> None:
    config = folder.object("config_sentence_transformers.json")
    kind = config.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        unknown = f"is a {short(kind)} of sentence-transformers, which this version does not know"
        raise folder.refusal(MODEL_TYPES.get(str(kind), unknown))
    late = str(config.get("similarity_fn_name")).lower() == "maxsim"
    if late or any(key in config for key in OF_PYLATE):
        raise folder.refusal(LATE)


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
    package, _, name = kind.rpartition(".")
    what = next((PACKAGES[part] for part in package.split(".") if part in PACKAGES), None)
    if what := what or CLASSES.get(name):
        raise folder.refusal(what)
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
        unknown = f"is made for {short(task)}, not for embeddings"
        raise folder.refusal(TASKS.get(str(task), unknown))
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
            continue  # a route for images; texts take another
        features = has
        for kind, at in steps:
            features = _after(folder, kind, at, features)
        outcomes.append(features)
    if not outcomes:
        raise folder.refusal("takes no text: no route of its Router is for texts")
    return frozenset.intersection(*outcomes)


def _identify_bare(folder: Folder) -> tuple[str, ...]:
    """Return notes on a folder without modules.json that holds a plain encoder."""
    config = folder.object("config.json")
    _refuse_named(folder, config)
    if not folder.has("config.json"):
        raise folder.refusal("holds no model: no config.json")
    if any(map(folder.has, LEFT_OVER)):
        raise folder.refusal("is not whole: modules.json is missing; get the whole repository")
    if config.get("model_type") == "model2vec":
        raise folder.refusal("is a static model (model2vec) without modules.json")
    config = folder.check_network("")
    given = names(config.get("architectures"))
    architecture = given[0] if given else _base(config["model_type"])
    _refuse_head(folder, config, architecture)
    if architecture in HALVES or _is_plain(config, architecture):
        return (MEAN,)
    if _predicts_masked(config, architecture):
        note = MEAN if architecture.endswith("ForPreTraining") else MEAN_OF_HEAD
        return (note.format(short(architecture)),)
    raise folder.refusal(_what(config, architecture))


def _refuse_named(folder: Folder, config: Json) -> None:
    """Raise ModelUnavailable for a ColBERT or SPLADE model that is recognisable as such."""
    for file, what in FILES.items():
        if folder.has(file):
            raise folder.refusal(what)
    for word in names(config.get("architectures")):
        if re.search("colbert|lateinteraction|ForRetrieval$", word, re.IGNORECASE):
            raise folder.refusal(LATE)
        if re.search("splade|sparseenc|neuralsparse", word, re.IGNORECASE):
            raise folder.refusal(SPARSE)
    if folder.has("modules.json"):
        return  # modules.json decides; the model's name is only a hint
    name = folder.name.rstrip("/").rsplit("/")[-1].lower()
    if "colbert" in name:
        raise folder.refusal(LATE)
    if re.search(r"splade|neural-sparse|sparse-enco", name):
        raise folder.refusal(SPARSE)


def _refuse_head(folder: Folder, config: Json, architecture: str) -> None:
    own = config.get("sentence_transformers")
    scores = "sbert_ce_default_activation_function" in config
    scores = scores or (isinstance(own, dict) and "activation_fn" in own)
    if scores or architecture.endswith("ForSequenceClassification"):
        labels = config.get("id2label")
        count = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
        one = scores or count == 1 or "rerank" in folder.name.lower()
        classes = f"is a classifier ({short(architecture)}); it gives classes of texts"
        raise folder.refusal(RERANKER if one else classes)
    if pairs_with_images(config):
        raise folder.refusal(CLIP)
    if senses := sees_or_hears(config):
        raise folder.refusal(
            f"is a model of {senses} ({short(architecture)}) without modules.json; "
            "this service takes text models only"
        )
    writes = architecture.endswith(("ForCausalLM", "LMHeadModel"))
    if writes and not _predicts_masked(config, architecture):
        templates = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
        chats = folder.object("tokenizer_config.json").get("chat_template")
        chats = chats or any(map(folder.has, templates))
        what = "a chat model" if chats else "a language model"
        if "rerank" in folder.name.lower():
            what = "a causal reranker"
        raise folder.refusal(
            f"is {what} ({short(architecture)}); an embedding model made of one has a modules.json"
        )


def _is_plain(config: Json, architecture: str) -> bool:
    """Return whether a class is an encoder of text alone, whose tokens all see each other."""
    kind = config["model_type"]
    if architecture != _base(kind) or config.get("is_encoder_decoder") or _is_causal(config):
        return False
    if _is_encoder(kind):
        return True
    both_ways = config.get("use_bidirectional_attention")
    seen = config.get("is_causal") is False or both_ways is True or both_ways == "all"
    return seen and _only_writes(kind)


def _predicts_masked(config: Json, architecture: str) -> bool:
    """Return whether a class is a plain encoder with its masked-language-model head."""
    from transformers.models.auto import modeling_auto as auto

    kind = config["model_type"]
    heads = {
        auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(kind),
        auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES.get(kind),
        f"{_base(kind).removesuffix('Model')}ForMaskedLM",
    }
    return architecture in heads and _is_encoder(kind) and not _is_causal(config)


def _is_encoder(kind: str) -> bool:
    from transformers.models.auto import modeling_auto as auto

    more = {  # they take tables or layouts too, or are half of an encoder-decoder
        *auto.MODEL_FOR_TABLE_QUESTION_ANSWERING_MAPPING_NAMES,
        *auto.MODEL_FOR_DOCUMENT_QUESTION_ANSWERING_MAPPING_NAMES,
        *auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    }
    fills = kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and kind not in more | NO_MEAN
    return fills or kind in ALSO_PLAIN


def _only_writes(kind: str) -> bool:
    from transformers.models.auto import modeling_auto as auto

    writes = kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return writes and kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _is_causal(config: Json) -> bool:
    uni = config.get("attn_type") == "uni"  # XLNet's word; the others are BERT's and XLM's
    return uni or any(config.get(key) is True for key in ("is_decoder", "causal"))


def _base(kind: str) -> str:
    """Return the class that transformers loads for a model type, without a head."""
    from transformers.models.auto import modeling_auto as auto

    found: Any = auto.MODEL_MAPPING_NAMES.get(kind, f"{kind} model")
    return found if isinstance(found, str) else str(next(iter(found)))


def _what(config: Json, architecture: str) -> str:
    """Return what an architecture is that no rule accepts."""
    for ending, what in ENDINGS.items():
        if architecture.endswith(ending):
            noun, does = what.split("; ")
            return f"is {noun} ({short(architecture)}); {does}"
    if task := re.search(r"For([A-Z]\w+)$", architecture):
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", task[1])
        return f"is a model for {short(words)} ({short(architecture)}), not an embedding model"
    what, kind = "no plain encoder", config["model_type"]
    if config.get("is_encoder_decoder"):
        what = "an encoder-decoder"
    elif architecture == _base(kind) and (_is_causal(config) or _only_writes(kind)):
        what = "a decoder"
    return f"is {what} ({short(architecture)}) without modules.json: its pooling is not known"
