"""vLLM's own routes: `/pooling`, `/score`, `/v1/score`, and `/tokenize` and `/detokenize`."""

import json
import time
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from flask import g

from context import services
from embedders.base import DENSE, Facts, Input, Output, Pair, Vectors
from engine import Embedded
from errors import BadRequest, TooLarge, WrongKind
from routes.dialects.openai import UNION, check_token_ids
from routes.embed import (
    BYTES,
    ERRORS,
    admit,
    facts_headers,
    known_name,
    placed,
    request_of,
    run,
    take,
    told_name,
)
from routes.table import Reply, Route
from schemas.embed import Options, Wanted
from schemas.forms import numbers, ordered, written_matrices
from schemas.openai import Usage
from schemas.vllm import (
    OfVLLM,
    Pooled,
    PoolingBody,
    PoolingReply,
    ScoreBody,
    ScoreReply,
    Task,
    VllmDetokenizeBody,
    VllmDetokenizeReply,
    VllmTokenizeBody,
    VllmTokenizeReply,
)
from serving.results import cosines, finish
from serving.selection import SCORE, Taken

# What a model is for, by its kind: any other gives vectors.
TASKS: dict[str, Task] = {
    "multi_vector": "token_embed", "reranker": "classify", "classifier": "classify",
}  # fmt: skip
TOKENS: tuple[Output, ...] = ("tokens",)
MULTI: tuple[Output, ...] = ("multi_vector",)
TOKEN, STRING = 8, 16  # bytes of a token's id in a reply, and of its text
LONGEST_HEADER = 8_000  # bytes, as aiohttp reads them

VLLM = partial(
    Route, access="embed", tag="vllm", works=True, large=True, any_page=True, errors=ERRORS,
    dialect=UNION,
)  # fmt: skip


# -- pooling -----------------------------------------------------------------------------------


@VLLM("POST", "/pooling", other=BYTES)
def pooling(body: PoolingBody) -> Reply[PoolingReply] | Reply[bytes]:
    """Return what a model makes of texts: a vector, the vectors of the tokens, or scores."""
    inputs = body.inputs
    check_token_ids(inputs)
    task = body.task or _task(body.model)
    if task != "embed" and body.dimensions is not None:
        raise BadRequest(f"dimensions: it is of vectors, and not for {task}", param="dimensions")
    made = {"embed": _embed, "token_embed": _embed_tokens, "classify": _classify}[task]
    result, rows = made(body, inputs)
    if body.form.encoding == "bytes":
        return _bytes(body, result, rows)
    data: list[Pooled] = [
        {"index": index, "object": "pooling", "data": row}
        for index, row in enumerate(written_matrices(rows, body.form))
    ]
    reply: PoolingReply = {
        "id": f"pool-{g.request_id}", "object": "list", "created": int(time.time()),
        "model": told_name(body.model, result), "data": data, "usage": _usage(result.tokens),
    }  # fmt: skip
    return Reply(reply, headers=facts_headers(result))


Made = tuple[Embedded, list[Vectors]]


def _task(name: str | None) -> Task:
    """Return what a model is for."""
    facts = _facts(name)
    return "embed" if facts is None else TASKS.get(facts.kind, "embed")


def _facts(name: str | None) -> Facts | None:
    """Return the facts of a model, loaded where it never was; None where it is not known."""
    registry, known = services().engine.registry, known_name(name)
    model = registry.default if known is None else registry.find(known)
    return None if model is None else model.facts or registry.take(model, g.deadline).facts


def _embed(body: PoolingBody, inputs: list[Input]) -> Made:
    wanted = Wanted(form=body.form, normalize=body.use_activation is not False)
    options = _options(body, dimensions=body.dimensions)
    result = run(inputs, body.model, options, wanted, max_tokens=body.most_tokens)
    return result, list(result.vectors)


def _embed_tokens(body: PoolingBody, inputs: list[Input]) -> Made:
    """Return the states of all tokens, or of a model that has them the vectors of its tokens."""
    facts = _facts(body.model)
    outputs = MULTI if facts is not None and "multi_vector" in facts.outputs else TOKENS
    taken = take(body.model, outputs)
    if outputs == MULTI and body.use_activation is False:
        raise BadRequest(
            "use_activation: this model's vectors of tokens have length 1; leave it out",
            param="use_activation",
        )
    wanted = Wanted(outputs, body.form)
    result = run(inputs, body.model, _options(body), wanted, taken, max_tokens=body.most_tokens)
    rows = [row for row in result.columns[outputs[0]] if isinstance(row, np.ndarray)]
    if outputs == TOKENS and body.use_activation is not False:
        rows = [finish(row, None, normalize=True) for row in rows]
    return result, rows


