"""Hugging Face's text-embeddings-inference (TEI), and what `huggingface_hub` sends."""

import json
from collections.abc import Iterable, Sized
from functools import partial
from typing import Annotated, Any, Literal, cast

import numpy as np
import orjson
from flask import g
from typing_extensions import TypedDict

from auth import shown
from context import services
from embedders.base import Input, Sparse
from engine import Embedded
from errors import BadRequest, NotFinite, ServiceError, TooLarge, WrongKind
from rate_limits import throttle
from routes.budget import budget_of_request
from routes.dialects.openai import check_token_ids
from routes.dialects.rerank import rank
from routes.embed import (
    ERRORS,
    admit,
    facts_headers,
    known_name,
    named_model,
    placed,
    request_of,
    run,
    take,
)
from routes.models import ModelsRoute, describe
from routes.parse import body_of, read_json
from routes.table import Dialect, Failure, Reply, Route
from schemas.base import Numbers, Rows, doc
from schemas.embed import EmbedQuery, Options, Wanted
from schemas.service import InfoReply
from schemas.tei import (
    Parameters,
    Predictions,
    Ranked,
    RootBody,
    Shape,
    SimilarityParameters,
    SimpleToken,
    SparseValue,
    TeiBody,
    TeiDecodeBody,
    TeiEmbedBody,
    TeiPredictBody,
    TeiRerankBody,
    TeiSimilarityBody,
    TeiTokenizeBody,
    VertexBody,
    VertexReply,
)
from serving.model import Model
from serving.results import activated, cosines
from serving.selection import SCORE

LABEL, TOKEN, RANK = 64, 96, 48  # bytes of one in a reply, besides its text
TRUNCATED = "X-Truncated-Inputs"
POOLINGS = {"lasttoken": "last_token"}  # as TEI writes them
RootReply = Rows | list[list[SparseValue]] | list[Ranked] | Predictions | Numbers


# -- errors ----------------------------------------------------------------------------------------

ErrorType = Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]


class TeiErrorReply(TypedDict):
    """Every error of TEI's routes."""

    error: Annotated[str, doc("What is wrong, what is valid, and what to do.")]
    error_type: ErrorType


class Empty(BadRequest):
    """A list of inputs has none."""


def _error(failure: Failure) -> tuple[int, TeiErrorReply]:
    """Return TEI's status: 422 for a bad value or too many inputs, 424 where the model fails."""
    status, exc = failure.status, failure.exc
    kind: ErrorType = "Backend" if status >= 500 else "Validation"
    if isinstance(exc, WrongKind | NotFinite):
        status, kind = 424, "Backend"
    elif isinstance(exc, Empty):
        kind = "Empty"
    elif status in (429, 503):
        kind = "Overloaded" if status == 429 else "Unhealthy"
    elif isinstance(exc, BadRequest | TooLarge) and (exc.param or exc.index is not None):
        status = 422  # the body is understood, and a value in it is not allowed
    return status, {"error": failure.message, "error_type": kind}


PATHS = ("/embed_all", "/embed_sparse", "/predict", "/similarity", "/decode", "/invocations",
         "/vertex")  # fmt: skip
TEI = Dialect("tei", _error, PATHS)
Tei = partial(
    Route, access="embed", tag="tei", works=True, large=True, any_page=True, dialect=TEI,
    errors=(*ERRORS, 424),
)  # fmt: skip


# -- routes ----------------------------------------------------------------------------------------


@Tei("POST", "/embed", keys=("inputs",))
def embed(body: TeiEmbedBody, query: EmbedQuery) -> Reply[Rows]:
    """Embed texts or token ids, as TEI does: one vector for each, and nothing else."""
    wanted = Wanted(normalize=body.normalize)
    result = _run(body, query, wanted, dimensions=body.dimensions)
    return Reply(result.vectors, headers=_headers(result, body.several))


