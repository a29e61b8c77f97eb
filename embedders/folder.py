"""Reads the small JSON files of a model's folder, and refuses networks that it cannot run rightly.

Refused with one line, with or without a modules.json: adapters, quantized weights, code of a
repository, and model types that transformers does not know.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import ModelUnavailable

LONGEST = 240  # characters of a refusal: it is one line of a log and of a page
Json = dict[str, Any]

QUANTIZED = ("quantization_config", "compression_config", "quantization")
QUANTIZED_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")

# Model types whose class in transformers was made from the code that repositories name in auto_map,
# and so computes the same without it: transformers' tests load nomic-ai's and Snowflake's own
# repositories with it, and EuroBERT's class reads EuroBERT's own keys. The class ignores the keys
# listed with a type and always computes what these values mean. Not on the list: modernbert, whose
# repositories never had code, and xlm-roberta, bert and qwen2, under whose model_type jina v3,
# jina v2 and gte-Qwen2 have code that computes something else.
BUILT_IN: dict[str, Json] = {
    "eurobert": {},
    "gte": {
        "position_embedding_type": "rope", "logn_attention_scale": False,
        "layer_norm_type": "layer_norm",
    },
    "nomic_bert": {
        "activation_function": "swiglu", "causal": False, "layer_norm_epsilon": 1e-12,
        "mlp_fc1_bias": False, "mlp_fc2_bias": False, "n_embd": 768, "n_head": 12, "n_inner": 3072,
        "n_layer": 12, "parallel_block": False, "prenorm": False, "qkv_proj_bias": False,
        "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False,
        "rotary_emb_scale_base": None, "rotary_scaling_factor": None, "use_rms_norm": False,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Folder:
    """A model's folder, and the name that the operator gave the model."""

    path: Path
    name: str

    def refusal(self, what: str) -> ModelUnavailable:
        """Return the error that says, in one line, what the model is."""
        line = "".join(c if c.isprintable() else "?" for c in " ".join(what.split()))
        room = max(40, LONGEST - len(line))  # paths of two models differ at their end
        name = self.name if len(self.name) <= room else f"…{self.name[1 - room :]}"
        return ModelUnavailable(f"{name!r} {line}"[: LONGEST + 8])

    def has(self, pattern: str, within: str = "") -> bool:
        """Return whether a file matches the pattern in a module's folder."""
        return any((self.path / within).glob(pattern))

    def object(self, file: str) -> Json:
        """Return a JSON file's object, or {} without it. Raises ModelUnavailable if damaged."""
        found = self.value(file)
        if found is not None and not isinstance(found, dict):
            raise self.refusal(f"is damaged: {file} holds no JSON object")
        return found or {}

    def value(self, file: str) -> Any:
        """Return a JSON file's content, or None without it. Raises ModelUnavailable if damaged."""
        path = self.path / file
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text("utf-8"))
        except (ValueError, RecursionError, OSError) as exc:
            why = f"line {exc.lineno}" if isinstance(exc, json.JSONDecodeError) else "not JSON"
            raise self.refusal(f"is damaged: {file} cannot be read ({why})") from exc

    def check_network(self, at: str) -> Json:
        """Return the config.json of the network in the folder `at`; "" is the model's own.

        Raises ModelUnavailable if transformers' own classes would compute something else.
        """
        self.refuse_adapter(at)
        file = inside("config.json", at)
        config = self.object(file)
        if not config:
            raise self.refusal(f"is not whole: {file} is missing or empty")
        self.refuse_quantized(config)
        kind = config.get("model_type")
        if not isinstance(kind, str):
            raise self.refusal(f"is not known: {file} names no model_type")
        self._refuse_code(at, kind, config)
        for key, value in BUILT_IN.get(kind, {}).items():
            if config.get(key, value) != value:
                raise self.refusal(
                    f"is {kind} with {key} {short(config[key])}, which only the code of its "
                    "repository computes, and this service does not run that"
                )
        return config

    def refuse_adapter(self, at: str = "") -> None:
        """Raise ModelUnavailable for an adapter (LoRA), whose base model is elsewhere."""
        for where in {"", at}:
            if self.has("adapter_config.json", where) or self.has("adapter_model.*", where):
                config = self.object(inside("adapter_config.json", where))
                base = config.get("base_model_name_or_path") or config.get("model_name")
                base = short(base or "a model that it does not name")
                raise self.refusal(
                    f"is an adapter (LoRA) for {base}; merge the two with peft's "
                    "merge_and_unload() and use the folder that this saves"
                )

    def refuse_quantized(self, config: Json) -> None:
        """Raise ModelUnavailable with the method if the weights are quantized."""
        method = _method(config)
        for file in QUANTIZED_FILES:
            if method is None and self.has(file):
                method = _method_of(self.object(file))
        dtype = str(config.get("dtype", config.get("torch_dtype")))
        if method is None and dtype.startswith("float8"):
            method = "fp8"
        if method is not None:
            raise self.refusal(
                f"is quantized ({method}), which this service does not read; "
                "use the model that it was made from"
            )

    def _refuse_code(self, at: str, kind: str, config: Json) -> None:
        """Raise ModelUnavailable if the network or its tokenizer needs a repository's code."""
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        code = _code(config, "AutoConfig", "AutoModel")
        if kind not in CONFIG_MAPPING:
            if code or config.get("auto_map"):
                raise self.needs_code(code or f"model_type {kind}")
            raise self.refusal(f"has model_type {short(kind)!r}, which this version does not know")
        if code and kind not in BUILT_IN:
            raise self.needs_code(code)
        tokenizer = self.object(inside("tokenizer_config.json", at))
        if code := _code(tokenizer, "AutoTokenizer"):
            raise self.needs_code(code)

    def needs_code(self, code: str) -> ModelUnavailable:
        """Return the refusal of a model that needs its repository's code."""
        return self.refusal(
            f"needs code of its repository ({short(code)}), which this service does not run"
        )


