"""`POST /rerank` with `documents`, also at `/v1`, `/v2` and `/api`: one handler for the clients of
Cohere, Jina, Voyage, vLLM, Infinity, Xinference and LocalAI. TEI's `texts` are in `tei.py`, which
scores by `rank`.
"""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import orjson
from flask import g

from context import services
from embedders.base import Vectors
from engine import Embedded
from errors import BadRequest, TooLarge
from routes.dialects.ollama import OLLAMA
from routes.dialects.openai import UNION
from routes.embed import (
    ERRORS,
    admit,
    facts_headers,
    named_model,
    placed,
    request_of,
    take,
    told_name,
)
from routes.table import Reply, Route
from schemas.embed import EmbedQuery, ModelQuery, Options
from schemas.rerank import RerankBody, RerankMeta, RerankReply
from serving.results import activated
from serving.selection import SCORE, Taken

RESULT = 64  # bytes of a result in a reply besides its document


class Ranking(NamedTuple):
    """The scores of all documents, in their order, and the places of the best, the best first."""

    result: Embedded
    scores: Vectors  # (n,) float32
    best: list[int]


Rerank = partial(
    Route, access="embed", tag="rerank", works=True, large=True, any_page=True, errors=ERRORS,
    dialect=UNION,
)  # fmt: skip


@Rerank("POST", "/rerank")
def rerank(body: RerankBody, query: EmbedQuery) -> Reply[RerankReply]:
    """Score documents by how well they answer a query, and return them the best first."""
    return _answer(body, query.model_id, documents=True)


@Rerank("POST", "/v1/rerank")
def rerank_v1(body: RerankBody, query: ModelQuery) -> Reply[RerankReply]:
    """Score documents, as Jina, Voyage, vLLM and Cohere's API of version 1 do."""
    return _answer(body, query.model_id, documents=True)


@Rerank("POST", "/v2/rerank")
def rerank_v2(body: RerankBody, query: ModelQuery) -> Reply[RerankReply]:
    """Score documents, as Cohere's API of version 2 does."""
    return _answer(body, query.model_id, documents=False)


@Rerank("POST", "/api/rerank", dialect=OLLAMA)
def rerank_api(body: RerankBody) -> Reply[RerankReply]:
    """Score documents for Dify, which asks an Ollama so."""
    return _answer(body, documents=False, plain=True)


def _answer(
    body: RerankBody, model_id: str | None = None, *, documents: bool, plain: bool = False
) -> Reply[RerankReply]:
    """Rank a body's documents; `documents` says whether a result has its own if nothing else does.

    With `plain` it is a string.
    """
    model = named_model(body.model, body.model_id, model_id)
    options, most, raw = body.options(services().engine.truncate), body.most, body.raw
    asked = body.with_text
    admit(len(body.documents), model, "documents")
    taken = take(model, SCORE)
    limits = body.truncate_prompt_tokens, body.max_tokens_per_doc
    ranking = rank(body.query, body.documents, taken, options, raw=raw, most=most, limits=limits)
    result = ranking.result
    given = documents and not body.for_voyage if asked is None else asked
    texts = [body.documents[i] for i in ranking.best] if given else []
    _check_size(len(ranking.best), texts)
    rows: list[Any] = [
        {"index": i, "relevance_score": ranking.scores[i]} for i in ranking.best
    ]  # float32, which the JSON writer gives its own digits
    for row, text in zip(rows, texts, strict=False):
        row["document"] = text if plain or body.for_voyage else {"text": text}
    meta: RerankMeta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    if result.truncated:
        cut = f"{result.truncated} of the documents were too long for the model and were cut"
        meta["warnings"] = [cut]
    answer: RerankReply = {
        "id": g.request_id,
        "object": "rerank",
        "model": told_name(model, result),
        "results": rows,
        "data": rows,
        "usage": {"prompt_tokens": result.tokens, "total_tokens": result.tokens},
        "meta": meta,
    }
    return Reply(answer, headers=facts_headers(result))


def rank(
    query: str, documents: list[str], taken: Taken, options: Options, *,
    raw: bool = False, most: int | None = None, field: str = "documents",
    limits: tuple[int | None, int | None] = (None, None),
) -> Ranking:  # fmt: skip
    """Score the documents that a request has in this field: in 0..1, or with `raw` the logits.

    A model whose own activation leaves logits as they are (the ms-marco cross-encoders) gets a
    sigmoid too, as TEI, Cohere, Jina and Voyage give it: clients compare and cut by 0..1. A
    provider's scores are as it gives them. `best` has the places of the `most` best. `limits` are
    the most tokens of a pair, -1 for the model's own, and of a document. Raises what the engine
    raises, with a document's place in the field.
    """
    facts = taken[1].facts
    remote = facts.device == "remote"
    if raw and remote:
        raise BadRequest(
            "raw_scores: this model runs at a provider, which gives no raw scores; leave it out",
            param="raw_scores",
        )
    pair, document = (None if limit == -1 else limit for limit in limits)
    how = request_of(options, taken=taken)
    how = replace(how, max_tokens=pair, max_document_tokens=document)
    with placed(lambda index: f"{field}.{index}"):
        result = services().engine.rerank(query, documents, how, raw=True)
    g.facts = {"model": result.model.spec.id, "texts": len(documents), "tokens": result.tokens}
    # By the logits, which differ where a sigmoid of them is 1 for all.
    best = np.argsort(-result.scores[:, 0], kind="stable")[:most].tolist()
    if not raw and not remote:
        own = facts.activation
        made = activated(result.scores, "sigmoid" if own == "identity" else own)
        result = replace(result, columns={"score": made})
    return Ranking(result, result.scores[:, 0], best)


def _check_size(count: int, texts: list[str]) -> None:
    """Raise TooLarge for more results than a reply may hold: each stands in it twice."""
    size = 2 * (RESULT * count + len(orjson.dumps(texts)))
    if size > (limit := services().config.max_reply_bytes):
        raise TooLarge(
            f"the reply would have about {size} bytes, and {limit} is the limit: send top_n, or "
            "return_documents false"
        )
