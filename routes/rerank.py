"""`POST /rerank`: documents in the order of how well they answer a query."""

from typing import Any, cast

import numpy as np
import orjson
from flask import g

from auth import shown
from context import services
from errors import BadRequest, ServiceError, TooLarge
from routes.embed import Embed, admit, facts_headers, named_model, request_of, take
from routes.table import Reply
from schemas.embed import EmbedQuery
from schemas.known import check_limit
from schemas.rerank import RerankBody, RerankReply, ScoredReply
from serving.selection import SCORE

RESULT = 64  # bytes of a result in a reply besides its document


@Embed("POST", "/rerank", large=True)
def rerank(body: RerankBody, query: EmbedQuery) -> Reply[RerankReply] | Reply[list[ScoredReply]]:
    """Score documents by how well they answer a query, and return them the best first."""
    documents, options = body.given, body.options(services().engine.truncate)
    raw, most, with_text = body.raw, body.most, body.with_text
    model = named_model(body.model, body.model_id, query.model_id)
    field = "documents" if body.texts is None else "texts"
    admit(len(documents), model, field)
    taken = take(model, SCORE)
    facts = taken[1].facts
    if raw and facts.device == "remote":
        raise BadRequest(
            "raw_scores: this model runs at a provider, which gives no raw scores; leave it out",
            param="raw_scores",
        )
    for limit in ("truncate_prompt_tokens", "max_tokens_per_doc"):
        check_limit(limit, getattr(body, limit), facts.max_tokens)
    how = request_of(options, model=model, taken=taken)
    try:
        result = services().engine.rerank(body.query, documents, how, raw=raw)
    except ServiceError as refused:
        if refused.index is not None:  # the engine calls any text an input
            refused.param = f"{field}.{refused.index}"
            refused.message = f"{refused.param}: {refused.message}"
            refused.index = None
        raise
    g.facts = {"model": result.model.spec.id, "texts": len(documents), "tokens": result.tokens}
    scores = result.scores[:, 0]  # float32, which the JSON writer gives its own digits
    best = np.argsort(-scores, kind="stable")[:most].tolist()
    texts = [documents[i] for i in best] if with_text else []
    _check_size(len(best), texts)
    name = "score" if body.texts is not None else "relevance_score"
    rows: list[Any] = [{"index": i, name: scores[i]} for i in best]
    headers = facts_headers(result)
    if body.texts is not None:
        for row, text in zip(rows, texts, strict=False):
            row["text"] = text
        return Reply(cast(list[ScoredReply], rows), headers=headers)
    for row, text in zip(rows, texts, strict=False):
        row["document"] = text if body.for_voyage else {"text": text}
    answer: RerankReply = {
        "id": g.request_id,
        "object": "rerank",
        "model": shown(result.model.spec.id) if model is None else model,
        "results": rows,
        "data": rows,
        "usage": {"prompt_tokens": result.tokens, "total_tokens": result.tokens},
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    }
    return Reply(answer, headers=headers)


def _check_size(count: int, texts: list[str]) -> None:
    """Raise TooLarge for more results than a reply may hold: each stands in it twice."""
    size = 2 * (RESULT * count + len(orjson.dumps(texts)))
    if size > (limit := services().config.max_reply_bytes):
        raise TooLarge(
            f"the reply would have about {size} bytes, and {limit} is the limit: send top_n, or "
            "leave return_documents out"
        )
