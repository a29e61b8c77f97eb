"""Settings of the models, and the catalogue of those configured.

The catalogue's sources, in order: `SUPPORTED_MODELS` if set is the whole list (an entry that
`model_config.json` describes keeps that description); otherwise `model_config.json` and then each
line of `supported_models.txt` that it does not hold already. `EMBEDDING_MODEL` is added if it is
missing and becomes the default; otherwise `model_config.json` names the default, otherwise the
first model is it. Knows nothing of loading: that is `embedders/`.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)

from config.fields import LONGEST_S, ConfigError, read_text, setting
from config.serving import CommaList, split_list

ModelType = Literal["sentence_transformer", "openai", "cohere", "huggingface", "fake"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Backend = Literal["auto", "torch", "packed", "onnx", "openvino"]
Truncate = Literal["auto", "right", "left", "error"]
TokenIds = Literal["accept", "refuse"]


def _device(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"cpu|cuda(:\d+)?|mps|auto", value.strip()):
        raise ValueError("must be cpu, cuda, cuda:N, mps or auto")
    return value.strip() if isinstance(value, str) else value


Device = Annotated[str, BeforeValidator(_device)]


def _printable(value: str) -> str:
    if not (0 < len(value) <= 1024 and value.isprintable()):
        raise ValueError("must be 1 to 1024 printable characters")
    return value


Name = Annotated[str, AfterValidator(_printable)]


class ModelSpec(BaseModel):
    """One configured model: what it is called, where it comes from and how it is run.

    The keys are those of an entry of `model_config.json`; only `model_name` is required.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    id: Name
    type: ModelType = "sentence_transformer"
    model_name: Name
    revision: str | None = None
    normalize: bool | None = None
    max_seq_length: int | None = Field(None, ge=1)
    prompts: dict[str, str] = Field(default_factory=dict)
    default_prompt_name: str | None = None
    device: Device | None = None
    devices: tuple[Device, ...] = ()
    dtype: Dtype | None = None
    backend: Backend | None = None
    max_batch_size: int | None = Field(None, ge=1)
    base_url: str | None = None
    base_urls: tuple[str, ...] = ()
    api_version: str | None = None  # says that base_url is a deployment at Azure
    provider: str | None = Field(None, pattern=r"^[a-z0-9-]{1,32}$")  # whose key is sent
    dimensions: int | None = Field(None, ge=1)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name a request may use: the id, the full hub name, the hub name's last part."""
        return tuple(dict.fromkeys((self.id, self.model_name, self.model_name.rsplit("/", 1)[-1])))


class ModelSettings(BaseModel):
    """Which models there are and how local ones run unless their own entry says otherwise."""

    model: Name | None = setting(
        None,
        "EMBEDDING_MODEL",
        "EMBEDDING_MODEL_NAME",
        help="The default model: an id of model_config.json, a Hugging Face name or a folder.",
    )
    supported_models: Annotated[tuple[Name, ...], BeforeValidator(split_list)] = setting(
        (),
        "SUPPORTED_MODELS",
        help="Comma list of the only models to serve; unset means those of both model files.",
    )
    model_config_file: Path = setting(
        Path("model_config.json"), "MODEL_CONFIG", help="The file that describes the models."
    )
    supported_models_file: Path = setting(
        Path("supported_models.txt"),
        "SUPPORTED_MODELS_FILE",
        help="A file with one more Hugging Face model name a line.",
    )
    device: Device = setting(
        "auto",
        "EMBEDDING_DEVICE",
        "DEVICE",
        help="Where models run: cpu, cuda, cuda:N, mps or auto (a GPU that has room, else the CPU)",
    )
    dtype: Dtype = setting(
        "auto",
        "EMBEDDING_DTYPE",
        "DTYPE",
        help="auto, float32, bfloat16 or float16; auto is bfloat16 where the hardware has it.",
    )
    backend: Backend = setting(
        "auto",
        "EMBEDDING_BACKEND",
        help="What runs the network: torch, or for BERT-like models on a CPU packed (torch without "
        "padding), onnx (ONNX Runtime, float32) or openvino (a package of its own); auto is the "
        "fastest there is for the model, the device and the dtype.",
    )
    max_batch_size: int = setting(
        512,
        "EMBEDDING_MAX_BATCH_SIZE",
        "MAX_BATCH_SIZE",
        "BATCH_SIZE",
        ge=1,
        le=65536,
        help="Most texts that one pass through a model holds, 1 to 65536.",
    )
    max_batch_tokens: int | None = setting(
        None,
        "MAX_BATCH_TOKENS",
        ge=16,
        help="Most tokens, padding included, that one pass holds; unset suits the device.",
    )
    encode_timeout_s: float = setting(
        300,
        "ENCODE_TIMEOUT",
        gt=0,
        le=LONGEST_S,
        help="Seconds one pass through a model may take; a worker whose pass hangs longer is "
        "replaced.",
    )
    max_queue_tokens: int = setting(
        2_000_000,
        "MAX_QUEUE_TOKENS",
        ge=1024,
        help="Most tokens that may wait for one model; beyond, requests are answered 429.",
    )
    max_seq_length: int | None = setting(
        None,
        "MAX_SEQ_LENGTH",
        ge=1,
        help="Longest input in tokens, at most what the model takes; unset means the model's own.",
    )
    normalize: bool = setting(
        True,
        "EMBEDDING_NORMALIZE",
        help="Whether vectors have length 1 unless the request or the model says otherwise: "
        "true or false.",
    )
    truncate: Truncate = setting(
        "auto",
        "TRUNCATE",
        help="What happens to an input over the limit: right keeps its start, left keeps its "
        "end, error refuses it; auto is what the model's tokenizer does, nearly always right.",
    )
    token_ids: TokenIds = setting(
        "accept",
        "TOKEN_IDS",
        help="Whether /v1/embeddings takes token ids of the model's own vocabulary: accept, or "
        "refuse, where clients may send those of another (LangChain left to itself).",
    )
    model_cache_dir: Path | None = setting(
        None,
        "EMBEDDING_MODEL_CACHE_DIR",
        help="Where downloaded models are kept; unset means the Hugging Face cache.",
    )
    model_dirs: CommaList = setting(
        (),
        "MODEL_DIRS",
        help="Comma list of folders; in them an admin may choose a model's folder while the "
        "service runs, as in the model cache. What is configured at the start may be anywhere.",
    )
    allow_pickled_weights: bool = setting(
        True,
        "ALLOW_PICKLED_WEIGHTS",
        help="Whether a model that has only pickled weights is converted to safetensors, once, in "
        "the model cache; nothing in them is run: true or false.",
    )
    hf_token: SecretStr | None = setting(
        None, "HF_TOKEN", "HF_API_TOKEN", help="Hugging Face token, for gated and private models."
    )


