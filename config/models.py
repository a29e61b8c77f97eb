"""Settings of the models and of remote providers, and the catalogue of configured models.

The catalogue: if `SUPPORTED_MODELS` is set it is the whole list, and entries of `model_config.json`
describe its models, and likewise if the environment of another service names models
(`config/rivals.py`). Otherwise it is `model_config.json`, then each new line of
`supported_models.txt`. `EMBEDDING_MODEL` is added if it is missing and becomes the default;
otherwise `model_config.json` names the default, otherwise the first model is it.
"""

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)

from config.access import SHORTEST_SIGNING, is_weak, secrets_of
from config.fields import (
    CommaList,
    Commas,
    ConfigError,
    Seconds,
    Section,
    read_text,
    setting,
    storable,
)
from config.serving import Networks

ModelType = Literal[
    "auto", "sentence_transformer", "reranker", "sparse", "multi_vector",
    "openai", "cohere", "huggingface", "fake",
]  # fmt: skip
Dtype = Literal["auto", "float32", "bfloat16", "float16", "int8"]
Backend = Literal["auto", "torch", "flat", "packed", "onnx"]
CudaGraphs = Literal["auto", "off"]
Truncate = Literal["auto", "right", "left", "error"]
Load = Literal["start", "first_use"]
Pooling = Literal["cls", "mean", "lasttoken"]
TokenIds = Literal["accept", "refuse"]
UnknownModel = Literal["error", "default"]
# How the provider of a remote model is: without its key, or as calls with it have gone.
ProviderState = Literal["no_key", "unchecked", "reachable", "failing", "key_wrong", "open"]

MAKE_FERNET_KEY = (
    "python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'"
)


