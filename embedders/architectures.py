"""Tells what a network is by its config.json: an encoder, a decoder, a head for scores.

transformers' own tables say which architectures there are. Only names are read; nothing is loaded.
"""

import re
from typing import Any

from embedders.folder import Json, names, short

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


def writes(config: Json) -> bool:
    """Return whether a network's head writes text."""
    return any(
        name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures_of(config)[:1]
    )


def labels_of(config: Json) -> int:
    """Return how many scores a network gives as the library loads it.

    transformers' default is 2; a network without a head for scores gets one of its own for 1.
    """
    if not any(name.endswith("ForSequenceClassification") for name in architectures_of(config)):
        return 1
    labels = config.get("id2label")
    return len(labels) if isinstance(labels, dict) else int(config.get("num_labels") or 2)


def architectures_of(config: Json) -> list[str]:
    """Return the classes that a network was saved of."""
    return names(config.get("architectures"))


def is_plain(config: Json, architecture: str) -> bool:
    """Return whether a class is an encoder of text alone, whose tokens all see each other."""
    kind = config["model_type"]
    if architecture != base_of(kind) or config.get("is_encoder_decoder") or _is_causal(config):
        return False
    if _is_encoder(kind):
        return True
    both_ways = config.get("use_bidirectional_attention")
    seen = config.get("is_causal") is False or both_ways is True or both_ways == "all"
    return seen and _only_writes(kind)


def predicts_masked(config: Json, architecture: str) -> bool:
    """Return whether a class is a plain encoder with its masked-language-model head."""
    from transformers.models.auto import modeling_auto as auto

    kind = config["model_type"]
    heads = {
        auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(kind),
        auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES.get(kind),
        f"{base_of(kind).removesuffix('Model')}ForMaskedLM",
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


def base_of(kind: str) -> str:
    """Return the class that transformers loads for a model type, without a head."""
    from transformers.models.auto import modeling_auto as auto

    found: Any = auto.MODEL_MAPPING_NAMES.get(kind, f"{kind} model")
    return found if isinstance(found, str) else str(next(iter(found)))


def what_it_is(config: Json, architecture: str) -> str:
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
    elif architecture == base_of(kind) and (_is_causal(config) or _only_writes(kind)):
        what = "a decoder"
    return f"is {what} ({short(architecture)}) without modules.json: its pooling is not known"
