"""Ollama's API: `/api/embed`, `/api/embeddings`, and what its clients ask about the models."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from flask import g, request

import embedders
from auth import sees_all, shown
from context import services
from embedders.base import DENSE, Truncate
from embedders.files import Files
from errors import NotFound, UnknownModel
from routes.embed import ERRORS, admit, facts_headers, known_name, run, take
from routes.table import Dialect, Failure, Reply, Route
from schemas.embed import Options, Wanted
from schemas.ollama import (
    OfModel,
    OllamaDetails,
    OllamaEmbedBody,
    OllamaEmbedReply,
    OllamaErrorReply,
    OllamaModel,
    OllamaModelsReply,
    OllamaPromptBody,
    OllamaPromptReply,
    OllamaPullReply,
    OllamaRunning,
    OllamaRunningReply,
    OllamaShowBody,
    OllamaShowReply,
    OllamaVersionReply,
)
from serving.model import Model
from serving.selection import Taken

# The version of Ollama whose API this is: clients compare it with the one that they need.
VERSION = "0.33.0"
# What no client can read as a fact, where there is none: of a model that runs at a provider, or
# that was never loaded. Ollama's own command cuts digests to 12 characters.
NO_DIGEST, NO_TIME = "0" * 64, "1970-01-01T00:00:00Z"
FOREVER = "2300-01-01T00:00:00Z"  # Ollama's command writes what is so far away as "Forever"
CENTURY_S = 100 * 365 * 86400
NS = 1_000_000_000
NOT_HERE = {
    "/api/generate", "/api/chat", "/api/create", "/api/copy", "/api/push", "/api/delete", "/api/me",
}  # fmt: skip
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}  # as Ollama writes them


def _error(failure: Failure) -> tuple[int, OllamaErrorReply]:
    status, message = failure.status, failure.message
    if failure.code == "input_too_long":
        message = f"the input length exceeds the context length: {message}"
    if status == 404 and request.path in NOT_HERE:
        status = 400  # Ollama's for what a model cannot do
        message = (
            f"{request.path} is not here: this service embeds texts (POST /api/embed) and reranks "
            "them (POST /api/rerank). It generates no text and no images, and a request cannot "
            "change its models (GET /api/tags lists them)"
        )
    return 400 if status == 422 else status, {"error": message}


OLLAMA = Dialect("ollama", _error, ("/api/",), any_type=True)  # its docs call curl without a type
ANSWERED = tuple(status for status in ERRORS if status != 422)  # which is 400 here
Ollama = partial(Route, access="embed", tag="ollama", any_page=True, dialect=OLLAMA)
Embeds = partial(Ollama, works=True, large=True, errors=(*ANSWERED, 404))


# -- vectors -----------------------------------------------------------------------------------


@Embeds("POST", "/api/embed")
def embed(body: OllamaEmbedBody) -> Reply[OllamaEmbedReply]:
    """Embed texts, as Ollama does."""
    taken, load_ns = _taken(body, body.input)
    name = known_name(body.model) or shown(taken[0].spec.id)
    none: Any = []
    reply: OllamaEmbedReply = {
        "model": name, "embeddings": none, "total_duration": 0, "load_duration": load_ns,
        "prompt_eval_count": 0,
    }  # fmt: skip
    result = None
    if body.input:
        wanted = Wanted(normalize=True)
        result = run(body.input, body.model, _options(body), wanted, taken, max_tokens=body.num_ctx)
        reply["embeddings"], reply["prompt_eval_count"] = result.vectors, result.tokens
    _keep(taken[0], body.keep_alive)
    reply["total_duration"] = int((time.monotonic() - g.started) * NS)
    return Reply(reply, headers=facts_headers(result))


@Embeds("POST", "/api/embeddings")
def embed_prompt(body: OllamaPromptBody) -> Reply[OllamaPromptReply]:
    """Embed one text, as Ollama's older clients ask: the vector is not scaled to length 1."""
    taken, _ = _taken(body, body.prompt)
    vector: Any = []
    result = None
    if body.prompt:
        result = run(
            [body.prompt], body.model, _options(body), Wanted(normalize=False), taken,
            max_tokens=body.num_ctx, field="prompt",
        )  # fmt: skip
        vector = result.vectors[0]
    _keep(taken[0], body.keep_alive)
    return Reply({"embedding": vector}, headers=facts_headers(result))


def _taken(body: OfModel, given: Sequence[str] | None) -> tuple[Taken, int]:
    """Return a body's model, which is loaded if need be, and how many ns that took.

    A body without a text only loads it, and counts as one text.
    """
    if not given:
        admit(1, body.model)
    began = time.monotonic_ns()
    try:
        taken = take(body.model, DENSE)
    except UnknownModel:
        raise _not_found(body.model or "") from None
    return taken, time.monotonic_ns() - began


def _keep(model: Model, keep_s: float | None) -> None:
    """Take an admin's wish for when a model is unloaded, after it was used.

    It is the same for all callers, so that of any other, or of a page, changes nothing.
    """
    if keep_s is not None and sees_all():
        model.keep(keep_s)


def _options(body: OfModel) -> Options:
    truncate: Truncate | None = None  # what the service does
    if body.truncate is not None:
        default = services().engine.truncate
        cut = "auto" if default == "error" else default
        truncate = cut if body.truncate else "error"
    return Options(truncate=truncate, dimensions=body.dimensions or None)


