"""The JSON of `/v1/embeddings`: OpenAI's body and reply, and what other services' clients send.

`OpenAIBody` lists every field that is known, with the values that are taken. A known field is
honoured, or it is a 400 that names it; null is the same as leaving it out. Fields that are not in
the list are ignored, as clients of OpenAI-compatible servers send vendors' extras.
"""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

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
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from embedders.base import Input, Truncate, Vectors
from errors import BadRequest
from schemas.embed import MOST_PROMPT, MOST_TEXTS, cut
from schemas.packing import Dtype, Encoding, Form, written
from schemas.strict import Strict

Kind = Literal["float", "base64", "binary", "ubinary"]
MOST_IDS = 1_000_000  # token ids of one input: it only keeps a list of nothing from being read


class TextItem(BaseModel):
    """An input as Jina's clients may send it."""

    model_config = ConfigDict(extra="forbid")

    text: str


def _text(value: object) -> object:
    """Take the text out of `{"text": ...}`; say of an image what it is."""
    if isinstance(value, dict) and "image" in value:
        raise BadRequest(
            'input: an image cannot be embedded; send a text, or {"text": ...}', param="input"
        )
    return value["text"] if isinstance(value, dict) and set(value) == {"text"} else value


def _alone(value: object) -> object:
    """Let a list of one stand for the one."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _input_form(value: object) -> str:
    """Tell which of OpenAI's four forms an `input` has, by its first element."""
    if not isinstance(value, list):
        return "text"
    first = value[0] if value else ""
    if isinstance(first, list):
        return "id_lists"
    return "texts" if isinstance(first, str) or not isinstance(first, int) else "ids"


Text = Annotated[StrictStr, BeforeValidator(_text, json_schema_input_type=str | TextItem)]
Ids = Annotated[list[StrictInt], Field(min_length=1, max_length=MOST_IDS)]
OpenAIInput = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS), Tag("texts")]
    | Annotated[Ids, Tag("ids")]
    | Annotated[list[Ids], Field(min_length=1, max_length=MOST_TEXTS), Tag("id_lists")],
    Discriminator(_input_form),
]
Cut = Annotated[
    Truncate | StrictBool | None,
    BeforeValidator(
        cut, json_schema_input_type=Truncate | Literal["NONE", "START", "END"] | bool | None
    ),
]
OneKind = Annotated[
    Kind | None,
    BeforeValidator(
        _alone,
        json_schema_input_type=Kind
        | Annotated[list[Kind], Field(min_length=1, max_length=1)]
        | None,
    ),
]
Ignored = Annotated[Any, Field(description="Any value: it cannot change a vector.")]


