"""The native embedding routes: one text, many texts, a text in the query string."""

from typing import Any

from flask import g

from auth import sees_all, shown
from context import services
from embedders.base import Input
from engine import Embedded, EmbedRequest
from errors import BadRequest, TooLarge
from rate_limits import throttle
from routes.parse import client_gone
from routes.table import Reply, route
from schemas import EmbedBody, EmbedQuery, EmbedReply, Options, SingleQuery
from schemas.packing import Form, width

ERRORS = (400, 413, 415, 422, 429, 503, 504)
JSON = Form()
ROW = 64  # bytes of a vector in a reply beside its numbers: `/v1` has three names and an index


@route("POST", "/embed", access="embed", any_page=True, large=True, body=EmbedBody,
       query=EmbedQuery, reply=EmbedReply, errors=ERRORS, tag="embed")  # fmt: skip
def embed(body: EmbedBody, query: EmbedQuery) -> Reply:
    """Embed one text or many."""
    result = run(body.inputs, _one_model(body, query), body, body.normalize)
    return _reply(result, single=body.text is not None)


@route("POST", "/batch-embed", access="embed", any_page=True, large=True, body=EmbedBody,
       query=EmbedQuery, reply=EmbedReply, errors=ERRORS, tag="embed")  # fmt: skip
def batch_embed(body: EmbedBody, query: EmbedQuery) -> Reply:
    """Embed many texts."""
    result = run(body.inputs, _one_model(body, query), body, body.normalize)
    return _reply(result, single=False)


@route("POST", "/embed/single", access="embed", any_page=True, query=SingleQuery, reply=EmbedReply,
       errors=ERRORS, tag="embed")  # fmt: skip
def embed_single(query: SingleQuery) -> Reply:
    """Embed the text of the query string."""
    return _reply(run([query.text], query.model_id, Options(), None), single=True)


def run(
    inputs: list[Input] | list[str],
    model: str | None,
    options: Options,
    normalize: bool | None,
    form: Form = JSON,
) -> Embedded:
    """Embed for any dialect, and note for the log what it cost."""
    limit = services().settings.current.max_texts
    if len(inputs) > limit:
        raise TooLarge(
            f"{len(inputs)} inputs; the limit is {limit} a request: send several", param="input"
        )
    throttle().count_texts(len(inputs))
    g.facts = {"model": model, "texts": len(inputs)}
    dimension = services().engine.registry.get(model).loaded.facts.dimension
    _check_reply(len(inputs), min(options.dimensions or dimension, dimension), form)
    result = services().engine.embed(
        EmbedRequest(
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
    )
    g.facts = {"model": result.model.spec.id, "texts": len(inputs), "tokens": result.tokens}
    _check_reply(len(inputs), result.vectors.shape[1], form)
    return result


def _check_reply(count: int, dimension: int, form: Form) -> None:
    """Refuse more than a reply holds; a remote model's dimension is 0 until it is known."""
    limit = services().config.max_reply_bytes
    most = int(limit / (dimension * width(form) + ROW))
    if count <= most:
        return
    other = int(limit / (dimension * width(form._replace(encoding="base64")) + ROW))
    hint = f" (in base64, which /v1/embeddings writes, {other})" if other > most else ""
    raise TooLarge(
        f"{count} vectors of {dimension} numbers are more than the {limit} bytes of a reply: send "
        f"at most {most} texts{hint}"
    )


def facts_headers(result: Embedded) -> dict[str, str]:
    """What every embedding reply tells beside its vectors, whatever its dialect.

    Where callers are told apart, none but an admin learns whether another sent a text before.
    """
    headers = {
        "X-Truncated-Inputs": str(result.truncated),
        "X-Embedding-Fingerprint": result.loaded.facts.fingerprint,
    }
    if sees_all() or not services().accounts.enabled:
        headers["X-Cache"] = f"hits={result.hits}, misses={len(result.vectors) - result.hits}"
    return headers


def _one_model(body: EmbedBody, query: EmbedQuery) -> str | None:
    named = {name for name in (body.model, body.model_id, query.model_id) if name is not None}
    if len(named) > 1:
        raise BadRequest("the body and ?model_id= name different models; name one", param="model")
    return named.pop() if named else None


def _reply(result: Embedded, *, single: bool) -> Reply:
    vectors = result.vectors
    body: dict[str, Any] = {
        "embeddings": vectors,
        "dimension": vectors.shape[1],
        "model": shown(result.model.spec.model_name),
        "count": len(vectors),
        "processing_time_ms": round(result.took_ms, 2),
    }
    if single:
        body["embedding"] = vectors[0]
    return Reply(body, headers=facts_headers(result))
