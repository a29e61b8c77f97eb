"""Tells what a folder without modules.json is, by its config.json and the files beside it.

Such a folder says nothing of pooling or prompts. A plain encoder's tokens are averaged, as
sentence-transformers does, and that is said; whatever else it is, it is refused by its name.
"""

import re
from collections.abc import Iterable

from embedders.folder import Folder, Json, names, short
from embedders.network import check_network

SPARSE = "is a sparse model (SPLADE); its vectors are as wide as the vocabulary"
LATE = "is a late-interaction model (ColBERT); it gives a vector a token, not a text"
RERANKER = "is a cross-encoder (reranker); it scores pairs of texts and gives no vector"
CLIP = "is a model of text and images (CLIP); this service takes text models only"

MEAN = "no modules.json: mean pooling over all tokens is assumed, and no prompts"
MEAN_OF_HEAD = (
    "no modules.json: mean pooling over the tokens of {} is assumed, and no prompts "
    "(a SPLADE model saved so would need its own head)"
)

# Files that say what a folder is, whatever its config.json says.
FILES = {
    "artifact.metadata": LATE,
    "idf.json": SPARSE,
    "query_token_weights.txt": SPARSE,
    "model_index.json": "is a pipeline of diffusers; it makes images",
}
# What only sentence-transformers writes: a folder that has it had a modules.json.
LEFT_OVER = ("config_sentence_transformers.json", "sentence_*_config.json", "[0-9]_*/config.json")

# What an architecture's ending says. The rest are named by their own words.
ENDINGS = {
    "ForTokenClassification": "a tagger; it labels tokens",
    "ForQuestionAnswering": "a reader; it finds answers in a text",
    "ForNextSentencePrediction": "a pair classifier; it scores pairs of texts",
    "ForMultipleChoice": "a multiple-choice model; it scores answers",
    "ForConditionalGeneration": "a generative model; it writes text",
    "WithLMHeadModel": "a language model; it writes text",
}
# Masked language models whose tokens' mean is no text's vector: FNet takes no mask, so padding is
# in every token; MRA needs a kernel of its own to attend; Reformer hashes by chance in each pass.
NO_MEAN = {"fnet", "mra", "reformer"}
# Plain encoders without a masked language model in transformers.
ALSO_PLAIN = {"bert-generation", "splinter", "xlnet"}
# The encoders of encoder-decoders, saved alone.
HALVES = {
    "LongT5EncoderModel",
    "M2M100Encoder",
    "MT5EncoderModel",
    "SwitchTransformersEncoderModel",
    "T5EncoderModel",
    "T5GemmaEncoderModel",
    "UMT5EncoderModel",
}


def identify_bare(folder: Folder) -> tuple[str, ...]:
    """Return what is assumed of a folder without modules.json. Raises ModelUnavailable."""
    config = folder.object("config.json")
    says_so(folder, config)
    if not folder.has("config.json"):
        raise folder.refusal("holds no model: no config.json")
    for pattern in LEFT_OVER:
        if folder.has(pattern):
            raise folder.refusal("is not whole: modules.json is missing; get the whole repository")
    if config.get("model_type") == "model2vec":
        raise folder.refusal("is a static model (model2vec) without modules.json")
    config = check_network(folder, "")
    given = names(config.get("architectures"))
    architecture = given[0] if given else _base(config["model_type"])
    _refuse_head(folder, config, architecture)
    if architecture in HALVES or _is_plain(config, architecture):
        return (MEAN,)
    if _predicts_masked(config, architecture):
        said = MEAN if architecture.endswith("ForPreTraining") else MEAN_OF_HEAD
        return (said.format(short(architecture)),)
    raise folder.refusal(_what(config, architecture))


def says_so(folder: Folder, config: Json) -> None:
    """Raise ModelUnavailable for a ColBERT or SPLADE model that says what it is."""
    for file, what in FILES.items():
        if folder.has(file):
            raise folder.refusal(what)
    for word in names(config.get("architectures")):
        if re.search("colbert|lateinteraction|ForRetrieval$", word, re.IGNORECASE):
            raise folder.refusal(LATE)
        if re.search("splade|sparseenc|neuralsparse", word, re.IGNORECASE):
            raise folder.refusal(SPARSE)
    if folder.has("modules.json"):
        return  # it says itself what it is; a name is a hint only
    name = folder.name.rstrip("/").rsplit("/")[-1].lower()
    if "colbert" in name:
        raise folder.refusal(LATE)
    if re.search(r"splade|neural-sparse|sparse-enco", name):
        raise folder.refusal(SPARSE)


