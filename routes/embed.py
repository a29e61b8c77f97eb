"""The native embedding routes: one text, many texts, a text in the query string."""

from collections.abc import Sequence
from functools import partial

from flask import g

from auth import sees_all, shown
from context import services
from embedders.base import Input
from engine import Embedded, EmbedRequest
from errors import BadRequest, TooLarge
from rate_limits import throttle
from routes.budget import client_gone
from routes.table import Reply, Route
from schemas.embed import EmbedBody, EmbedQuery, EmbedReply, Form, Options, SingleQuery

ERRORS = (400, 413, 415, 422, 429, 503, 504)
Embed = partial(Route, access="embed", tag="embed", works=True, any_page=True, errors=ERRORS)
JSON = Form()
ROW = 64  # bytes of a vector in a reply besides its numbers: `/v1` has three names and an index


@Embed("POST", "/embed", large=True)
def embed(body: EmbedBody, query: EmbedQuery) -> Reply[EmbedReply]:
    """Embed one text or many."""
    return _embed(body, query, single=body.text is not None)


@Embed("POST", "/batch-embed", large=True)
def batch_embed(body: EmbedBody, query: EmbedQuery) -> Reply[EmbedReply]:
    """Embed many texts."""
    return _embed(body, query, single=False)


@Embed("POST", "/embed/single")
def embed_single(query: SingleQuery) -> Reply[EmbedReply]:
    """Embed the text of the query string."""
    return _reply(run([query.text], query.model_id, Options(), None), single=True)


def _embed(body: EmbedBody, query: EmbedQuery, *, single: bool) -> Reply[EmbedReply]:
    named = {name for name in (body.model, body.model_id, query.model_id) if name is not None}
    if len(named) > 1:
        raise BadRequest("the body and ?model_id= name different models; name one", param="model")
    model = named.pop() if named else None
    return _reply(run(body.inputs, model, body, body.normalize), single=single)


def _reply(result: Embedded, *, single: bool) -> Reply[EmbedReply]:
    vectors = result.vectors
    body: EmbedReply = {
        "embeddings": vectors,
        "dimension": vectors.shape[1],
        "model": shown(result.model.spec.model_name),
        "count": len(vectors),
        "processing_time_ms": round(result.took_ms, 2),
    }
    if single:
        body["embedding"] = vectors[0]
    return Reply(body, headers=facts_headers(result))


def request_of(
    options: Options,
    inputs: Sequence[Input] = (),
    model: str | None = None,
    normalize: bool | None = None,
) -> EmbedRequest:
    """Return the engine's request, with the deadline and the caller of the HTTP request."""
    return EmbedRequest(
        inputs=inputs,
        model=model,
        normalize=normalize,
        dimensions=options.dimensions,
        truncate=options.truncate,
        prompt_name=options.prompt_name,
        prompt=options.prompt,
        role=options.input_type,
        deadline=g.deadline,
        gone=client_gone(),
    )


def run(
    inputs: Sequence[Input],
    model: str | None,
    options: Options,
    normalize: bool | None,
    form: Form = JSON,
) -> Embedded:
    """Embed the inputs of any dialect within the limits, and note the cost for the log line."""
    limit = services().settings.current.max_texts
    if len(inputs) > limit:
        raise TooLarge(
            f"{len(inputs)} inputs; the limit is {limit} a request: send several", param="input"
        )
    throttle().count_texts(len(inputs))
    g.facts = {"model": model, "texts": len(inputs)}
    dimension = services().engine.registry.get(model).loaded.facts.dimension
    _check_reply(len(inputs), min(options.dimensions or dimension, dimension), form)
    result = services().engine.embed(request_of(options, inputs, model, normalize))
    g.facts = {"model": result.model.spec.id, "texts": len(inputs), "tokens": result.tokens}
    # A remote model's dimension is 0 until its first reply.
    _check_reply(len(inputs), result.vectors.shape[1], form)
    return result


def _check_reply(count: int, dimension: int, form: Form) -> None:
    """Raise TooLarge for more vectors than a reply may hold."""
    limit = services().config.max_reply_bytes
    most = int(limit / (dimension * form.width + ROW))
    if count <= most:
        return
    other = int(limit / (dimension * form._replace(encoding="base64").width + ROW))
    hint = f" (in base64, which /v1/embeddings writes, {other})" if other > most else ""
    raise TooLarge(
        f"{count} vectors of {dimension} numbers are more than the {limit} bytes of a reply: send "
        f"at most {most} texts{hint}"
    )


def facts_headers(result: Embedded | None) -> dict[str, str]:
    """Return the headers of every embedding reply, whatever its dialect.

    Where callers have accounts, only an admin learns whether a text was cached.
    """
    if result is None:
        return {}
    headers = {
        "X-Truncated-Inputs": str(result.truncated),
        "X-Embedding-Fingerprint": result.loaded.facts.fingerprint,
    }
    if sees_all() or not services().accounts.enabled:
        headers["X-Cache"] = f"hits={result.hits}, misses={len(result.vectors) - result.hits}"
    return headers
