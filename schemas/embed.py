"""The JSON of every embedding dialect: what bodies are accepted and how vectors are written.

Native bodies refuse unknown fields, so that a typo is told; `/v1` accepts them, as clients of
OpenAI-compatible servers send vendor extras.
"""

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, cast

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from embedders.base import Input, Truncate, Vectors


def _truncate(value: object) -> object:
    """Read the booleans of other services: true means right, false means error."""
    if value is True:
        return "right"
    return "error" if value is False else value


def _as_list(value: object) -> object:
    """Let one text stand for a list of one."""
    return [value] if isinstance(value, str) else value


TruncateField = Annotated[
    Truncate | None, BeforeValidator(_truncate, json_schema_input_type=Truncate | bool | None)
]
Texts = Annotated[
    Annotated[list[StrictStr], Field(min_length=1)],
    BeforeValidator(
        _as_list, json_schema_input_type=str | Annotated[list[str], Field(min_length=1)]
    ),
]
Ids = Annotated[list[StrictInt], Field(min_length=1)]


class Options(BaseModel):
    """What every embedding body may say beside its texts."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    truncate: TruncateField = Field(
        None,
        description="An input over the model's limit: keep its start (`right`, or true), keep its "
        "end (`left`), or refuse it (`error`, or false).",
    )
    dimensions: StrictInt | None = Field(
        None, ge=1, description="Cut vectors to this many numbers, then normalise them again."
    )
    prompt_name: StrictStr | None = Field(None, description="One of the model's prompts.")
    prompt: StrictStr | None = Field(
        None, description="A prompt's own text, put before each input."
    )
    input_type: StrictStr | None = Field(
        None, description="As `prompt_name`, by the names of other services (`search_query`, ...)."
    )

    @property
    def prompt_or_role(self) -> str | None:
        """The prompt chosen by name; `prompt_name` wins over `input_type`."""
        return self.prompt_name if self.prompt_name is not None else self.input_type


class EmbedBody(Options):
    """Body of `POST /embed` and `POST /batch-embed`: `texts` (one or many) or `text`."""

    texts: Texts | None = Field(None, description="A text, or a list of texts.")
    text: StrictStr | None = Field(None, description="One text; its vector is also `embedding`.")
    normalize: StrictBool | None = Field(None, description="Scale vectors to length 1.")
    model: StrictStr | None = Field(None, description="Id or name of the model.")
    model_id: StrictStr | None = Field(None, description="The same as `model`.")

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


class EmbedQuery(BaseModel):
    """Query string of the native embedding routes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_id: str | None = Field(None, description="Id or name of the model.")


class SingleQuery(EmbedQuery):
    """Query string of `POST /embed/single`."""

    text: str = Field(description="The text to embed.")


class EmbedReply(BaseModel):
    """Reply of the native embedding routes."""

    embeddings: list[list[float]] = Field(description="One vector a text, in order.")
    embedding: list[float] | None = Field(None, description="The vector, when one text was sent.")
    dimension: int
    model: str
    count: int
    processing_time_ms: float


def _input_form(value: object) -> str:
    """Tell which of OpenAI's four forms an `input` has, by its first element."""
    if not isinstance(value, list):
        return "text"
    first = value[0] if value else ""
    if isinstance(first, list):
        return "id_lists"
    return "texts" if isinstance(first, str) or not isinstance(first, int) else "ids"


OpenAIInput = Annotated[
    Annotated[StrictStr, Tag("text")]
    | Annotated[list[StrictStr], Field(min_length=1), Tag("texts")]
    | Annotated[Ids, Tag("ids")]
    | Annotated[list[Ids], Field(min_length=1), Tag("id_lists")],
    Discriminator(_input_form),
]


class OpenAIBody(Options):
    """Body of `POST /v1/embeddings`, as in OpenAI's reference, and this service's own options."""

    model_config = ConfigDict(extra="ignore")

    model: StrictStr = Field(description="Id or name of the model.")
    input: OpenAIInput = Field(
        description="A text, a list of texts, a list of token ids, or a list of such lists."
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="`float` (default) or `base64`: little-endian float32."
    )
    normalize: StrictBool = Field(True, description="Scale vectors to length 1, as OpenAI does.")
    user: StrictStr | None = Field(None, description="Accepted and ignored.")

    @property
    def inputs(self) -> Sequence[Input]:
        """The inputs as a list, whichever form they came in."""
        alone = isinstance(self.input, str) or isinstance(self.input[0], int)
        return cast(Sequence[Input], [self.input] if alone else self.input)


class OpenAIEmbedding(BaseModel):
    """One vector of an OpenAI reply."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens that the model really read."""

    prompt_tokens: int
    total_tokens: int


class OpenAIReply(BaseModel):
    """Reply of `POST /v1/embeddings`."""

    object: Literal["list"]
    data: list[OpenAIEmbedding]
    model: str
    usage: Usage


def dump_openai(vectors: Vectors, form: str | None, model: str, tokens: int) -> dict[str, Any]:
    """Write (n, d) vectors as OpenAI's reply; rows stay arrays, which the JSON writer reads."""
    rows = [to_base64(row) if form == "base64" else row for row in vectors]
    data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def to_base64(row: Vectors) -> str:
    """Write a (d,) vector as base64 of little-endian float32, as OpenAI's clients read it."""
    return base64.b64encode(np.asarray(row, "<f4").tobytes()).decode("ascii")
