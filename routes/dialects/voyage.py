"""Voyage's API besides `/v1/embeddings` and `/v1/rerank`: `/v1/contextualizedembeddings`, which is
late chunking, and `/v1/multimodalembeddings` for its text parts.
"""

from collections.abc import Iterable
from functools import partial
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, StrictStr
from typing_extensions import TypedDict

from context import services
from embedders.base import Truncate
from routes.dialects.openai import UNION
from routes.embed import (
    ERRORS,
    ROW,
    called,
    check_reply,
    facts_headers,
    placed,
    prompt_header,
    run,
    run_chunks,
    told_name,
)
from routes.table import Reply, Route
from schemas.base import Numbers, doc, optional
from schemas.embed import MOST_TEXTS, Options, Wanted
from schemas.forms import DtypeField, Encoding, Form, written
from schemas.known import Known, agreed
from schemas.parts import Parts, text_of

Chunk = Annotated[StrictStr, Field(min_length=1)]
Chunks = Annotated[
    list[Chunk],
    Field(min_length=1, max_length=MOST_TEXTS),
    BeforeValidator(
        lambda value: [value] if isinstance(value, str) else value,
        json_schema_input_type=str | Annotated[list[str], Field(min_length=1)],
    ),
]
Mixed = Annotated[
    StrictStr, BeforeValidator(partial(text_of, field="inputs"), json_schema_input_type=Parts)
]
Ignored = Annotated[Any, doc("Any value: it cannot change a vector.")]
SEND = "Only null: send `{}`."


class VoyageBody(Known):
    """What both bodies have in common. Every field listed is honoured or refused; null is the same
    as no field.
    """

    given_texts = ("inputs",)

    model: StrictStr | None = optional(
        "Id or name of a model; without it the default model is used."
    )
    input_type: StrictStr | None = optional(
        "`query` or `document`: a model with a prompt for this side puts it before the texts."
    )
    output_dtype: DtypeField | None = optional(
        "`float` (default), `float16`, `int8` (127 times a number of the unit vector, rounded), "
        "`uint8` (the same plus 128), `ubinary` (a bit for a number over 0, eight a byte, the "
        "first the highest) or `binary` (the same minus 128)."
    )
    output_dimension: StrictInt | None = optional(
        "Cut vectors to this many numbers, then normalise them again.", ge=1
    )
    encoding_format: Literal["float", "base64"] | None = optional(
        "`float` (default), or `base64` of the numbers of `output_dtype`, little-endian."
    )
    truncation: StrictBool | None = optional(
        "`true`: cut what is over the model's limit; `false`: refuse it."
    )
    # Other services' names for what Voyage calls otherwise.
    dimensions: None = optional(SEND.format("output_dimension"))
    embedding_type: None = optional(SEND.format("output_dtype"))
    task: None = optional(SEND.format("input_type"))
    input: None = optional(SEND.format("inputs"))
    user: Ignored = None

    @property
    def encoding(self) -> Encoding:
        """How a vector is written. Raises BadRequest."""
        return self.encoding_format or "float"

    @property
    def form(self) -> Form:
        """How the vectors are written. Raises BadRequest."""
        return Form(self.encoding, self.output_dtype or "float32")

    def options(self, truncation: bool | None) -> Options:
        """Return what else changes a vector, with how a text that is too long is treated."""
        default = services().engine.truncate
        cuts: dict[bool | None, Truncate] = {
            None: default, True: "auto" if default == "error" else default, False: "error"
        }  # fmt: skip
        return Options(
            dimensions=self.output_dimension, truncate=cuts[truncation], input_type=self.input_type
        )


class ContextualizedBody(VoyageBody):
    """Body of `POST /v1/contextualizedembeddings`: documents in chunks."""

    inputs: Annotated[list[Chunks], Field(min_length=1, max_length=MOST_TEXTS)] = doc(
        "For each document the list of its chunks, in order: they are read together, in one pass, "
        "and each vector is the mean of its chunk's tokens. Queries, and documents of one chunk, "
        "are lists of one text, or just the texts; if all are, they are embedded as everywhere. A "
        "document that is longer than the model's limit is refused, or cut with `truncation` true."
    )
    enable_auto_chunking: Literal[False] | None = optional(
        "Only `false`: send the chunks of a document."
    )
    chunk_size: None = optional("Only null: send the chunks of a document.")
    chunk_overlap: None = optional("Only null: send the chunks of a document, without an overlap.")


