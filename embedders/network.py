"""Tells from a network's config.json whether transformers' own class computes what it should.

Owns what is refused for any network, with modules.json and without: adapters, quantized weights,
code of a repository, model types that transformers does not know.
"""

from typing import Any

from embedders.folder import Folder, Json, inside, names, short

QUANTIZED = ("quantization_config", "compression_config", "quantization")
QUANTIZED_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")

# Model types whose class in transformers was made of the very code that repositories name in
# auto_map, so it computes the same without that code: transformers' tests load nomic-ai's and
# Snowflake's own repositories with it, and EuroBERT's class reads EuroBERT's own keys. The class
# reads none of the keys listed with a type, it computes what these values mean. Not on the list:
# modernbert, whose own repositories never had code, and xlm-roberta, bert and qwen2, under whose
# model_type jina v3, jina v2 and gte-Qwen2 have code that computes something else.
BUILT_IN: dict[str, Json] = {
    "eurobert": {},
    "gte": {
        "position_embedding_type": "rope",
        "logn_attention_scale": False,
        "layer_norm_type": "layer_norm",
    },
    "nomic_bert": {
        "activation_function": "swiglu",
        "causal": False,
        "layer_norm_epsilon": 1e-12,
        "mlp_fc1_bias": False,
        "mlp_fc2_bias": False,
        "n_embd": 768,
        "n_head": 12,
        "n_inner": 3072,
        "n_layer": 12,
        "parallel_block": False,
        "prenorm": False,
        "qkv_proj_bias": False,
        "rotary_emb_base": 1000,
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
        "rotary_emb_scale_base": None,
        "rotary_scaling_factor": None,
        "use_rms_norm": False,
    },
}


def check_network(folder: Folder, at: str) -> Json:
    """Return the config.json of the network in the folder `at` ("" is the model's own).

    Raises ModelUnavailable if transformers' own classes would compute something else.
    """
    refuse_adapter(folder, at)
    file = inside("config.json", at)
    config = folder.object(file)
    if not config:
        raise folder.refusal(f"is not whole: {file} is missing or empty")
    refuse_quantized(folder, config)
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise folder.refusal(f"is not known: {file} names no model_type")
    _refuse_code(folder, at, kind, config)
    for key, value in BUILT_IN.get(kind, {}).items():
        if config.get(key, value) != value:
            raise folder.refusal(
                f"is {kind} with {key} {short(config[key])}, which only the code of its repository "
                "computes, and this service does not run that"
            )
    return config


def refuse_adapter(folder: Folder, at: str = "") -> None:
    """Raise ModelUnavailable for an adapter (LoRA): the weights of its base are elsewhere."""
    for where in {"", at}:
        if folder.has("adapter_config.json", where) or folder.has("adapter_model.*", where):
            config = folder.object(inside("adapter_config.json", where))
            base = config.get("base_model_name_or_path") or config.get("model_name")
            raise folder.refusal(
                f"is an adapter (LoRA) for {short(base or 'a model that it does not name')}; "
                "merge the two with peft's merge_and_unload() and use the folder that this saves"
            )


def refuse_quantized(folder: Folder, config: Json) -> None:
    """Raise ModelUnavailable with the method if the weights are quantized."""
    method = _method(config)
    for file in QUANTIZED_FILES:
        if method is None and folder.has(file):
            method = _method_of(folder.object(file))
    if method is None and str(config.get("dtype", config.get("torch_dtype"))).startswith("float8"):
        method = "fp8"
    if method is not None:
        raise folder.refusal(
            f"is quantized ({method}), which this service does not read; "
            "use the model that it was made from"
        )


def _method(config: Any, depth: int = 4) -> str | None:
    """Return how the weights are quantized by a config or one inside it, or None."""
    if not isinstance(config, dict) or not depth:
        return None
    for key in QUANTIZED:
        given = config.get(key)
        if given is not None and (key == "quantization_config" or isinstance(given, dict)):
            return "mlx" if key == "quantization" else _method_of(given)
    parts = (_method(part, depth - 1) for part in config.values())
    return next((found for found in parts if found), None)


def _method_of(config: Any) -> str:
    """Return the name that a quantization's own config gives to its method."""
    if not isinstance(config, dict):
        return "method not named"
    inner = config.get("quantization")  # hf_quant_config.json
    inner = inner if isinstance(inner, dict) else {}
    named = [config.get("quant_method"), inner.get("quant_algo"), config.get("quant_algo")]
    if config.get("load_in_8bit") or config.get("load_in_4bit"):
        named.append("bitsandbytes")
    bits = config.get("bits", config.get("w_bit"))
    named.append(f"{bits} bits" if bits else "method not named")
    return short(next(name for name in named if name))


def _refuse_code(folder: Folder, at: str, kind: str, config: Json) -> None:
    """Raise ModelUnavailable if the network or its tokenizer is computed by a repository's code."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    code = _code(config, "AutoConfig", "AutoModel")
    if kind not in CONFIG_MAPPING:
        if code or config.get("auto_map"):
            raise _needs_code(folder, code or f"model_type {kind}")
        raise folder.refusal(f"has model_type {short(kind)!r}, which this version does not know")
    if code and kind not in BUILT_IN:
        raise _needs_code(folder, code)
    tokenizer = folder.object(inside("tokenizer_config.json", at))
    code = _code(tokenizer, "AutoTokenizer")
    if code:
        raise _needs_code(folder, code)


def _code(config: Json, *classes: str) -> str | None:
    """Return what a config's auto_map names for one of transformers' classes, or None."""
    given = config.get("auto_map")
    if not isinstance(given, dict):  # once it was the tokenizer's two classes
        found = names(given) if "AutoTokenizer" in classes else []
        return found[0] if found else None
    for name in reversed(classes):  # the network says more than its config does
        found = names(given.get(name))
        if found:
            return found[0]
    return None


def _needs_code(folder: Folder, code: str) -> Exception:
    return folder.refusal(
        f"needs code of its repository ({short(code)}), which this service does not run"
    )