def _not_found(name: str) -> NotFound:
    known = ", ".join(map(shown, services().engine.registry.models))
    return NotFound(f"model '{name[:128]}' not found; this service has {known}", param="model")


# -- models ------------------------------------------------------------------------------------


@Ollama("GET", "/api/tags")
def tags() -> OllamaModelsReply:
    """List the models, each by its id and its aliases, in the form of Ollama's."""
    models = services().engine.registry.models.values()
    present = (model for model in models if model.state != "unavailable")
    return {
        "models": [
            _row(model, name, files)
            for model in present
            for files in (_files(model),)
            for name in _names(model)
        ]
    }


@Ollama("GET", "/api/ps")
def running() -> OllamaRunningReply:
    """List the models that are in memory, in the form of Ollama's."""
    models = services().engine.registry.models.values()
    return {"models": [_running(model) for model in models if model.state == "ready"]}


@Ollama("POST", "/api/show", errors=(400, 404, 415))
def show(body: OllamaShowBody) -> OllamaShowReply:
    """Describe a model, in the form of Ollama's."""
    model = _find(body.named)
    files = _files(model)
    row = _row(model, body.named, files)
    details = row["details"]
    family = details["family"]
    info: dict[str, str | int] = {"general.architecture": family}
    if files and files.parameters:
        info["general.parameter_count"] = files.parameters
    for name, value in (
        ("context_length", details["context_length"]),
        ("embedding_length", details["embedding_length"]),
    ):
        if value:
            info[f"{family}.{name}"] = value
    return {
        "modified_at": row["modified_at"], "details": details, "model_info": info,
        "capabilities": row["capabilities"],
    }  # fmt: skip


@Ollama("POST", "/api/pull", errors=(400, 404, 415))
def pull(body: OllamaShowBody) -> OllamaPullReply:
    """Say that a model is here: nothing is ever pulled by a request."""
    _find(body.named)
    return {"status": "success"}


@Route("GET", "/api/version", access="public", tag="ollama", any_page=True, counted=False,
       probe=True, dialect=OLLAMA)  # fmt: skip
def version() -> OllamaVersionReply:
    """Return the version of Ollama whose API this is."""
    return {"version": VERSION}


def _find(name: str) -> Model:
    """Return a model by its name. Raises NotFound."""
    try:
        return services().engine.registry.get(known_name(name))
    except UnknownModel:
        raise _not_found(name) from None


def _names(model: Model) -> list[str]:
    """Return the names under which Ollama's clients find a model: each has a tag."""
    names = [shown(model.spec.id), *model.spec.aliases]
    tagged = (name if ":" in name.rpartition("/")[2] else f"{name}:latest" for name in names)
    return list(dict.fromkeys(tagged))


def _files(model: Model) -> Files | None:
    return embedders.files_of(model.spec, model.settings)


def _row(model: Model, name: str, files: Files | None) -> OllamaModel:
    """Return what is known of a model: by its facts once it was loaded, and by its files."""
    facts = model.facts
    return {
        "name": name,
        "model": name,
        "modified_at": _time(files.modified) if files else NO_TIME,
        "size": files.size if files else 0,
        "digest": facts.fingerprint if facts else NO_DIGEST,
        "details": _details(model, files),
        "capabilities": ["embedding"] if _embeds(model) else [],
    }


def _details(model: Model, files: Files | None) -> OllamaDetails:
    spec, facts = model.spec, model.facts
    family = files.network if files else ""
    family = family or spec.type  # a provider's name is its family
    return {
        "parent_model": "",
        "format": "safetensors" if files else "",
        "family": family,
        "families": [family],
        "parameter_size": _size(files.parameters) if files and files.parameters else "",
        "quantization_level": DTYPES.get(facts.dtype, "") if facts else "",
        "context_length": (facts.max_tokens if facts else spec.max_seq_length) or 0,
        "embedding_length": (facts.dimension if facts else spec.dimensions) or 0,
    }


def _embeds(model: Model) -> bool:
    """Whether a model gives vectors. Before its files are read, a model of no type is said to."""
    if model.facts is not None:
        return "dense" in model.facts.outputs
    return model.spec.type not in ("reranker", "sparse", "multi_vector")


def _running(model: Model) -> OllamaRunning:
    facts, memory = model.facts, model.memory_bytes or 0
    row = _row(model, _names(model)[0], _files(model))
    on_gpu = facts is not None and facts.device.startswith("cuda")
    return {
        **row,
        "size": memory,
        "expires_at": _expires(model),
        "size_vram": memory if on_gpu else 0,
        "context_length": row["details"]["context_length"],
    }


def _expires(model: Model) -> str:
    """Return when a model is unloaded, as far as this worker knows: others may use it too."""
    idle_s = model.idle_unload_s
    if idle_s is None or idle_s > CENTURY_S:
        return FOREVER
    return _time(time.time() - (time.monotonic() - model.used_at) + idle_s)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _size(parameters: int) -> str:
    """Return a number of parameters as Ollama writes it: 23M, 7.6B."""
    if parameters >= 1e9:
        return f"{parameters / 1e9:.1f}B"
    return f"{parameters / 1e6:.0f}M" if parameters >= 1e6 else f"{parameters / 1e3:.0f}K"
