"""How the inputs of a request are prepared and encoded by one loaded model.

Texts, token ids and pairs of texts become items, and these become rows, as many at a time as the
memory may hold.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from config.serving import Lane
from embedders.base import (
    DENSE,
    Column,
    Encoded,
    Facts,
    Gone,
    Input,
    Item,
    Output,
    Pair,
    Prompt,
    Sparse,
    Truncate,
)
from errors import (
    BadRequest,
    ClientGone,
    DeadlineExceeded,
    InputTooLong,
    ServiceError,
    TooLarge,
)
from observability import tracing
from serving.lanes import Choice
from serving.model import Loaded
from serving.results import finish, top_terms
from serving.selection import Taken

# Texts whose sparse rows are made before their terms are counted: a row of every term of a
# vocabulary of 30,000 has 0.24 MB, so these have 62 MB at most. Other rows are counted by tokens.
SPARSE_AT_ONCE = 256
# Characters of a text that is tokenized whole, or token ids that become one text: those of 32,768
# tokens of English. It cannot be done in parts, so no deadline ends it: on 2 cores at a load of 15,
# 2026-11-30, so many full stops took 2.1 s and 45 MB, and words of one letter 1.3 s and 37 MB.
LONGEST = 1 << 17


@dataclass(frozen=True)
class EmbedRequest:
    """What to embed and how. None means the default of the model or of the service."""

    inputs: Sequence[Input]
    model: str | None = None
    outputs: tuple[Output, ...] = DENSE
    normalize: bool | None = None  # of dense vectors; vectors of tokens are as the model has them
    dimensions: int | None = None  # of dense vectors
    top_n: int | None = None  # the most terms of a sparse vector
    min_weight: float | None = None  # of the terms of a sparse vector
    # At how many tokens an input is cut, a pair as a whole, and a pair's document alone, if that is
    # less than what the model reads.
    max_tokens: int | None = None
    max_document_tokens: int | None = None
    most_tokens: int | None = None  # of all inputs; more are refused before they are encoded
    most_terms: int | None = None  # of all sparse vectors; at more the others are not made
    truncate: Truncate | None = None
    prompt_name: str | None = None
    prompt: str | None = None
    role: str | None = None  # the side of a retrieval, or another use, as clients name it
    lane: Lane | None = None  # None: by its size
    admit_bulk: Callable[[], None] | None = None  # raises QueueFull where bulk may run no more
    deadline: float | None = None  # a time.monotonic() value
    gone: Gone | None = None  # whether the caller hung up
    taken: Taken | None = None  # what `select` gave, if the caller has asked it already


class Rows(NamedTuple):
    """What the model made of each input, its tokens and whether it was cut.

    The places in `own` have only the terms that this request asks for: they are for no other.
    """

    columns: Mapping[Output, Column]
    tokens: Sequence[int]
    truncated: Sequence[bool]
    own: Collection[int] = ()


def encode(
    loaded: Loaded, request: EmbedRequest, inputs: Sequence[Input | Pair], prompt: Prompt,
    truncate: Truncate, choice: Choice, largest: int, places: Sequence[int],
) -> Rows:  # fmt: skip
    """Return what the model makes of the inputs at these places of a request, in its lane.

    A sparse row of more than `largest` bytes is cut to what the request asks for. Raises what
    `Engine.embed` raises, with the place of an input at fault, and TurnedBulk.
    """
    outputs = request.outputs
    try:
        with tracing.stage("tokenize"):
            chosen = [inputs[place] for place in places]
            items = prepared(loaded, chosen, prompt, truncate)
        if "dense" in outputs:
            _check_left(items)
        check_tokens(items, request.most_tokens)
        lane = choice.enter(sum(item.tokens for item in items))
        if outputs != DENSE or lane == "bulk":
            items = [replace(item, outputs=outputs, lane=lane) for item in items]
        if "sparse" in outputs:
            return _encode_sparse(loaded, request, items, largest)
        encoded = loaded.encoder.encode(items, request.deadline, request.gone)
    except ServiceError as exc:
        if exc.index is not None:
            exc.index = places[exc.index]
        raise
    # A pass may hold what other requests asked for.
    columns = {output: encoded.columns[output] for output in outputs}
    return Rows(columns, encoded.tokens, [item.truncated for item in items])


def encode_documents(
    loaded: Loaded, request: EmbedRequest, items: Sequence[Item], chunks: Sequence[int],
    choice: Choice,
) -> Encoded:  # fmt: skip
    """Return the vectors of documents of so many chunks; one at fault is its first chunk."""
    lane = choice.enter(sum(item.tokens for item in items))
    items = [replace(item, lane=lane) for item in items]
    try:
        return loaded.encoder.encode(items, request.deadline, request.gone)
    except ServiceError as exc:
        if exc.index is not None:
            exc.index = sum(chunks[: exc.index])
        raise


def prepared(
    loaded: Loaded, inputs: Sequence[Input | Pair], prompt: Prompt, truncate: Truncate
) -> list[Item]:
    """Return texts, pairs, or both among each other, ready to encode."""
    pairs = [place for place, given in enumerate(inputs) if isinstance(given, Pair)]
    texts = [place for place, given in enumerate(inputs) if not isinstance(given, Pair)]
    items: dict[int, Item] = {}
    ways: Any = (texts, loaded.embedder.prepare), (pairs, loaded.embedder.prepare_pairs)
    for places, prepare in ways:
        if not places:
            continue
        if len(places) == len(inputs):
            made: list[Item] = prepare(inputs, prompt, truncate)
            return made
        try:
            found = prepare([inputs[place] for place in places], prompt, truncate)
        except ServiceError as exc:
            if exc.index is not None:
                exc.index = places[exc.index]
            raise
        items.update(zip(places, found, strict=True))
    return [items[place] for place in range(len(inputs))]


def prompt_of(loaded: Loaded, request: EmbedRequest) -> Prompt:
    """Return the prompt that a request asks for, with the limits that are below the model's."""
    prompt = loaded.embedder.prompt(request.prompt_name, request.prompt, request.role)
    most = loaded.facts.max_tokens
    limits = [
        None if limit is None or (most is not None and limit >= most) else limit
        for limit in (request.max_tokens, request.max_document_tokens)
    ]
    if limits == [None, None]:
        return prompt
    if any(limit is not None and limit < 1 for limit in limits):
        raise BadRequest("a limit of tokens is at least 1")
    return replace(prompt, limit=limits[0], document_limit=limits[1])