def names(value: Any) -> list[str]:
    """Return the strings of a JSON value that is a list of strings or one string."""
    return [item for item in (value if isinstance(value, list) else [value]) if type(item) is str]


def inside(file: str, folder: str) -> str:
    """Return the path of a file in a module's folder; "" is the model's own folder."""
    return f"{folder}/{file}" if folder else file


def short(text: Any) -> str:
    """Return a text of the model, shortened to fit into a line."""
    words = " ".join(str(text).split())
    return words if len(words) <= 60 else f"{words[:59]}…"


def _method(config: Any, depth: int = 4) -> str | None:
    """Return the quantization method in a config or in a config inside it, or None."""
    if not isinstance(config, dict) or not depth:
        return None
    for key in QUANTIZED:
        given = config.get(key)
        if given is not None and (key == "quantization_config" or isinstance(given, dict)):
            return "mlx" if key == "quantization" else _method_of(given)
    parts = (_method(part, depth - 1) for part in config.values())
    return next((found for found in parts if found), None)


def _method_of(config: Any) -> str:
    """Return the method's name in a quantization config."""
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


def _code(config: Json, *classes: str) -> str | None:
    """Return the code that auto_map names for one of transformers' classes, or None."""
    given = config.get("auto_map")
    if not isinstance(given, dict):  # older files list the tokenizer's two classes
        found = names(given) if "AutoTokenizer" in classes else []
        return found[0] if found else None
    for name in reversed(classes):  # the network's class is more telling than its config's
        if found := names(given.get(name)):
            return found[0]
    return None


def network_config(folder: Path) -> Json:
    """Return the config.json of a model's first network, or {} without one."""
    for path in (folder / "config.json", *sorted(folder.glob("0_*/config.json"))):
        if path.is_file():
            found: Json = json.loads(path.read_text(encoding="utf-8"))
            return found
    return {}


def sees_or_hears(config: Json) -> str | None:
    """Return what a network takes in addition to text or instead of it, or None."""
    from transformers.models.auto import auto_mappings as auto

    kind = config.get("model_type")
    mixes = kind in auto.PROCESSOR_MAPPING_NAMES  # a processor is a tokenizer and something else
    hears = kind in auto.FEATURE_EXTRACTOR_MAPPING_NAMES or "audio_config" in config
    if not (mixes or hears or kind in auto.IMAGE_PROCESSOR_MAPPING_NAMES):
        mixes = "vision_config" in config
        if not mixes:
            return None
    return ("text and " if mixes else "") + ("sound" if hears else "images")


def pairs_with_images(config: Json) -> bool:
    """Return whether a network is of CLIP's kind: one tower for texts and one for images."""
    from transformers.models.auto import modeling_auto as auto

    kind = str(config.get("model_type"))
    towers = {*auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES, "xclip"}
    towers |= {"vision-text-dual-encoder", "groupvit", "flava", "owlvit", "owlv2", "bridgetower"}
    return kind in towers or kind.endswith(("clip_text_model", "siglip_text_model"))