@Tei("POST", "/embed_all")
def embed_all(body: TeiBody, query: EmbedQuery) -> Reply[list[Rows]]:
    """Return the vectors of all tokens of each input, before they are pooled."""
    result = _run(body, query, Wanted(outputs=("tokens",)))
    rows = cast(list[Rows], list(result.columns["tokens"]))
    return Reply(rows, headers=_headers(result, body.several))


@Tei("POST", "/embed_sparse")
def embed_sparse(body: TeiBody, query: EmbedQuery) -> Reply[list[list[SparseValue]]]:
    """Return the sparse vector of each input, as a list of its terms."""
    # They take as much of a reply as terms that are written as text.
    result = _run(body, query, Wanted(outputs=("sparse",), terms=True))
    rows = [row for row in result.columns["sparse"] if isinstance(row, Sparse)]
    return Reply([_terms(row) for row in rows], headers=_headers(result, body.several))


@Tei("POST", "/rerank", keys=("texts",))
def rerank(body: TeiRerankBody, query: EmbedQuery) -> Reply[list[Ranked]]:
    """Score texts by how well they answer a query, and return a list of them, the best first."""
    _check_any(body.texts, "texts")
    model = named_model(body.model, query.model_id)
    admit(len(body.texts), model, "texts")
    options, how_many = body.options(services().engine.truncate), body.top_n or None
    ranking = rank(
        body.query, body.texts, take(model, SCORE), options, raw=body.raw_scores, most=how_many,
        field="texts",
    )  # fmt: skip
    rows: list[Any] = [{"index": at, "score": ranking.scores[at]} for at in ranking.best]
    if body.return_text:
        for row in rows:
            row["text"] = body.texts[row["index"]]
        _check_size(RANK * len(rows) + sum(len(orjson.dumps(row["text"])) for row in rows))
    return Reply(rows, headers=_headers(ranking.result, body.texts))


@Tei("POST", "/predict")
def predict(body: TeiPredictBody, query: EmbedQuery) -> Reply[Predictions]:
    """Classify texts, or pairs of texts: every label with its score, the highest first."""
    inputs, asked = body.several, body.parameters or Parameters()
    _check_any(inputs, "inputs")
    model = named_model(body.model, query.model_id)
    admit(len(inputs), model, "inputs")
    options, made = body.options(services().engine.truncate), asked.function_to_apply
    raw = body.raw_scores or made is not None
    result = services().engine.classify(
        inputs, request_of(options, model=known_name(model)), raw=raw
    )
    g.facts = {"model": result.model.spec.id, "texts": result.count, "tokens": result.tokens}
    labels, scores = result.loaded.facts.labels, result.scores
    if raw and result.loaded.facts.device == "remote":
        field = "parameters.function_to_apply" if made else "raw_scores"
        message = f"{field}: this model runs at a provider, which gives no raw scores; leave it out"
        raise BadRequest(message, param=field)
    if made is not None and made != "none":
        scores = activated(scores, made)
    most = min(asked.top_k or len(labels), len(labels))
    _check_size(len(scores) * most * (LABEL + max(map(len, labels))))
    rows: list[list[Any]] = [
        [{"score": row[at], "label": labels[at]} for at in np.argsort(-row, kind="stable")[:most]]
        for row in scores
    ]
    texts = ["".join(given) for given in inputs]
    # TEI answers what is alone with a flat list, of which huggingface_hub would read one label.
    flat = body.alone and body.parameters is None
    return Reply(rows[0] if flat else rows, headers=_headers(result, texts))


@Tei("POST", "/similarity")
def similarity(body: TeiSimilarityBody, query: EmbedQuery) -> Reply[Numbers]:
    """Compare a sentence with others: the cosine of their vectors for each."""
    _check_any(body.inputs.sentences, "inputs.sentences")
    how = body.parameters or SimilarityParameters()
    texts = [body.inputs.source_sentence, *body.inputs.sentences]
    model = named_model(body.model, query.model_id)
    options = how.options(services().engine.truncate, how.prompt_name)
    with placed(lambda at: f"inputs.sentences.{at - 1}" if at else "inputs.source_sentence"):
        result = run(texts, model, options, Wanted(normalize=False), field="inputs")
    found = cosines(result.vectors[0], result.vectors[1:])
    return Reply(found, headers=_headers(result, texts))