def _encode_sparse(
    loaded: Loaded, request: EmbedRequest, items: Sequence[Item], largest: int
) -> Rows:
    """Encode some items at a time, the longest first, and count their terms.

    A row that is too large to be kept is cut to what the request asks for before the next are made.
    Raises TooLarge once the terms are more than `most_terms`, and what the encoder raises.
    """
    order = sorted(range(len(items)), key=lambda place: -items[place].tokens)
    columns: dict[Output, list[Any]] = {each: [None] * len(items) for each in request.outputs}
    tokens, own, terms = [0] * len(items), set(), 0
    least = request.min_weight or 0.0
    for start in range(0, len(order), SPARSE_AT_ONCE):
        some = order[start : start + SPARSE_AT_ONCE]
        try:
            part = [items[place] for place in some]
            encoded = loaded.encoder.encode(part, request.deadline, request.gone)
        except ServiceError as exc:
            if exc.index is not None:
                exc.index = some[exc.index]
            raise
        for at, place in enumerate(some):
            tokens[place] = encoded.tokens[at]
            for output, column in columns.items():
                column[place] = encoded.columns[output][at]
            row = columns["sparse"][place]
            if row.indices.nbytes + row.values.nbytes > largest:
                row = columns["sparse"][place] = top_terms(row, request.top_n, least)
                own.add(place)
            terms += min(int((np.abs(row.values) >= least).sum()), request.top_n or len(row.values))
        if request.most_terms is not None and terms > request.most_terms:
            raise TooLarge(
                f"the sparse vectors have more than the {request.most_terms} terms that a reply "
                "may hold: send fewer texts, or ask for fewer terms (top_n)"
            )
    made = {output: column_of(output, column, loaded.facts) for output, column in columns.items()}
    return Rows(made, tokens, [item.truncated for item in items], own)


