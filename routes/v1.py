"""OpenAI's embeddings API: `/v1/embeddings` and `/v1/models`."""

from functools import partial

from auth import shown
from context import services
from embedders.base import DENSE, Input
from errors import BadRequest, NotFound
from routes.embed import BYTES, ERRORS, bytes_reply, facts_headers, run, take
from routes.table import Reply, Route
from schemas.embed import Wanted
from schemas.known import check_limit
from schemas.openai import (
    OpenAIBody,
    OpenAIModelReply,
    OpenAIModelsReply,
    OpenAIReply,
    form_of,
    normalize_of,
    openai_reply,
    options_of,
)
from serving.model import Model

# OpenAI's clients need a number, and the service does not know when a model was made.
CREATED = 1_700_000_000
OpenAI = partial(Route, access="embed", tag="openai", any_page=True, dialect="openai")


@OpenAI("POST", "/v1/embeddings", works=True, large=True, errors=ERRORS, other=BYTES)
def embeddings(body: OpenAIBody) -> Reply[OpenAIReply] | Reply[bytes]:
    """Embed text or token ids, as OpenAI's API does."""
    inputs = list(body.inputs)
    _check_token_ids(inputs)
    taken = take(body.model, DENSE)
    most = taken[1].facts.max_tokens
    check_limit("truncate_prompt_tokens", body.truncate_prompt_tokens, most)
    form, options = form_of(body), options_of(body, services().engine.truncate)
    try:
        wanted = Wanted(form=form, normalize=normalize_of(body))
        result = run(inputs, body.model, options, wanted, taken)
    except BadRequest as refused:
        # The engine knows a field by one name; the caller may have sent another.
        field = next(iter(body.given(refused.param)), None)
        if field is None or refused.message.startswith(field):
            raise
        raise BadRequest(f"{field}: {refused.message}", param=field) from None
    if form.encoding == "bytes":
        return bytes_reply(result, result.vectors, form)
    name = shown(result.model.spec.id) if body.model is None else body.model
    reply = openai_reply(result.vectors, form, name, result.tokens)
    return Reply(reply, headers=facts_headers(result))


@OpenAI("GET", "/v1/models")
def list_models() -> OpenAIModelsReply:
    """List the models that can be asked for."""
    models = services().engine.registry.models.values()
    return {"object": "list", "data": [_model(m) for m in models if m.state != "unavailable"]}


@OpenAI("GET", "/v1/models/<path:name>", errors=(404,))
def get_model(name: str) -> OpenAIModelReply:
    """Describe one model."""
    return _model(find(name))


def find(name: str) -> Model:
    """Return the model that a path names. Raises NotFound."""
    registry = services().engine.registry
    if name not in registry.names:
        known = ", ".join(map(shown, registry.models))
        raise NotFound(f"unknown model {name[:128]!r}; available: {known}", param="model")
    return registry.get(name)


def _check_token_ids(inputs: list[Input]) -> None:
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
        "id": shown(model.spec.id),
        "object": "model",
        "created": CREATED,
        "owned_by": shown(model.spec.model_name).partition("/")[0],
        "prompts": sorted(name for name, text in prompts.items() if text),
    }
