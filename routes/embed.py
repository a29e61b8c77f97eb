"""The native embedding routes: one text, many texts, a text in the query string."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import numpy as np
from flask import g
from numpy.typing import NDArray

from auth import sees_all, shown
from context import services
from embedders.base import DENSE, Input, Output, Sparse, Vectors
from engine import Embedded, EmbedRequest
from errors import BadRequest, ServiceError, TooLarge
from rate_limits import throttle
from routes.budget import client_gone
from routes.table import Reply, Route
from schemas.embed import EmbedBody, EmbedQuery, EmbedReply, Options, SingleQuery, Wanted
from schemas.forms import (
    OF_UNITS,
    Form,
    numbers,
    ordered,
    written,
    written_matrices,
    written_sparse,
)
from serving.results import finish
from serving.selection import Taken, select

ERRORS = (400, 413, 415, 422, 429, 503, 504)
BYTES = "application/octet-stream"
Embed = partial(Route, access="embed", tag="embed", works=True, any_page=True, errors=ERRORS)
VECTORS = Wanted()
ROW = 64  # bytes of a vector in a reply besides its numbers: `/v1` has three names and an index


@Embed("POST", "/embed", large=True, other=BYTES)
def embed(body: EmbedBody, query: EmbedQuery) -> Reply[EmbedReply] | Reply[bytes]:
    """Embed one text or many: dense vectors, sparse vectors, or the vectors of their tokens."""
    return _embed(body, query, single=body.text is not None)


@Embed("POST", "/batch-embed", large=True, other=BYTES)
def batch_embed(body: EmbedBody, query: EmbedQuery) -> Reply[EmbedReply] | Reply[bytes]:
    """Embed many texts."""
    return _embed(body, query, single=False)


@Embed("POST", "/embed/single", other=BYTES)
def embed_single(query: SingleQuery) -> Reply[EmbedReply] | Reply[bytes]:
    """Embed the text of the query string."""
    wanted = Wanted.of(query, 1, top_n=query.top_n, min_weight=query.min_weight)
    return _reply(run([query.text], query.model_id, Options(), wanted), wanted, single=True)


def _embed(body: EmbedBody, query: EmbedQuery, *, single: bool) -> Reply[EmbedReply] | Reply[bytes]:
    inputs = body.inputs
    wanted = Wanted.of(
        body, len(inputs), normalize=body.normalize, dimensions=body.dimensions, top_n=body.top_n,
        min_weight=body.min_weight,
    )  # fmt: skip
    model = named_model(body.model, body.model_id, query.model_id)
    return _reply(run(inputs, model, body, wanted), wanted, single=single)


def named_model(*names: str | None) -> str | None:
    """Return the model that a request names, if it does. Raises BadRequest if it names two."""
    named = {name for name in names if name is not None}
    if len(named) > 1:
        raise BadRequest(
            "model, model_id and ?model_id= name different models; name one", param="model"
        )
    return named.pop() if named else None


def _reply(result: Embedded, wanted: Wanted, *, single: bool) -> Reply[EmbedReply] | Reply[bytes]:
    form, columns = wanted.form, result.columns
    if form.encoding == "bytes":
        array = result.vectors if "dense" in columns else matrices_of(result, form)[0]
        return bytes_reply(result, array, form)
    body: dict[str, Any] = {}
    if "dense" in columns:
        plain = form == Form()  # the JSON writer takes a whole matrix at once
        rows: Any = result.vectors if plain else written(result.vectors, form)
        body["embeddings"] = rows
        if single:
            body["embedding"] = rows[0]
    if "sparse" in columns:
        terms = result.loaded.embedder.terms if wanted.terms else None
        body["sparse"] = written_sparse(_sparse(result), form, terms)
    if "multi_vector" in columns:
        body["multi_vector"] = written_matrices(matrices_of(result, form), form)
    if width := _width(result):
        body["dimension"] = width
    body["model"] = shown(result.model.spec.model_name)
    body["count"] = result.count
    body["processing_time_ms"] = round(result.took_ms, 2)
    return Reply(cast(EmbedReply, body), headers=facts_headers(result))


def bytes_reply(result: Embedded, vectors: Vectors, form: Form) -> Reply[bytes]:
    """Return (n, d) vectors as the bytes of one array, with its shape and type in the headers."""
    array: NDArray[Any] = numbers(vectors, form.dtype)
    headers = {
        "Content-Type": BYTES,
        "X-Embedding-Shape": ",".join(map(str, array.shape)),
        "X-Embedding-Dtype": array.dtype.name,
        "X-Embedding-Model": shown(result.model.spec.id),
        "X-Embedding-Tokens": str(result.tokens),
    }
    return Reply(ordered(array, form).tobytes(), headers={**headers, **facts_headers(result)})


def request_of(
    options: Options,
    inputs: Sequence[Input] = (),
    model: str | None = None,
    wanted: Wanted = VECTORS,
    most_tokens: int | None = None,
    most_terms: int | None = None,
    taken: Taken | None = None,
    max_tokens: int | None = None,
) -> EmbedRequest:
    """Return the engine's request, with the deadline and the caller of the HTTP request."""
    return EmbedRequest(
        inputs=inputs,
        model=model,
        outputs=wanted.outputs,
        normalize=wanted.normalize,
        dimensions=options.dimensions,
        top_n=wanted.top_n,
        min_weight=wanted.min_weight,
        max_tokens=max_tokens,
        most_tokens=most_tokens,
        most_terms=most_terms,
        truncate=options.truncate,
        prompt_name=options.prompt_name,
        prompt=options.prompt,
        role=options.input_type,
        lane=g.get("lane"),
        admit_bulk=throttle().leave_for_bulk(),
        deadline=g.deadline,
        gone=client_gone(),
        taken=taken,
    )