def column_of(output: Output, values: Sequence[Any], facts: Facts) -> Column:
    """Return the values of all inputs for one output, as `Encoded` has them."""
    if output in ("sparse", "multi_vector", "tokens"):
        return values
    width = len(values[0]) if values else facts.dimension
    rows = np.empty((len(values), width), np.float32)
    for place, value in enumerate(values):
        rows[place] = value
    return rows


def pieces(request: EmbedRequest, sizes: Sequence[int], unit: str) -> Iterator[slice]:
    """Yield which inputs of these sizes are tokenized next, until the deadline or a hang-up.

    Each time they are as many as have the size of one of the longest together. Raises TooLarge with
    the index of a longer one, DeadlineExceeded, ClientGone.
    """
    for index, size in enumerate(sizes):
        if size > LONGEST:
            raise TooLarge(
                f"it has {size} {unit}, and {LONGEST} is the limit: send it in parts", index=index
            )
    start = 0
    while start < len(sizes):
        if request.deadline is not None and time.monotonic() > request.deadline:
            raise DeadlineExceeded("the request's deadline passed while it was tokenized")
        if request.gone is not None and request.gone():
            raise ClientGone("the client closed the connection")
        stop, size = start + 1, sizes[start]
        while stop < len(sizes) and size + sizes[stop] <= LONGEST:
            size += sizes[stop]
            stop += 1
        yield slice(start, stop)
        start = stop


def _check_left(items: Sequence[Item]) -> None:
    """Raise InputTooLong for a text cut to its prompt, of which the vector has nothing: zeros."""
    for index, item in enumerate(items):
        if item.truncated and item.skip >= item.tokens:
            raise InputTooLong(
                f"the {item.tokens} tokens that are read of it are all its prompt's, which this "
                "model leaves out of the vector: send a shorter prompt, or allow more tokens",
                index=index,
            )


def check_tokens(items: Sequence[Item], most: int | None) -> None:
    """Raise TooLarge where the vectors of so many tokens are more than a reply may hold."""
    if most is not None and (tokens := sum(item.tokens for item in items)) > most:
        raise TooLarge(
            f"the vectors of {tokens} tokens are more than a reply may hold, which is those of "
            f"{most}: send fewer or shorter texts"
        )


def check_dimensions(dimensions: int | None, most: int) -> None:
    """Raise BadRequest for more numbers than the model's vectors have; 0 is not known yet."""
    if dimensions is not None and most and dimensions > most:
        raise BadRequest(
            f"dimensions {dimensions} is more than the {most} of this model", param="dimensions"
        )


def finished(
    columns: Mapping[Output, Column], request: EmbedRequest, normalizes: bool
) -> dict[Output, Column]:
    """Return the columns as they were asked for; `normalizes` is what the model does itself."""
    made = dict(columns)
    dense, sparse = columns.get("dense"), columns.get("sparse")
    if isinstance(dense, np.ndarray):
        check_dimensions(request.dimensions, dense.shape[1])
        own = normalizes if request.normalize is None else request.normalize
        made["dense"] = finish(dense, request.dimensions, own)
    if sparse is not None:
        rows = [row for row in sparse if isinstance(row, Sparse)]
        least = request.min_weight or 0.0
        made["sparse"] = [top_terms(row, request.top_n, least) for row in rows]
    return made