@Tei("POST", "/tokenize")
def tokenize(body: TeiTokenizeBody, query: EmbedQuery) -> Reply[list[list[SimpleToken]]]:
    """Return the tokens that a model reads of texts, none of them cut."""
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    _check_any(texts, "inputs")
    model = named_model(body.model, query.model_id)
    admit(len(texts), model, "inputs")
    options, most = (
        Options(prompt_name=body.prompt_name),
        services().config.max_reply_bytes // TOKEN,
    )
    how = request_of(options, model=known_name(model), most_tokens=most)
    found = services().engine.tokenize(texts, how, add_special_tokens=body.add_special_tokens)
    return Reply([[cast(SimpleToken, token._asdict()) for token in tokens] for tokens in found])


@Tei("POST", "/decode")
def decode(body: TeiDecodeBody, query: EmbedQuery) -> Reply[list[str]]:
    """Return the texts of token ids."""
    _check_any(body.ids, "ids")
    alone = isinstance(body.ids[0], int)
    lists = cast(list[list[int]], [body.ids] if alone else body.ids)
    model = named_model(body.model, query.model_id)
    admit(len(lists), model, "ids")
    how = request_of(Options(), model=known_name(model))
    skip = body.skip_special_tokens
    with placed(lambda at: "ids" if alone else f"ids.{at}"):
        texts = services().engine.detokenize(lists, how, skip_special_tokens=skip)
    _check_size(sum(len(orjson.dumps(text)) for text in texts))
    return Reply(texts)


@Tei("POST", "/invocations", optional_body=RootBody)
@Tei("POST", "/", optional_body=RootBody)
def root(query: EmbedQuery) -> Reply[RootReply]:
    """Embed, rerank, classify or compare: as the body asks, and as the model can."""
    return _by_body(read_json(), query)


@Tei("POST", "/vertex")
def vertex(body: VertexBody, query: EmbedQuery) -> Reply[VertexReply]:
    """Answer several bodies of `POST /`, one after the other, as Vertex AI sends them."""
    predictions: list[Any] = []
    texts = tokens = size = truncated = 0
    budget, most = budget_of_request(), services().settings.current.max_texts
    for at, instance in enumerate(body.instances):
        budget.check()
        try:  # a number is written as it came: orjson has none beyond 64 bits, and null for NaN
            answer = _by_body(json.dumps(instance, ensure_ascii=False).encode(), query)
        except ServiceError as refused:
            place = f"instances.{at}"
            if refused.index is not None:
                refused.param = place
            refused.message, refused.index = f"{place}: {refused}", None
            raise
        truncated += int(answer.headers[TRUNCATED])
        written = orjson.dumps(answer.body, option=orjson.OPT_SERIALIZE_NUMPY)
        predictions.append(orjson.Fragment(written))
        texts, tokens = texts + g.facts["texts"], tokens + g.facts["tokens"]
        if texts > most:
            raise TooLarge(
                f"instances: over {most} texts; at most {most} in one call: send several",
                param="instances",
            )
        size += len(written)
        _check_size(size)
    g.facts |= {"texts": texts, "tokens": tokens}
    return Reply({"predictions": predictions}, headers={TRUNCATED: str(truncated)})