def take(model: str | None, outputs: tuple[Output, ...]) -> Taken:
    """Return a request's model and what encodes for it. See `select`.

    With UNKNOWN_MODEL=default a name that no model has is the same as no name.
    """
    return select(services().engine.registry, known_name(model), outputs, g.deadline)


def known_name(model: str | None) -> str | None:
    """Return the name that a request means: none, if no model has it and UNKNOWN_MODEL=default."""
    if model is not None and services().engine.registry.find(model) is None:
        return None if services().settings.current.unknown_model == "default" else model
    return model


def told_name(asked: str | None, result: Embedded) -> str:
    """Return the model's name for a reply: as it was asked for, if it answers to that."""
    answers = asked is not None and services().engine.registry.find(asked) is result.model
    return asked if asked is not None and answers else shown(result.model.spec.id)


def prompt_header(result: Embedded, options: Options) -> dict[str, str]:
    """Return which prompt a named role or prompt stood for; a model may have none for a role."""
    if options.prompt_name is None and options.input_type is None:
        return {}
    chosen = result.loaded.embedder.prompt(options.prompt_name, options.prompt, options.input_type)
    return {"X-Embedding-Prompt": (chosen.name or "text") if chosen.text else "none"}


def run(
    inputs: Sequence[Input], model: str | None, options: Options, wanted: Wanted,
    taken: Taken | None = None, *, max_tokens: int | None = None, field: str = "input",
) -> Embedded:  # fmt: skip
    """Embed the inputs of any dialect within the limits, and note the cost for the log line.

    `field` is where they stand in the request; of each `max_tokens` are read.
    """
    admit(len(inputs), model, field)
    taken = taken or take(model, wanted.outputs)
    facts = taken[1].facts
    form, most_tokens, most_terms = wanted.form, None, None
    limit = services().config.max_reply_bytes
    if "dense" in wanted.outputs:
        cut = min(options.dimensions or facts.dimension, facts.dimension)
        check_reply(len(inputs), cut, form)
    for output, width in (("multi_vector", facts.dimension), ("tokens", facts.token_dimension)):
        if output in wanted.outputs:
            # Whatever they are written as, they are in memory as float32 first.
            most_tokens = int(limit / (width * max(form.width, 4.0) + 2))
    if "sparse" in wanted.outputs:
        most_terms = int(limit / form.term(texts=wanted.terms))
    how = request_of(options, inputs, model, wanted, most_tokens, most_terms, taken, max_tokens)
    result = services().engine.embed(how)
    g.facts = {"model": result.model.spec.id, "texts": len(inputs), "tokens": result.tokens}
    if "dense" in wanted.outputs:  # a remote model's dimension is 0 until its first reply
        check_reply(len(inputs), result.vectors.shape[1], form)
    if wanted.outputs != DENSE:
        _check_whole(result, wanted)
    return result