class OpenAIBody(Strict):
    """Body of `POST /v1/embeddings`: OpenAI's fields, our own, and other services' names for them.
    A field of this list is honoured or refused; null is the same as leaving it out.
    """

    model_config = ConfigDict(extra="ignore")

    input: OpenAIInput = Field(
        description="A text, a list of texts, a list of token ids, or a list of such lists. "
        'A text may also be `{"text": ...}`.'
    )
    model: StrictStr | None = Field(
        None, description="Id or name of a model; without it the default serves."
    )
    # How vectors are written.
    encoding_format: Encoding | None = Field(
        None, description="`float` (default), or `base64` of little-endian numbers."
    )
    output_dtype: Dtype | None = Field(
        None,
        description="`float` (default), `int8` (127 times a number of the unit vector, rounded), "
        "`uint8` (the same plus 128), `ubinary` (a bit for a number over 0, eight a byte, the "
        "first the highest) or `binary` (the same minus 128).",
    )
    embedding_type: OneKind = Field(
        None,
        description="`float` or `base64` as `encoding_format`, `binary` or `ubinary` as "
        "`output_dtype`; or a list of one of them.",
    )
    embed_dtype: Literal["float32"] | None = Field(
        None, description="Only `float32`: the numbers of `float` in base64."
    )
    endianness: Literal["native", "little"] | None = Field(
        None, description="`native` or `little`, which are the same here."
    )
    # Which vector.
    dimensions: StrictInt | None = Field(
        None,
        ge=1,
        description="Cut vectors to this many numbers, 1 or more, then normalise them again.",
    )
    output_dimension: StrictInt | None = Field(None, ge=1, description="As `dimensions`.")
    normalize: StrictBool | None = Field(
        None, description="Scale vectors to length 1, as OpenAI does: `true` (default) or `false`."
    )
    normalized: StrictBool | None = Field(None, description="As `normalize`: `true` or `false`.")
    use_activation: StrictBool | None = Field(
        None, description="As `normalize`: `true` or `false`."
    )
    prompt_name: StrictStr | None = Field(None, description="One of the model's prompts.")
    input_type: StrictStr | None = Field(
        None, description="As `prompt_name`, by the names of other services (`search_query`, ...)."
    )
    task: StrictStr | None = Field(
        None, description="As `prompt_name`, by Jina's names (`retrieval.query`, ...)."
    )
    prompt: StrictStr | None = Field(
        None,
        max_length=MOST_PROMPT,
        description="A prompt's own text, put before each input; at most 10,000 characters.",
    )
    # An input over the model's limit.
    truncate: Cut = Field(
        None,
        description="An input over the model's limit: keep its start (`right` or `END`), keep its "
        "end (`left` or `START`), cut as its tokenizer does (`auto`), cut as the service does "
        "(true), or refuse it (`error`, `NONE` or false).",
    )
    truncation: StrictBool | None = Field(
        None, description="`true`: cut an input over the model's limit; `false`: refuse it."
    )
    truncation_side: Literal["left", "right"] | None = Field(
        None, description="What is cut off, where something is: `right` (the end) or `left`."
    )
    truncate_prompt_tokens: StrictInt | None = Field(
        None, ge=-1, description="Cut at the model's limit: -1, or a number that is not below it."
    )
    # What is done one way only.
    messages: None = Field(None, description="Only null: give `input`.")
    add_special_tokens: Literal[True] | None = Field(
        None, description="Only `true`: texts get the model's special tokens."
    )
    late_chunking: Literal[False] | None = Field(
        None, description="Only `false`: each input is encoded by itself."
    )
    return_multivector: Literal[False] | None = Field(
        None, description="Only `false`: an input has one vector."
    )
    continue_final_message: Literal[False] | None = Field(
        None, description="Only `false`: there are no messages."
    )
    padding: StrictBool | Literal["longest", "do_not_pad"] | None = Field(
        None, description="`true`, `false`, `longest` or `do_not_pad`: it changes no vector."
    )
    mm_processor_kwargs: Annotated[dict[str, Any], Field(max_length=0)] | None = Field(
        None, description="Only an empty object: there are no images."
    )
    modality: Literal["text"] | None = Field(None, description="Only `text`.")
    embedding_types: tuple[Literal["float"]] | None = Field(
        None, description="Only a list of `float`: send `output_dtype` for another."
    )
    truncation_direction: None = Field(None, description="Only null: send `truncation_side`.")
    task_type: None = Field(None, description="Only null: send `input_type`.")
    instruction: None = Field(None, description="Only null: send `prompt`.")
    chat_template: None = Field(None, description="Only null: there are no messages.")
    user: Ignored = None
    request_id: Ignored = None
    priority: Ignored = None
    cache_salt: Ignored = None
    drop_params: Ignored = None

    @field_validator("*", mode="wrap")
    @classmethod
    def _honoured_or_refused(
        cls, value: Any, read: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        """Refuse a value by its field's name; what is wrong in `input` is told by its place."""
        name = str(info.field_name)
        try:
            return read(value)
        except ValidationError:
            if name == "input":
                raise
            valid = cls.model_fields[name].description
            raise BadRequest(f"{name}: {shown(value)} is refused. {valid}", param=name) from None

    @property
    def inputs(self) -> Sequence[Input]:
        """The inputs as a list, whichever form they came in."""
        alone = isinstance(self.input, str) or isinstance(self.input[0], int)
        return cast(Sequence[Input], [self.input] if alone else self.input)


def shown(value: object) -> str:
    """Write a value that was sent, in short; what a list or an object holds is not told."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = json.dumps(value[:50] if isinstance(value, str) else value)
    return text if len(text) <= 40 else f"{text[:40]}..."


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


def dump_openai(vectors: Vectors, form: Form, model: str, tokens: int) -> dict[str, Any]:
    """Write (n, d) vectors as OpenAI's reply."""
    rows = enumerate(written(vectors, form))
    data = [{"object": "embedding", "index": i, "embedding": row} for i, row in rows]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}