@ModelsRoute("GET", "/info")
def info() -> InfoReply:
    """Describe the default model, also with the names that TEI has for its facts."""
    parts = services()
    model = parts.engine.registry.default
    facts, spec, held = model.facts, model.spec, model.held
    tokens = held.embedder.pass_tokens if held else None
    tei: Any = {
        "model_sha": facts.revision if facts else spec.revision,
        "model_dtype": facts.dtype if facts else spec.dtype,
        "served_model_name": shown(spec.id),
        "model_type": _model_type(model),
        "max_concurrent_requests": throttle().permits.most,
        "max_batch_tokens": parts.settings.current.max_batch_tokens or tokens,
        "max_batch_requests": spec.max_batch_size or parts.settings.current.max_batch_size,
        "auto_truncate": parts.engine.truncate != "error",
        "tokenization_workers": parts.config.threads,  # each request's thread reads its texts
        "sha": None,
        "docker_label": None,
    }
    return cast(InfoReply, {**describe(model), **tei})


# -- helpers ---------------------------------------------------------------------------------------


def _run(
    body: TeiBody, query: EmbedQuery, wanted: Wanted, dimensions: int | None = None
) -> Embedded:
    """Embed the inputs of a body."""
    inputs, model = body.several, named_model(body.model, query.model_id)
    _check_any(inputs, "inputs")
    check_token_ids(inputs)
    options = body.options(services().engine.truncate, body.prompt_name, dimensions)
    return run(inputs, model, options, wanted, field="inputs")


def _by_body(raw: bytes, query: EmbedQuery) -> Reply[Any]:
    """Answer a body of `POST /`, whose route its fields and its model's kind decide."""
    shape = body_of(Shape, raw)
    if shape.texts is not None:
        return rerank(body_of(TeiRerankBody, raw), query)
    if isinstance(shape.inputs, dict):
        return similarity(body_of(TeiSimilarityBody, raw), query)
    named = named_model(str(shape.model) if shape.model else None, query.model_id)
    registry = services().engine.registry
    model = registry.get(known_name(named))
    facts = model.facts or registry.take(model, g.deadline).facts
    if facts.kind in ("reranker", "classifier"):
        return predict(body_of(TeiPredictBody, raw), query)
    if facts.kind == "sparse":
        return embed_sparse(body_of(TeiBody, raw), query)
    return embed(body_of(TeiEmbedBody, raw), query)


def _model_type(model: Model) -> dict[str, Any]:
    """Return TEI's `model_type`: its one key says what the model is, and Dify goes by it."""
    facts = model.facts
    kind = facts.kind if facts else model.spec.type
    if kind in ("reranker", "classifier"):
        labels = list(enumerate(facts.labels if facts else ()))
        named = {str(at): label for at, label in labels}
        return {kind: {"id2label": named, "label2id": {label: at for at, label in labels}}}
    own = str(facts.pooling) if facts and facts.pooling else "none"
    pooling = "splade" if kind == "sparse" else POOLINGS.get(own, own)
    return {"embedding": {"pooling": pooling}}


def _terms(row: Sparse) -> list[SparseValue]:
    pairs = zip(row.indices.tolist(), row.values, strict=True)
    return [{"index": index, "value": value} for index, value in pairs]


def _check_any(inputs: Sized, field: str) -> None:
    """Raise Empty for a list without any input."""
    if not len(inputs):
        raise Empty(f"`{field}` cannot be empty", param=field)


def _check_size(size: int) -> None:
    """Raise TooLarge for a reply of more bytes than it may have."""
    if size > (limit := services().config.max_reply_bytes):
        raise TooLarge(
            f"the reply would have about {size} bytes, and {limit} is the limit: send less at once"
        )


def _headers(result: Embedded, inputs: Iterable[Input]) -> dict[str, str]:
    """Return the headers of TEI's replies, and our own; the times are milliseconds."""
    device = result.loaded.facts.device
    return {
        **facts_headers(result),
        "x-compute-type": "gpu" if device.startswith("cuda") else device,
        "x-compute-time": str(round(result.took_ms)),
        "x-compute-characters": str(sum(map(len, inputs))),
        "x-compute-tokens": str(result.tokens),
    }