def _read_json(path: Path) -> dict[str, Any]:
    text = read_text(path, str(path))
    if text is None:
        return {}
    try:
        content = json.loads(text, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as exc:
        raise ConfigError([f"{path}: cannot be read as JSON ({exc})"]) from exc
    if not isinstance(content, dict) or not isinstance(content.get("models"), dict):
        raise ConfigError([f'{path}: must be {{"default": id, "models": {{id: {{...}}}}}}'])
    return content


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs; of two with one name JSON readers drop the first unsaid."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:80]!r} is there twice; give each its own name")
    return found


def _specs(path: Path, content: dict[str, Any]) -> list[ModelSpec]:
    specs, problems = [], []
    for model_id, entry in content.get("models", {}).items():
        try:
            specs.append(ModelSpec.model_validate({**entry, "id": model_id}))
        except (ValidationError, TypeError) as exc:
            errors = exc.errors(include_url=False) if isinstance(exc, ValidationError) else []
            problems += [
                f"{path}: models.{model_id}.{'.'.join(map(str, e['loc']))}: "
                + e["msg"].removeprefix("Value error, ")
                for e in errors
            ] or [f"{path}: models.{model_id}: must be an object"]
    if problems:
        raise ConfigError(problems)
    return specs


def _lines(path: Path) -> list[str]:
    text = read_text(path, str(path)) or ""
    lines = [line for line in (each.split("#")[0].strip() for each in text.splitlines()) if line]
    if wrong := [line for line in lines if not line.isprintable() or len(line) > 1024]:
        raise ConfigError([f"{path}: {wrong[0][:80]!r} is no model; write one name a line"])
    return lines


def read_catalogue(settings: ModelSettings) -> tuple[tuple[ModelSpec, ...], str]:
    """Return every configured model and the default's id. Raises ConfigError."""
    content = _read_json(settings.model_config_file)
    described = _specs(settings.model_config_file, content)
    if settings.supported_models:
        specs = [_named(described, name) for name in settings.supported_models]
    else:
        specs = list(described)
        for name in _lines(settings.supported_models_file):
            specs = _with(specs, name)
    if settings.model:
        specs = _with(specs, settings.model)
    if not specs:
        problem = f"no model is configured: {settings.model_config_file} holds none"
        raise ConfigError([f"{problem}, and SUPPORTED_MODELS and EMBEDDING_MODEL are unset"])
    return tuple(specs), _default(settings, specs, content)


def _named(specs: list[ModelSpec], name: str) -> ModelSpec:
    return next((s for s in specs if name in s.names), ModelSpec(id=name, model_name=name))


def _with(specs: list[ModelSpec], name: str) -> list[ModelSpec]:
    spec = _named(specs, name)
    return specs if spec in specs else [*specs, spec]


def _default(settings: ModelSettings, specs: list[ModelSpec], content: dict[str, Any]) -> str:
    wanted = settings.model or (None if settings.supported_models else content.get("default"))
    if wanted is None:
        return specs[0].id
    chosen = next((s.id for s in specs if wanted in s.names), None)
    if chosen is None:
        known = ", ".join(s.id for s in specs)
        raise ConfigError([f"{settings.model_config_file}: default={wanted!r}: one of {known}"])
    return chosen
