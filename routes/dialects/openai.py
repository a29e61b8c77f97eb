"""OpenAI's embeddings API, and the fields that its relatives' clients send: `/v1/embeddings`,
`/embeddings` and `/v1/models`. Also the error body that the SDKs of all of them read.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal, NotRequired, cast

from flask import request
from pydantic import ConfigDict
from typing_extensions import TypedDict

from auth import shown
from context import services
from embedders.base import DENSE, Input, Output, Vectors
from engine import Embedded
from errors import BadRequest, TooLarge
from routes.embed import (
    BYTES,
    ERRORS,
    bytes_reply,
    called,
    facts_headers,
    matrices_of,
    named_model,
    prompt_header,
    run,
    run_chunks,
    take,
    told_name,
)
from routes.models import cohere_model, find
from routes.table import Dialect, Failure, Reply, Route
from schemas.base import Numbers, Query, Rows, doc, optional
from schemas.embed import ModelQuery, Options, Wanted, check_form
from schemas.forms import Form, written, written_matrices
from schemas.openai import SAME, OpenAIBody, Usage, form_of, normalize_of, options_of
from schemas.service import CohereModelReply, UnionErrorReply
from serving.model import Model

TOKENS: tuple[Output, ...] = ("multi_vector",)
# OpenAI's clients need a number, and the service does not know when a model was made.
CREATED = 1_700_000_000
# What the User-Agent of OpenAI's clients has, whichever class of theirs it is.
LIBRARIES = ("OpenAI/Python", "OpenAI/JS")
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def _error(failure: Failure) -> tuple[int, UnionErrorReply]:
    """Return one body for every SDK: OpenAI's reads `error`, Voyage's and Jina's clients `detail`,
    Cohere's and TEI's `message`.
    """
    status, message = failure.status, failure.message
    # OpenAI's status for what is wrong in a body, and for too many inputs.
    if status == 422 or (isinstance(failure.exc, TooLarge) and failure.param in LISTS):
        status = 400
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return status, {
        "error": {
            "message": message, "type": kind, "param": failure.param, "code": failure.code
        },
        "message": message,
        "detail": message,
        "code": status,
        "type": kind,
    }  # fmt: skip


LISTS = {"input", "inputs", "texts", "documents", "text_1", "text_2"}  # of too many items
UNION = Dialect("union", _error, ("/v1/", "/v2/", "/embeddings", "/openai/"))
OpenAI = partial(Route, access="embed", tag="openai", any_page=True, dialect=UNION)


class OpenAIEmbedding(TypedDict):
    """One vector of an OpenAI reply."""

    object: Literal["embedding"]
    index: int
    embedding: NotRequired[Numbers | str]
    embeddings: NotRequired[
        Annotated[Rows | str, doc("With `return_multivector`: the vectors of the input's tokens.")]
    ]


class OpenAIReply(TypedDict):
    """Reply of `POST /v1/embeddings`."""

    object: Literal["list"]
    data: list[OpenAIEmbedding]
    model: str
    usage: Usage


class ModelsQuery(Query):
    """Query string of `GET /v1/models`; parameters that are not listed are ignored."""

    model_config = ConfigDict(extra="ignore")

    endpoint: str | None = optional("Only the models for this endpoint of Cohere's.")
    default_only: bool | None = optional(
        "`true`: only the model that a request without a model gets."
    )


class OpenAIModelReply(CohereModelReply):
    """One model, as the clients of OpenAI and of Cohere read it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    prompts: Annotated[list[str], doc("The names of its prompts that have a text.")]
    aliases: Annotated[list[str], doc("Other names it answers to.")]


class OpenAIModelsReply(TypedDict):
    """The models that a request can name."""

    object: Literal["list"]
    data: list[OpenAIModelReply]
    models: Annotated[list[OpenAIModelReply], doc("The same, for Cohere's clients.")]