def _device(value: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?|mps|auto", value.strip()):
        raise ValueError("must be cpu, cuda, cuda:N, mps or auto")
    return value.strip()


def _printable(value: str) -> str:
    if not (0 < len(value) <= 1024 and value.isprintable()):
        raise ValueError("must be 1 to 1024 printable characters")
    return value


def _cannot_be_guessed(value: SecretStr | None) -> SecretStr | None:
    """Refuse what can be guessed, whoever calls: a stolen database can be attacked offline."""
    if any(map(is_weak, secrets_of(value))):
        raise ValueError(
            f"each key of ENCRYPTION_KEY must have at least {SHORTEST_SIGNING} bytes and be no "
            f"placeholder. Make one with: {MAKE_FERNET_KEY}, then store the providers' keys again"
        )
    return value


def plain(name: str) -> str:
    """Return a model's name without Ollama's `:latest`, which never tells two models apart."""
    return name.removesuffix(":latest") or name


Device = Annotated[
    str, AfterValidator(_device), Field(examples=["auto", "cpu", "cuda", "cuda:0", "mps"])
]
Name = Annotated[str, AfterValidator(_printable)]
Aliases = Annotated[
    tuple[Name, ...], AfterValidator(lambda names: tuple(dict.fromkeys(map(plain, names))))
]


class ModelSpec(BaseModel):
    """One configured model: its names, its source and how it runs.

    The keys are those of an entry of `model_config.json`; only `model_name` is required.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    _storable = field_validator("*")(storable)

    id: Name
    type: ModelType = "auto"  # what the files of a local model say
    model_name: Name
    aliases: Aliases = ()  # further names that requests may use
    revision: str | None = None
    normalize: bool | None = None
    max_seq_length: int | None = Field(None, ge=1)
    prompts: dict[str, str] = Field(default_factory=dict)
    default_prompt_name: str | None = None
    device: Device | None = None
    devices: tuple[Device, ...] = ()
    dtype: Dtype | None = None
    backend: Backend | None = None
    load: Load = "start"
    idle_unload_s: Seconds | None = None
    max_batch_size: int | None = Field(None, ge=1)
    base_url: str | None = None
    base_urls: tuple[str, ...] = ()
    api_version: str | None = None  # makes base_url a deployment at Azure
    provider: str | None = Field(None, pattern=r"^[a-z0-9-]{1,32}$")  # whose API key is sent
    dimensions: int | None = Field(None, ge=1)
    pooling: Pooling | None = None  # of a folder without modules.json; others must have this one

    @property
    def hub_name(self) -> str:
        """The last part of the hub name."""
        return self.model_name.rsplit("/", 1)[-1]

    @property
    def names(self) -> tuple[str, ...]:
        """Every name a request may use: the id, the hub name, its last part, and the aliases."""
        return tuple(dict.fromkeys((self.id, self.model_name, self.hub_name, *self.aliases)))

    def answers_to(self, name: str) -> bool:
        """Whether a request may use this name, which may end in `:latest`."""
        return name in self.names or plain(name) in self.names


class ModelSettings(Section):
    """Which models there are, and how local ones run unless their own entry says otherwise."""

    model: Name | None = setting(None, "EMBEDDING_MODEL", "EMBEDDING_MODEL_NAME")
    """The default model: an id of model_config.json, a Hugging Face name or a folder."""
    supported_models: Annotated[tuple[Name, ...], Commas] = setting((), "SUPPORTED_MODELS")
    """Comma list of the only models to serve; unset means those of both model files."""
    model_config_file: Path = setting(Path("model_config.json"), "MODEL_CONFIG")
    """File that describes the models."""
    supported_models_file: Path = setting(Path("supported_models.txt"), "SUPPORTED_MODELS_FILE")
    """File with further Hugging Face models, one name per line."""
    given_models: tuple[dict[str, Any], ...] = ()
    """Entries of the only models to serve, as the environment of another service names them."""
    device: Device = setting("auto", "EMBEDDING_DEVICE", "DEVICE")
    """Where models run: cpu, cuda, cuda:N, mps or auto (a GPU with room, else the CPU)"""
    dtype: Dtype = setting("auto", "EMBEDDING_DTYPE", "DTYPE")
    """auto, float32, bfloat16, float16, or int8 for BERT-like models on a CPU; auto is bfloat16 if
    the hardware supports it, else float32 or float16, never int8."""
    backend: Backend = setting("auto", "EMBEDDING_BACKEND")
    """What runs the network: torch (padded), flat (without padding, most architectures), or for
    BERT-like models on a CPU packed (torch without padding) or onnx (ONNX Runtime, float32); auto
    is the fastest with the same vectors."""
    cuda_graphs: CudaGraphs = setting("auto", "CUDA_GRAPHS")
    """auto or off: whether flat passes on a GPU are replayed as CUDA graphs, which are recorded
    when the model loads."""
    max_batch_size: int | None = setting(
        None, "EMBEDDING_MAX_BATCH_SIZE", "MAX_BATCH_SIZE", "BATCH_SIZE", ge=1, le=65536
    )
    """Most texts in one pass through a model, 1 to 65536; unset means what suits the device: 512,
    or 4096 in passes without padding on a GPU."""
    max_batch_tokens: int | None = setting(None, "MAX_BATCH_TOKENS", ge=16)
    """Most tokens in one pass, padding included; unset means what suits the device."""
    models_memory_mb: int | None = setting(None, "MODELS_MEMORY_MB", ge=1)
    """Most MiB that the weights of all local models may take, on each device; to load another, the
    model that was used least recently is unloaded until its next use. Unset means no limit."""
    idle_unload_s: Seconds | None = setting(None, "MODELS_IDLE_UNLOAD")
    """Seconds without a request after which a local model is unloaded until its next use; unset
    means never. A model's own entry may have another time, and an admin who sends Ollama's
    keep_alive."""
    encode_timeout_s: Seconds = setting(300, "ENCODE_TIMEOUT")
    """Seconds one pass through a model may take; after that its worker is replaced."""
    max_queue_tokens: int | None = setting(None, "MAX_QUEUE_TOKENS", ge=1024)
    """Most tokens that may wait for one model in each lane, interactive and bulk; further requests
    get 429. Unset means what the model encodes in a minute, as measured in full passes."""
    interactive_p99_ms: float | None = setting(None, "INTERACTIVE_P99_MS", gt=0, le=600_000)
    """Target for the 99th percentile of interactive requests to a local model, in milliseconds.
    Bulk passes are made smaller to meet it, but keep a third of the model's time. Unset means no
    target."""
    max_seq_length: int | None = setting(None, "MAX_SEQ_LENGTH", ge=1)
    """Longest input in tokens, at most what the model takes; unset means the model's own limit."""
    normalize: bool = setting(True, "EMBEDDING_NORMALIZE")
    """Whether vectors have length 1 unless the request or the model's entry says otherwise: true or
    false."""
    truncate: Truncate = setting("auto", "TRUNCATE")
    """What happens to an input over the limit: right keeps its start, left keeps its end, error
    refuses it; auto is what the model's tokenizer does, nearly always right."""
    token_ids: TokenIds = setting("accept", "TOKEN_IDS")
    """Whether /v1/embeddings takes token ids of the model's own vocabulary: accept or refuse.
    Refuse if clients may send ids of another one, as LangChain does by default."""
    unknown_model: UnknownModel = setting("error", "UNKNOWN_MODEL")
    """What a request that names an unknown model gets: error (400), or default: the default model
    of the kind that the request needs, for clients that cannot be told the model's name."""
    model_cache_dir: Path | None = setting(None, "EMBEDDING_MODEL_CACHE_DIR")
    """Folder for downloaded models; unset means the Hugging Face cache."""
    model_dirs: CommaList = setting((), "MODEL_DIRS")
    """Comma list of folders from which, and from the model cache, an admin may load a model at run
    time. Models that are configured at the start may be anywhere."""
    allow_pickled_weights: bool = setting(True, "ALLOW_PICKLED_WEIGHTS")
    """Whether a model that has only pickled weights is converted to safetensors once, in the model
    cache, without running code from them: true or false."""
    hf_token: SecretStr | None = setting(None, "HF_TOKEN", "HF_API_TOKEN")
    """Hugging Face token, for gated and private models."""


class ProviderSettings(Section):
    """Remote providers: their keys, limits and addresses."""

    openai_api_key: SecretStr | None = setting(None, "OPENAI_API_KEY")
    """API key of OpenAI."""
    azure_api_key: SecretStr | None = setting(None, "AZURE_OPENAI_API_KEY")
    """API key of OpenAI models at Azure."""
    cohere_api_key: SecretStr | None = setting(None, "COHERE_API_KEY", "CO_API_KEY")
    """API key of Cohere."""
    encryption_key: Annotated[SecretStr | None, AfterValidator(_cannot_be_guessed)] = setting(
        None, "ENCRYPTION_KEY"
    )
    """Encrypts the providers' keys that are stored in SQL; at least 32 bytes. To replace it, give a
    comma list: the first key encrypts, all decrypt."""
    provider_timeout_s: Seconds = setting(60, "PROVIDER_TIMEOUT")
    """Seconds a request to a provider may take, retries included; after that the caller gets
    504."""
    provider_parallel: int = setting(8, "PROVIDER_PARALLEL", ge=1, le=64)
    """Most parts of one large request that are sent at once, 1 to 64."""
    provider_connections: int = setting(64, "PROVIDER_CONNECTIONS", ge=1, le=1024)
    """Most calls to one provider's host at once, 1 to 1024."""
    provider_max_reply_bytes: int = setting(128 * 1024 * 1024, "PROVIDER_MAX_REPLY_BYTES", ge=1024)
    """Largest reply in bytes that is read from a provider."""
    provider_http_hosts: CommaList = setting((), "PROVIDER_HTTP_HOSTS")
    """Comma list of hosts whose base_url may begin with http: instead of https:."""
    provider_networks: Networks = setting((), "PROVIDER_NETWORKS")
    """Comma list of private networks in which providers may be, such as 10.0.0.0/8; public
    addresses are always allowed."""


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
    """Return the object of these pairs. Raises ValueError if a name is there twice."""
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
    taken: dict[str, str] = {}
    for spec, other in itertools.permutations(specs, 2):
        if plain(spec.id) == other.id:
            taken[spec.id] = f"{path}: models.{spec.id}: it also names {other.id}"
        for alias in spec.aliases:
            if alias in map(plain, other.names):
                taken[alias] = f"{path}: models.{spec.id}.aliases: {alias!r} also names {other.id}"
    problems += taken.values()
    if problems:
        raise ConfigError(problems)
    return specs


def _lines(path: Path) -> list[str]:
    text = read_text(path, str(path)) or ""
    lines = [line for line in (each.split("#")[0].strip() for each in text.splitlines()) if line]
    if wrong := [line for line in lines if not line.isprintable() or len(line) > 1024]:
        raise ConfigError([f"{path}: {wrong[0][:80]!r} is no model; write one name per line"])
    return lines


def read_catalogue(settings: ModelSettings) -> tuple[tuple[ModelSpec, ...], str]:
    """Return every configured model and the default's id. Raises ConfigError."""
    content = _read_json(settings.model_config_file)
    described = _specs(settings.model_config_file, content)
    if settings.given_models:
        specs = _given(described, settings.given_models)
    elif settings.supported_models:
        specs = [_named(described, name) for name in settings.supported_models]
    else:
        specs = list(described)
        for name in _lines(settings.supported_models_file):
            specs = _with(specs, name)
    if settings.model:
        specs = _with(specs, settings.model)
    if not specs:
        problem = f"no model is configured: {settings.model_config_file} has none"
        raise ConfigError([f"{problem}, and SUPPORTED_MODELS and EMBEDDING_MODEL are unset"])
    return tuple(specs), _default(settings, specs, content)


def _given(described: list[ModelSpec], entries: Sequence[dict[str, Any]]) -> list[ModelSpec]:
    """Return the models that another service's environment names. Raises ConfigError."""
    merged = {}
    for entry in entries:
        known = _named(described, entry["model_name"])
        prompts = {**known.prompts, **entry.get("prompts", {})}
        own = known.model_dump(exclude_unset=True)
        merged[entry["id"]] = own | entry | {"model_name": known.model_name, "prompts": prompts}
    if len(merged) < len(entries):
        raise ConfigError(["two models have one name; give each its own served model name"])
    return _specs(Path("the environment"), {"models": merged})


def _named(specs: list[ModelSpec], name: str) -> ModelSpec:
    return next((s for s in specs if s.answers_to(name)), ModelSpec(id=name, model_name=name))


def _with(specs: list[ModelSpec], name: str) -> list[ModelSpec]:
    spec = _named(specs, name)
    return specs if spec in specs else [*specs, spec]


def _default(settings: ModelSettings, specs: list[ModelSpec], content: dict[str, Any]) -> str:
    listed = settings.supported_models or settings.given_models
    wanted = settings.model or (None if listed else content.get("default"))
    if wanted is None:
        return specs[0].id
    chosen = next((s.id for s in specs if s.answers_to(wanted)), None)
    if chosen is None:
        known = ", ".join(s.id for s in specs)
        raise ConfigError([f"{settings.model_config_file}: default={wanted!r}: one of {known}"])
    return chosen