class MultimodalBody(VoyageBody):
    """Body of `POST /v1/multimodalembeddings`: inputs of text parts."""

    inputs: Annotated[list[Mixed], Field(min_length=1, max_length=MOST_TEXTS)] = doc(
        "Objects with `content`, a list of parts of text, which are joined by line feeds. Parts of "
        "other types are refused: this service is text only."
    )
    output_encoding: Literal["base64"] | None = optional("As `encoding_format`.")

    @property
    def encoding(self) -> Encoding:
        """How a vector is written. Raises BadRequest."""
        names = {"encoding_format": self.encoding_format, "output_encoding": self.output_encoding}
        return agreed(self, names) or "float"


class VoyageVector(TypedDict):
    """A vector and its place."""

    object: Literal["embedding"]
    embedding: Numbers | str
    index: int


class ChunkVectors(TypedDict):
    """The vectors of a document's chunks, and the document's place."""

    object: Literal["list"]
    data: list[VoyageVector]
    index: int


class TotalTokens(TypedDict):
    """The tokens that the model read."""

    total_tokens: int


class ContextualizedReply(TypedDict):
    """The vectors of all chunks, by document."""

    object: Literal["list"]
    data: list[ChunkVectors]
    model: str
    usage: TotalTokens


class MultimodalUsage(TypedDict):
    """The tokens that the model read, and the pixels that it did not."""

    text_tokens: int
    image_pixels: int
    video_pixels: int
    total_tokens: int


class MultimodalReply(TypedDict):
    """The vectors of all inputs."""

    object: Literal["list"]
    data: list[VoyageVector]
    model: str
    usage: MultimodalUsage


Voyage = partial(
    Route, access="embed", tag="voyage", works=True, large=True, any_page=True, errors=ERRORS,
    dialect=UNION,
)  # fmt: skip


@Voyage("POST", "/v1/contextualizedembeddings")
def contextualized(body: ContextualizedBody) -> Reply[ContextualizedReply]:
    """Embed the chunks of documents, each in the light of its document: late chunking."""
    form = body.form
    wanted, options = Wanted(form=form, normalize=True), body.options(bool(body.truncation))
    with called(dimensions="output_dimension"), placed(partial(_place, body)):
        if all(len(chunks) == 1 for chunks in body.inputs):  # as Voyage says: texts of their own
            texts = [chunks[0] for chunks in body.inputs]
            result = run(texts, body.model, options, wanted, field="inputs")
        else:
            result = run_chunks(body.inputs, body.model, options, wanted, field="inputs")
    frames = ROW * len(body.inputs)  # each document's own
    check_reply(len(result.vectors), result.vectors.shape[1], form, beside=frames)
    rows: Any = iter(written(result.vectors, form))
    data: list[ChunkVectors] = [
        {"object": "list", "data": _numbered(islice(rows, len(chunks))), "index": place}
        for place, chunks in enumerate(body.inputs)
    ]
    reply: ContextualizedReply = {
        "object": "list",
        "data": data,
        "model": told_name(body.model, result),
        "usage": {"total_tokens": result.tokens},
    }
    return Reply(reply, headers={**facts_headers(result), **prompt_header(result, options)})


@Voyage("POST", "/v1/multimodalembeddings")
def multimodal(body: MultimodalBody) -> Reply[MultimodalReply]:
    """Embed inputs of text parts, as Voyage's API for texts and images does."""
    form = body.form
    wanted, options = Wanted(form=form, normalize=True), body.options(body.truncation)
    with called(dimensions="output_dimension"), placed(lambda index: f"inputs.{index}"):
        result = run(body.inputs, body.model, options, wanted, field="inputs")
    reply: MultimodalReply = {
        "object": "list",
        "data": _numbered(written(result.vectors, form)),
        "model": told_name(body.model, result),
        "usage": {
            "text_tokens": result.tokens,
            "image_pixels": 0,
            "video_pixels": 0,
            "total_tokens": result.tokens,
        },
    }
    return Reply(reply, headers={**facts_headers(result), **prompt_header(result, options)})


def _place(body: ContextualizedBody, index: int) -> str:
    """Return where the chunk is that is the request's chunk `index`."""
    for place, chunks in enumerate(body.inputs):
        if index < len(chunks):
            return f"inputs.{place}.{index}"
        index -= len(chunks)
    return "inputs"


def _numbered(rows: Iterable[Any]) -> list[VoyageVector]:
    return [{"object": "embedding", "embedding": row, "index": i} for i, row in enumerate(rows)]
