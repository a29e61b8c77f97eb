"""The JSON of the native embedding routes, and the options that every embedding route has.

Native bodies refuse unknown fields, so that a typo is told.
"""

from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    model_validator,
)
from pydantic_core import PydanticCustomError

from embedders.base import Truncate
from schemas.strict import Strict

# Far over what MAX_TEXTS_PER_REQUEST is set to: it only keeps a list of nothing from being read.
MOST_TEXTS = 100_000
MOST_PROMPT = 10_000  # characters: it is put before each of the texts
# Cohere's and NVIDIA's words name the end that is cut off, in any case.
CUTS = {"none": "error", "start": "left", "end": "right"}


def cut(value: object) -> object:
    """Read the words of other services for what is done with an input that is too long."""
    return CUTS.get(value.lower(), value) if isinstance(value, str) else value


def _truncate(value: object) -> object:
    """Read the booleans of other services, too: true means auto, false means error."""
    if value is True:
        return "auto"
    return "error" if value is False else cut(value)


def _as_list(value: object) -> object:
    """Let one text stand for a list of one."""
    return [value] if isinstance(value, str) else value


TruncateField = Annotated[
    Truncate | None,
    BeforeValidator(
        _truncate,
        json_schema_input_type=Truncate | Literal["NONE", "START", "END"] | bool | None,
    ),
]
Texts = Annotated[
    Annotated[list[StrictStr], Field(min_length=1, max_length=MOST_TEXTS)],
    BeforeValidator(
        _as_list, json_schema_input_type=str | Annotated[list[str], Field(min_length=1)]
    ),
]


class Options(Strict):
    """What every embedding body may say beside its texts."""

    truncate: TruncateField = Field(
        None,
        description="An input over the model's limit: keep its start (`right` or `END`), keep its "
        "end (`left` or `START`), cut as its tokenizer does (`auto`, or true), or refuse it "
        "(`error`, `NONE` or false).",
    )
    dimensions: StrictInt | None = Field(
        None, ge=1, description="Cut vectors to this many numbers, then normalise them again."
    )
    prompt_name: StrictStr | None = Field(None, description="One of the model's prompts.")
    prompt: StrictStr | None = Field(
        None,
        max_length=MOST_PROMPT,
        description="A prompt's own text, put before each input; at most 10,000 characters.",
    )
    input_type: StrictStr | None = Field(
        None, description="As `prompt_name`, by the names of other services (`search_query`, ...)."
    )


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