def _classify(body: PoolingBody, inputs: list[Input]) -> Made:
    texts = [each for each in inputs if isinstance(each, str)]
    if len(texts) < len(inputs):
        raise BadRequest("input: token ids cannot be classified; send texts", param="input")
    admit(len(texts), body.model)
    how = request_of(_options(body), model=known_name(body.model), max_tokens=body.most_tokens)
    result = services().engine.classify(texts, how, raw=body.use_activation is False)
    g.facts = {"model": result.model.spec.id, "texts": len(texts), "tokens": result.tokens}
    return result, list(result.scores)


def _options(body: OfVLLM, **given: Any) -> Options:
    return Options(truncate=body.truncate(services().engine.truncate), **given)


def _bytes(body: PoolingBody, result: Embedded, rows: list[Vectors]) -> Reply[bytes]:
    """Return the numbers of all inputs one after the other, and in a header where each one's are.

    Raises BadRequest where the header would be longer than clients read.
    """
    form = body.form
    parts = [ordered(numbers(row, form.dtype), form).tobytes() for row in rows]
    headers = {"Content-Type": BYTES, **facts_headers(result)}
    if body.encoding_format == "bytes":
        ends = np.cumsum([len(part) for part in parts]).tolist()
        items = [
            {
                "index": index, "embed_dtype": form.dtype,
                "endianness": body.endianness or "native",
                "start": end - len(part), "end": end, "shape": row.shape,
            }
            for index, (row, part, end) in enumerate(zip(rows, parts, ends, strict=True))
        ]  # fmt: skip
        told = {
            "id": f"pool-{g.request_id}", "created": int(time.time()),
            "model": told_name(body.model, result), "data": items, "usage": _usage(result.tokens),
        }  # fmt: skip
        headers["metadata"] = json.dumps(told, separators=(",", ":"))  # ASCII only
        if len(headers["metadata"]) > LONGEST_HEADER:
            raise BadRequest(
                f"encoding_format: the places of {len(rows)} inputs are too long for a header; "
                "send fewer inputs, or ask for bytes_only or base64",
                param="encoding_format",
            )
    return Reply(b"".join(parts), headers=headers)


def _usage(tokens: int) -> Usage:
    return {"prompt_tokens": tokens, "total_tokens": tokens}


# -- scores ------------------------------------------------------------------------------------


@VLLM("POST", "/score")
@VLLM("POST", "/v1/score")
def score(body: ScoreBody) -> Reply[ScoreReply]:
    """Score pairs: by a reranker, or by how alike the vectors of an embedding model are."""
    taken = _scorer(body.model)
    outputs = taken[1].facts.outputs
    if "score" in outputs:
        result, scores, tokens = _by_reranker(body, taken)
    else:
        _refuse_for_rerankers(body)
        by = _by_cosine if "dense" in outputs else _by_tokens
        result, scores, tokens = by(body, taken)
    count = len(body.second[1])
    g.facts = {"model": result.model.spec.id, "texts": count, "tokens": tokens}
    reply: ScoreReply = {
        "id": f"score-{g.request_id}", "object": "list", "created": int(time.time()),
        "model": told_name(body.model, result), "usage": _usage(tokens),
        "data": [{"index": i, "object": "score", "score": scores[i]} for i in range(count)],
    }  # fmt: skip
    return Reply(reply, headers=facts_headers(result))


Scored = tuple[Embedded, Vectors, int]  # with the score of each pair, (n,), and all tokens


def _scorer(name: str | None) -> Taken:
    """Return the model that scores; without a name a reranker, or else the default model."""
    if name is None:
        try:
            return take(None, SCORE)
        except WrongKind:
            pass
    facts = _facts(name)
    if facts is not None and facts.kind in ("reranker", "classifier"):
        return take(name, SCORE)
    return take(name, MULTI if facts is not None and facts.kind == "multi_vector" else DENSE)


def _by_reranker(body: ScoreBody, taken: Taken) -> Scored:
    """Score pairs as `/rerank` does: a sigmoid of the logits, or with `use_activation` false them.

    Raises BadRequest for the logits of a provider's model.
    """
    (_, queries), (field, documents) = body.first, body.second
    raw = body.use_activation is False
    if raw and taken[1].facts.device == "remote":
        raise BadRequest(
            "use_activation: this model runs at a provider, which gives no logits; leave it out",
            param="use_activation",
        )
    admit(len(documents), body.model, field)
    if len(queries) == 1:
        queries = queries * len(documents)
    pairs = [Pair(*texts) for texts in zip(queries, documents, strict=True)]
    how = request_of(
        _options(body, prompt=body.instruction), taken=taken, max_tokens=body.most_tokens
    )
    how = replace(how, max_document_tokens=body.max_tokens_per_doc or None)
    with placed(lambda at: _longer(body, at)):
        result = services().engine.classify(pairs, how, raw=raw)
    return result, result.scores[:, 0], result.tokens


