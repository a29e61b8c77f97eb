"""The native embedding routes: one text, many texts, a text in the query string."""

from typing import Any

from flask import g

from context import services
from embedders.base import Input
from engine import Embedded, EmbedRequest
from errors import BadRequest, TooLarge
from routes.parse import client_gone
from routes.table import Reply, route
from schemas import EmbedBody, EmbedQuery, EmbedReply, Options, SingleQuery
from throttle import throttle

ERRORS = (400, 413, 415, 422, 429, 503, 504)


@route("POST", "/embed", access="embed", large=True, body=EmbedBody, query=EmbedQuery, reply=EmbedReply,
       errors=ERRORS, tag="embed")  # fmt: skip
def embed(body: EmbedBody, query: EmbedQuery) -> Reply:
    """Embed one text or many."""
    result = run(body.inputs, _one_model(body, query), body, body.normalize)
    return _reply(result, single=body.text is not None)


@route("POST", "/batch-embed", access="embed", large=True, body=EmbedBody, query=EmbedQuery, reply=EmbedReply,
       errors=ERRORS, tag="embed")  # fmt: skip
def batch_embed(body: EmbedBody, query: EmbedQuery) -> Reply:
    """Embed many texts."""
    result = run(body.inputs, _one_model(body, query), body, body.normalize)
    return _reply(result, single=False)


@route("POST", "/embed/single", access="embed", query=SingleQuery, reply=EmbedReply,
       errors=ERRORS, tag="embed")  # fmt: skip
def embed_single(query: SingleQuery) -> Reply:
    """Embed the text of the query string."""
    return _reply(run([query.text], query.model_id, Options(), None), single=True)


def run(
    inputs: list[Input] | list[str], model: str | None, options: Options, normalize: bool | None
) -> Embedded:
    """Embed for any dialect, and note for the log what it cost."""
    limit = services().settings.current.max_texts
    if len(inputs) > limit:
        raise TooLarge(
            f"{len(inputs)} inputs; the limit is {limit} a request: send several", param="input"
        )
    throttle().count_texts(len(inputs))
    g.facts = {"model": model, "texts": len(inputs)}
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
    return result


def facts_headers(result: Embedded) -> dict[str, str]:
    """What every embedding reply tells beside its vectors, whatever its dialect."""
    return {
        "X-Truncated-Inputs": str(result.truncated),
        "X-Embedding-Fingerprint": result.loaded.facts.fingerprint,
        "X-Cache": f"hits={result.hits}, misses={len(result.vectors) - result.hits}",
    }


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
        "model": result.model.spec.model_name,
        "count": len(vectors),
        "processing_time_ms": round(result.took_ms, 2),
    }
    if single:
        body["embedding"] = vectors[0]
    return Reply(body, headers=facts_headers(result))