def openai_reply(
    rows: Sequence[Any], model: str, tokens: int, *, matrices: bool = False
) -> OpenAIReply:
    """Return written vectors, or with `matrices` those of tokens, as OpenAI's reply."""
    name = "embeddings" if matrices else "embedding"
    data = [{"object": "embedding", "index": i, name: row} for i, row in enumerate(rows)]
    return {
        "object": "list",
        "data": cast(list[OpenAIEmbedding], data),
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


@OpenAI("POST", "/embeddings", works=True, large=True, errors=ERRORS, other=BYTES)
@OpenAI("POST", "/v1/embeddings", works=True, large=True, errors=ERRORS, other=BYTES)
@OpenAI("POST", "/openai/v1/embeddings", works=True, large=True, errors=ERRORS, other=BYTES)
def embeddings(body: OpenAIBody, query: ModelQuery) -> Reply[OpenAIReply] | Reply[bytes]:
    """Embed text or token ids, as OpenAI's API does."""
    return _answer(body, named_model(body.model, body.model_id, query.model_id))


@OpenAI("POST", "/openai/deployments/<path:name>/embeddings", works=True, large=True, errors=ERRORS,
        other=BYTES)  # fmt: skip
def deployment(body: OpenAIBody, name: str) -> Reply[OpenAIReply] | Reply[bytes]:
    """Embed with the model that the path names, as Azure's clients ask for a deployment."""
    return _answer(body, name)


def _answer(body: OpenAIBody, model: str | None) -> Reply[OpenAIReply] | Reply[bytes]:
    # A chunk that lost its end has another vector: a document is cut only where that is asked for.
    default = "error" if body.late_chunking else services().engine.truncate
    form, options = form_of(body), options_of(body, default)
    several = bool(body.return_multivector)
    _check_library(form, several)
    # The engine knows a field by one name; the caller may have sent another.
    sent = {name: next(iter(given)) for name in SAME if (given := body.given(name))}
    with called(**sent):
        result = _embedded(body, model, options, form)
    vectors: Sequence[Vectors] = matrices_of(result, form) if several else ()
    if form.encoding == "bytes":
        return bytes_reply(result, vectors[0] if several else result.vectors, form)
    rows = written_matrices(vectors, form) if several else written(result.vectors, form)
    name = told_name(model, result)
    reply = openai_reply(rows, name, result.tokens, matrices=several)
    if body.late_chunking:
        reply["usage"]["chunk_tokens"] = list(result.chunk_tokens)
    headers = {**facts_headers(result), **prompt_header(result, options)}
    return Reply(reply, headers=headers)


def _check_library(form: Form, several: bool) -> None:
    """Refuse base64 that OpenAI's own clients, which ask for it unasked, would read wrongly."""
    agent = request.headers.get("User-Agent", "")
    reads = form == Form("base64") and not several
    if form.encoding == "base64" and not reads and any(each in agent for each in LIBRARIES):
        raise BadRequest(
            'encoding_format: send "float": OpenAI\'s library asks for base64 by itself, and reads '
            "it as one vector of little-endian float32",
            param="encoding_format",
        )


def _embedded(body: OpenAIBody, model: str | None, options: Options, form: Form) -> Embedded:
    inputs = list(body.inputs)
    check_token_ids(inputs)
    outputs = TOKENS if body.return_multivector else DENSE
    check_form(form, outputs, len(inputs))
    wanted = Wanted(outputs, form, normalize_of(body))
    taken = take(model, outputs)
    if body.late_chunking:
        return run_chunks([body.texts], model, options, wanted, taken)
    return run(inputs, model, options, wanted, taken, max_tokens=body.most_tokens)


@OpenAI("GET", "/v1/models")
def list_models(query: ModelsQuery) -> OpenAIModelsReply:
    """List the models that can be asked for."""
    registry = services().engine.registry
    models = sorted(registry.models.values(), key=lambda model: model is not registry.default)
    rows = [_model(model) for model in models if model.state != "unavailable"]
    if query.endpoint is not None:
        rows = [row for row in rows if query.endpoint in row["endpoints"]]
    rows = rows[:1] if query.default_only else rows
    return {"object": "list", "data": rows, "models": rows}


@OpenAI("GET", "/v1/models/<path:name>", errors=(404,))
def get_model(name: str) -> OpenAIModelReply:
    """Describe one model."""
    return _model(find(name))


def check_token_ids(inputs: list[Input]) -> None:
    """Refuse token ids if TOKEN_IDS says so: they may be of another vocabulary."""
    refused = services().settings.current.token_ids == "refuse"  # nosec B105
    if refused and not all(isinstance(given, str) for given in inputs):
        raise BadRequest(
            "this service takes no token ids (TOKEN_IDS=refuse): send texts (in LangChain: "
            "check_embedding_ctx_length=False)",
            param="input",
        )


def _model(model: Model) -> OpenAIModelReply:
    prompts = model.facts.prompts if model.facts else {}
    return {
        **cohere_model(model),
        "id": shown(model.spec.id),
        "object": "model",
        "created": CREATED,
        "owned_by": shown(model.spec.model_name).partition("/")[0],
        "prompts": sorted(name for name, text in prompts.items() if text),
        "aliases": list(model.spec.aliases),
    }