def _by_cosine(body: ScoreBody, taken: Taken) -> Scored:
    queries, documents = body.first[1], body.second[1]
    names = [
        f"{field}.{at}" for field, texts in (body.first, body.second) for at in range(len(texts))
    ]
    with placed(lambda at: names[at]):
        result = run(
            [*queries, *documents], body.model, _options(body), Wanted(), taken,
            max_tokens=body.most_tokens, field=body.second[0],
        )  # fmt: skip
    ones, many = result.vectors[: len(queries)], result.vectors[len(queries) :]
    if len(ones) == 1:
        return result, cosines(ones[0], many), result.tokens
    alone = [cosines(one, other[None])[0] for one, other in zip(ones, many, strict=True)]
    return result, np.array(alone, np.float32), result.tokens


def _by_tokens(body: ScoreBody, taken: Taken) -> Scored:
    """Sum up, over the tokens of a query, how alike the most alike token of a document is."""
    made, tokens = [], 0
    for role, (field, texts) in (("query", body.first), ("document", body.second)):
        with placed((field + ".{}").format):
            result = run(
                texts, body.model, _options(body, input_type=role), Wanted(MULTI), taken,
                max_tokens=body.most_tokens, field=field,
            )  # fmt: skip
        made.append([row for row in result.columns["multi_vector"] if isinstance(row, np.ndarray)])
        tokens += result.tokens
    queries, documents = made
    pairs = zip(queries * len(documents) if len(queries) == 1 else queries, documents, strict=True)
    sums = [(query @ document.T).max(axis=1).sum() for query, document in pairs]
    return result, np.array(sums, np.float32), tokens


def _refuse_for_rerankers(body: ScoreBody) -> None:
    """Raise BadRequest for fields that only a reranker can honour."""
    for field in ("instruction", "max_tokens_per_doc"):
        if getattr(body, field):
            raise BadRequest(
                f"{field}: it is for rerankers, and this model is none; leave it out", param=field
            )


def _longer(body: ScoreBody, at: int) -> str:
    """Return the name of the longer text of a pair: the one at fault if the pair is too long."""
    (first, queries), (second, documents) = body.first, body.second
    place = at if len(queries) > 1 else 0
    is_query = len(queries[place]) > len(documents[at])
    return f"{first}.{place}" if is_query else f"{second}.{at}"


# -- tokens ------------------------------------------------------------------------------------


@VLLM("POST", "/tokenize", keys=("prompt", "messages"))
def tokenize(body: VllmTokenizeBody) -> Reply[VllmTokenizeReply]:
    """Return the ids of a text's tokens, none of them cut, as vLLM does."""
    text = body.prompt if body.messages is None else body.messages[0]
    field = "prompt" if body.messages is None else "messages"
    special = body.messages is None if body.add_special_tokens is None else body.add_special_tokens
    admit(1, body.model, field)
    most = services().config.max_reply_bytes // (TOKEN + (STRING if body.return_token_strs else 0))
    how = request_of(Options(prompt=""), model=known_name(body.model), most_tokens=most)
    with placed(lambda _: field):
        (tokens,) = services().engine.tokenize([text or ""], how, add_special_tokens=special)
    facts = _facts(body.model)
    reply: VllmTokenizeReply = {
        "count": len(tokens),
        "max_model_len": (facts.max_tokens if facts else None) or 0,
        "tokens": [token.id for token in tokens],
        "token_strs": [token.text for token in tokens] if body.return_token_strs else None,
    }
    return Reply(reply)


@VLLM("POST", "/detokenize")
def detokenize(body: VllmDetokenizeBody) -> VllmDetokenizeReply:
    """Return the text of token ids, that of special tokens included."""
    admit(1, body.model, "tokens")
    how = request_of(Options(), model=known_name(body.model))
    with placed(lambda _: "tokens"):
        (text,) = services().engine.detokenize([body.tokens], how, skip_special_tokens=False)
    if (size := len(text.encode())) > (limit := services().config.max_reply_bytes):
        raise TooLarge(f"the reply would have {size} bytes, and {limit} is the limit: send less")
    return {"prompt": text}