def sees_or_hears(config: Json) -> str | None:
    """Return what the network takes beside or instead of text, or None."""
    from transformers.models.auto import auto_mappings as auto

    kind = config.get("model_type")
    mixes = kind in auto.PROCESSOR_MAPPING_NAMES  # a processor is a tokenizer and one thing more
    hears = kind in auto.FEATURE_EXTRACTOR_MAPPING_NAMES or "audio_config" in config
    if not (mixes or hears or kind in auto.IMAGE_PROCESSOR_MAPPING_NAMES):
        mixes = "vision_config" in config
        if not mixes:
            return None
    return ("text and " if mixes else "") + ("sound" if hears else "images")


def pairs_with_images(config: Json) -> bool:
    """Tell whether it is CLIP or of its kind: a tower of text beside one of images."""
    from transformers.models.auto import modeling_auto as auto

    kind = str(config.get("model_type"))
    towers = {*auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES, "xclip"}
    towers |= {"vision-text-dual-encoder", "groupvit", "flava", "owlvit", "owlv2", "bridgetower"}
    return kind in towers or kind.endswith(("clip_text_model", "siglip_text_model"))


def _refuse_head(folder: Folder, config: Json, architecture: str) -> None:
    """Raise ModelUnavailable for a head that makes something else of the tokens."""
    own = config.get("sentence_transformers")
    scores = "sbert_ce_default_activation_function" in config or (
        isinstance(own, dict) and "activation_fn" in own
    )
    if scores or architecture.endswith("ForSequenceClassification"):
        labels = config.get("id2label")
        count = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
        one = scores or count == 1 or "rerank" in folder.name.lower()
        classes = f"is a classifier ({short(architecture)}); it gives classes of texts"
        raise folder.refusal(RERANKER if one else classes)
    if pairs_with_images(config):
        raise folder.refusal(CLIP)
    senses = sees_or_hears(config)
    if senses:
        raise folder.refusal(
            f"is a model of {senses} ({short(architecture)}) without modules.json; "
            "this service takes text models only"
        )
    if architecture.endswith(("ForCausalLM", "LMHeadModel")) and not _predicts_masked(
        config, architecture
    ):
        what = "a chat model" if _chats(folder) else "a language model"
        if "rerank" in folder.name.lower():
            what = "a causal reranker"
        raise folder.refusal(
            f"is {what} ({short(architecture)}); an embedding model made of one has a modules.json"
        )


def _chats(folder: Folder) -> bool:
    templates = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
    return any(map(folder.has, templates)) or bool(
        folder.object("tokenizer_config.json").get("chat_template")
    )


def _is_plain(config: Json, architecture: str) -> bool:
    """Tell whether the class is an encoder of text alone, every token of which sees all others."""
    kind = config["model_type"]
    if architecture != _base(kind) or config.get("is_encoder_decoder") or _is_causal(config):
        return False
    if _is_encoder(kind):
        return True
    both_ways = config.get("use_bidirectional_attention")
    told = config.get("is_causal") is False or both_ways is True or both_ways == "all"
    return told and _only_writes(kind)


def _predicts_masked(config: Json, architecture: str) -> bool:
    """Tell whether the class is a plain encoder with the head it was trained with."""
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

    more = {  # they take tables or layouts beside the text, or are half of something
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
    """Return the class that transformers loads for a model type without a head."""
    from transformers.models.auto import modeling_auto as auto

    found: Iterable[str] = auto.MODEL_MAPPING_NAMES.get(kind, f"{kind} model")
    return found if isinstance(found, str) else next(iter(found))


def _what(config: Json, architecture: str) -> str:
    """Return what an architecture is that no rule lets pass."""
    for ending, what in ENDINGS.items():
        if architecture.endswith(ending):
            noun, does = what.split("; ")
            return f"is {noun} ({short(architecture)}); {does}"
    task = re.search(r"For([A-Z]\w+)$", architecture)
    if task:
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", task[1])
        return f"is a model for {short(words)} ({short(architecture)}), not an embedding model"
    what, kind = "no plain encoder", config["model_type"]
    if config.get("is_encoder_decoder"):
        what = "an encoder-decoder"
    elif architecture == _base(kind) and (_is_causal(config) or _only_writes(kind)):
        what = "a decoder"
    return f"is {what} ({short(architecture)}) without modules.json: its pooling is not known"