def run_chunks(
    documents: Sequence[Sequence[str]], model: str | None, options: Options, wanted: Wanted,
    taken: Taken | None = None, *, field: str = "input",
) -> Embedded:  # fmt: skip
    """Embed the chunks of documents, each chunk in the light of its whole document: late chunking.

    The vectors are those of all chunks, in order. Otherwise as `run`.
    """
    chunks = sum(map(len, documents))
    admit(chunks, model, field)
    taken = taken or take(model, DENSE)
    facts = taken[1].facts
    cut = min(options.dimensions or facts.dimension, facts.dimension)
    check_reply(chunks, cut, wanted.form)
    how = request_of(options, model=model, wanted=wanted, taken=taken)
    result = services().engine.embed_chunks(documents, how)
    g.facts = {"model": result.model.spec.id, "texts": chunks, "tokens": result.tokens}
    return result


@contextmanager
def called(**fields: str) -> Iterator[None]:
    """Refuse a field by the name that its caller has for it: `dimensions="output_dimension"`."""
    try:
        yield
    except BadRequest as refused:
        name = refused.param or ""
        if name in fields:
            bare = refused.message.removeprefix(f"{name} ").removeprefix(f"{name}: ")
            refused.param, refused.message = fields[name], f"{fields[name]}: {bare}"
        raise


@contextmanager
def placed(name: Callable[[int], str]) -> Iterator[None]:
    """Refuse an input by its place in the request, `texts.3`: the engine only counts them."""
    try:
        yield
    except ServiceError as refused:
        if refused.index is not None:
            refused.param = name(refused.index)
            refused.message, refused.index = f"{refused.param}: {refused.message}", None
        raise


def admit(texts: int, model: str | None, field: str = "input") -> None:
    """Count the texts of a request's `field` against the limits. Raises TooLarge, RateLimited."""
    limit = services().settings.current.max_texts
    if texts > limit:
        raise TooLarge(f"{texts} inputs; the limit is {limit} a request: send several", param=field)
    throttle().count_texts(texts)
    g.facts = {"model": model, "texts": texts}


def check_reply(count: int, dimension: int, *forms: Form, beside: int = 0) -> None:
    """Raise TooLarge for more vectors than a reply may hold, each in all of these forms.

    `beside` is how many other bytes the reply has.
    """
    limit = services().config.max_reply_bytes
    room = max(0, limit - beside)
    most = int(room / (dimension * sum(form.width for form in forms) + ROW))
    if count <= most:
        return
    shorter = sum(form._replace(encoding="base64").width for form in forms)
    other = int(room / (dimension * shorter + ROW))
    hint = f", or {other} in base64" if other > most else ""
    raise TooLarge(
        f"{count} vectors of {dimension} numbers are more than the {limit} bytes of a reply: send "
        f"at most {most} texts{hint}"
    )


def _check_whole(result: Embedded, wanted: Wanted) -> None:
    """Raise TooLarge for sparse vectors and vectors of tokens that a reply may not hold."""
    limit, form = services().config.max_reply_bytes, wanted.form
    size = ROW * result.count * len(wanted.outputs)
    if "dense" in wanted.outputs:
        size += int(result.vectors.size * form.width)
    if "sparse" in wanted.outputs:
        terms = sum(len(row.indices) for row in _sparse(result))
        size += int(terms * form.term(texts=wanted.terms))
    if {"multi_vector", "tokens"} & set(wanted.outputs):
        size += int(sum(len(m) * (m.shape[1] * form.width + 2) for m in _matrices(result)))
    if size > limit:
        raise TooLarge(
            f"the reply would have about {size} bytes, and {limit} is the limit: send fewer texts, "
            "or ask for base64, or for fewer terms (top_n)"
        )


def _sparse(result: Embedded) -> list[Sparse]:
    return [row for row in result.columns["sparse"] if isinstance(row, Sparse)]


def _matrices(result: Embedded) -> list[Vectors]:
    columns = (result.columns.get(output, ()) for output in ("multi_vector", "tokens"))
    return [row for column in columns for row in column if isinstance(row, np.ndarray)]


def matrices_of(result: Embedded, form: Form) -> list[Vectors]:
    """Return the vectors of each input's tokens: of length 1 where the form's type needs that."""
    matrices = _matrices(result)
    if form.dtype not in OF_UNITS:
        return matrices
    return [finish(matrix, None, normalize=True) for matrix in matrices]


def _width(result: Embedded) -> int | None:
    """Return how many numbers a vector of a result has, as the reply counts them."""
    if "dense" in result.columns:
        return int(result.vectors.shape[1])
    return int(_matrices(result)[0].shape[1]) if "multi_vector" in result.columns else None


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
        headers["X-Cache"] = f"hits={result.hits}, misses={result.count - result.hits}"
    return headers
