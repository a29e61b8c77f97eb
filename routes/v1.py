"""OpenAI's embeddings API: `/v1/embeddings` and `/v1/models`."""

from typing import Any

from auth import shown
from context import services
from embedders.base import Input
from errors import BadRequest, NotFound
from routes.embed import facts_headers, run
from routes.table import Reply, route
from schemas import (
    OpenAIBody,
    OpenAIReply,
    dump_openai,
    form_of,
    normalize_of,
    options_of,
    sent_as,
)
from schemas.status import OpenAIModelReply, OpenAIModelsReply
from serving.registry import Model

ERRORS = (400, 413, 415, 422, 429, 503, 504)
# When the service started serving a model is not kept; OpenAI's clients need a number.
CREATED = 1_700_000_000


@route("POST", "/v1/embeddings", access="embed", any_page=True, large=True, body=OpenAIBody,
       reply=OpenAIReply, dialect="openai", errors=ERRORS, tag="openai")  # fmt: skip
def embeddings(body: OpenAIBody) -> Reply:
    """Embed text or token ids, as OpenAI's API does."""
    inputs = list(body.inputs)
    _check_token_ids(inputs)
    _check_limit(body)
    form, options = form_of(body), options_of(body, services().engine.truncate)
    try:
        result = run(inputs, body.model, options, normalize_of(body), form)
    except BadRequest as refused:
        raise _by_its_name(refused, body) from None
    name = result.model.spec.id if body.model is None else body.model
    reply = dump_openai(result.vectors, form, name, result.tokens)
    return Reply(reply, headers=facts_headers(result))


@route("GET", "/v1/models", access="embed", any_page=True, reply=OpenAIModelsReply,
       dialect="openai", tag="openai")  # fmt: skip
def list_models() -> dict[str, Any]:
    """List the models that can be asked for."""
    models = services().engine.registry.models.values()
    return {"object": "list", "data": [_model(m) for m in models if m.state != "unavailable"]}


@route("GET", "/v1/models/<path:name>", access="embed", any_page=True, reply=OpenAIModelReply,
       dialect="openai", errors=(404,), tag="openai")  # fmt: skip
def get_model(name: str) -> dict[str, Any]:
    """Describe one model."""
    return _model(find(name))


def _check_token_ids(inputs: list[Input]) -> None:
    """Refuse token ids where they are not wanted: another vocabulary's cannot always be told."""
    refused = services().settings.current.token_ids == "refuse"  # nosec B105
    if refused and not all(isinstance(given, str) for given in inputs):
        raise BadRequest(
            "this service takes no token ids (TOKEN_IDS=refuse): send texts (in LangChain: "
            "check_embedding_ctx_length=False)",
            param="input",
        )


def _check_limit(body: OpenAIBody) -> None:
    """Refuse a limit of tokens below the model's own, at which everything is cut."""
    asked = body.truncate_prompt_tokens
    if asked is None or asked == -1:
        return
    most = services().engine.registry.get(body.model).loaded.facts.max_tokens
    if most is None or asked < most:
        valid = "-1" if most is None else f"-1, or {most} and more"
        raise BadRequest(
            f"truncate_prompt_tokens: {asked} is refused: inputs are cut at the model's limit "
            f"only; send {valid}",
            param="truncate_prompt_tokens",
        )


def _by_its_name(refused: BadRequest, body: OpenAIBody) -> BadRequest:
    """Name the field that the caller sent, where the engine refuses what it means."""
    field = sent_as(body, refused.param)
    if field is None or refused.message.startswith(field):
        return refused
    return BadRequest(f"{field}: {refused.message}", param=field)


def find(name: str) -> Model:
    """Return the model of a path. Raises NotFound, which is what a path's unknown name is."""
    registry = services().engine.registry
    if name not in registry.names:
        known = ", ".join(map(shown, registry.models))
        raise NotFound(f"unknown model {name[:128]!r}; available: {known}", param="model")
    return registry.get(name)


def _model(model: Model) -> dict[str, Any]:
    owner = shown(model.spec.model_name).partition("/")[0]
    prompts = (
        sorted(name for name, text in model.facts.prompts.items() if text) if model.facts else []
    )
    return {
        "id": shown(model.spec.id),
        "object": "model",
        "created": CREATED,
        "owned_by": owner,
        "prompts": prompts,
    }
