"""The JSON of the native embedding routes, and what all embedding routes have in common:
the options of a request, and the forms in which a reply holds vectors.
"""

import base64
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, StrictBool, StrictInt, StrictStr, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from embedders.base import Truncate, Vectors
from schemas.base import Numbers, Query, Rows, Strict, doc, optional

# Far above what MAX_TEXTS_PER_REQUEST is set to: it only bounds what is read of a bad body.
MOST_TEXTS = 100_000
MOST_PROMPT = 10_000  # characters; a prompt goes before each of the texts
# The words of Cohere and NVIDIA name the end that is cut off, in any case.
CUTS = {"none": "error", "start": "left", "end": "right"}
CutWords = Truncate | Literal["NONE", "START", "END"] | bool | None
Encoding = Literal["float", "base64"]
Dtype = Literal["float", "int8", "uint8", "binary", "ubinary"]


def cut(value: object) -> object:
    """Return a word of another service for `truncate` as our own."""
    return CUTS.get(value.lower(), value) if isinstance(value, str) else value


def _truncate(value: object) -> object:
    if value is True:
        return "auto"
    return "error" if value is False else cut(value)


TruncateField = Annotated[
    Truncate | None, BeforeValidator(_truncate, json_schema_input_type=CutWords)
]
Texts = Annotated[
    Annotated[list[StrictStr], Field(min_length=1, max_length=MOST_TEXTS)],
    BeforeValidator(
        lambda value: [value] if isinstance(value, str) else value,
        json_schema_input_type=str | Annotated[list[str], Field(min_length=1)],
    ),
]


class Options(Strict):
    """The options of every embedding body."""

    truncate: TruncateField = optional(
        "For an input that is longer than the model's limit: keep its start (`right` "
        "or `END`), keep its end (`left` or `START`), cut as the tokenizer does (`auto` or true), "
        "or refuse it (`error`, `NONE` or false)."
    )
    dimensions: StrictInt | None = optional(
        "Cut vectors to this many numbers, then normalise them again.", ge=1
    )
    prompt_name: StrictStr | None = optional("One of the model's prompts.")
    prompt: StrictStr | None = optional(
        "The text of a prompt, put before each input; at most 10,000 characters.",
        max_length=MOST_PROMPT,
    )
    input_type: StrictStr | None = optional(
        "As `prompt_name`, by the names of other services (`search_query`, ...)."
    )


class EmbedBody(Options):
    """Body of `POST /embed` and `POST /batch-embed`: `texts` (one or many) or `text`."""

    texts: Texts | None = optional("A text, or a list of texts.")
    text: StrictStr | None = optional("One text; the reply also has its vector as `embedding`.")
    normalize: StrictBool | None = optional("Scale vectors to length 1.")
    model: StrictStr | None = optional("Id or name of the model.")
    model_id: StrictStr | None = optional("The same as `model`.")

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if (self.texts is None) == (self.text is None):
            raise PydanticCustomError("texts", "give either texts or text")
        if self.model is not None and self.model_id is not None and self.model != self.model_id:
            raise PydanticCustomError("model", "model and model_id differ; give one of them")
        return self

    @property
    def inputs(self) -> list[str]:
        """The texts, one or many."""
        return [self.text] if self.text is not None else list(self.texts or ())


class EmbedQuery(Query):
    """Query string of the native embedding routes."""

    model_id: str | None = optional("Id or name of the model.")


class SingleQuery(EmbedQuery):
    """Query string of `POST /embed/single`."""

    text: str = doc("The text to embed.")


class EmbedReply(TypedDict):
    """Reply of the native embedding routes."""

    embeddings: Annotated[Rows, doc("One vector per text, in order.")]
    embedding: NotRequired[Annotated[Numbers, doc("The vector of a single text.")]]
    dimension: int
    model: str
    count: int
    processing_time_ms: float


class Form(NamedTuple):
    """How a reply writes vectors: as JSON numbers or base64, of numbers of this type."""

    encoding: Encoding = "float"
    dtype: Dtype = "float"

    @property
    def width(self) -> float:
        """The bytes that one number of a vector takes in a reply, with its comma.

        As JSON a float32 takes 12.7 (in a unit vector of 4,096), a `uint8` 4.0, others less.
        """
        size = {"float": 4.0, "int8": 1.0, "uint8": 1.0, "binary": 1 / 8, "ubinary": 1 / 8}
        if self.encoding == "base64":
            return size[self.dtype] * 4 / 3
        return 13.0 if self.dtype == "float" else size[self.dtype] * 4


def written(vectors: Vectors, form: Form) -> list[NDArray[Any] | str]:
    """Return each of (n, d) vectors as base64, or as an array that the JSON writer takes.

    `int8` and `uint8` need vectors of length 1. A bit is 1 for a number above 0; the first number
    is the highest bit of a byte, and zeros fill the last byte, as Cohere, Jina, Voyage and
    sentence-transformers do.
    """
    rows: NDArray[Any]
    match form.dtype:
        case "int8":
            rows = np.rint(vectors * 127).astype(np.int8)
        case "uint8":
            rows = (np.rint(vectors * 127) + 128).astype(np.uint8)
        case "binary":
            rows = (np.packbits(vectors > 0, axis=1).astype(np.int16) - 128).astype(np.int8)
        case "ubinary":
            rows = np.packbits(vectors > 0, axis=1)
        case "float":
            rows = np.asarray(vectors, "<f4")
    if form.encoding == "base64":
        return [base64.b64encode(row.tobytes()).decode("ascii") for row in rows]
    return list(rows)
