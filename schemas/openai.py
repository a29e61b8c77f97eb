"""The JSON of `/v1`: OpenAI's bodies and replies, and the fields that other services' clients send.

`OpenAIBody` lists every known field with its valid values. A known field is honoured, or it is a
400 that names it; null is the same as no field. Unknown fields are ignored, as servers that are
compatible with OpenAI do.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NotRequired, Self, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    Tag,
    model_validator,
)
from typing_extensions import TypedDict

from embedders.base import Input, Truncate
from embedders.roles import side_of
from errors import BadRequest
from schemas import embed
from schemas.base import doc, optional
from schemas.forms import Dtype, DtypeField, Encoding, Form
from schemas.known import PRIORITY, Known, Priority, Side, TextItem, agreed, truncate_of
from schemas.parts import Parts, text_of

Kind = Literal["float", "base64", "binary", "ubinary"]
Value = TypeVar("Value")
MOST_IDS = 1_000_000  # token ids of one input; it only bounds what is read of a bad body
# The fields that mean the same, by the name under which the engine refuses a value.
SAME = {
    "dimensions": ("dimensions", "output_dimension"),
    "prompt_name": ("prompt_name",),
    "input_type": ("input_type", "task"),
    "normalize": ("normalize", "normalized", "use_activation"),
    "outputs": ("return_multivector",),
    "truncate": ("truncate", "truncation"),
    "truncate_prompt_tokens": ("truncate_prompt_tokens",),
}
# Jina has one field where others have two.
KINDS: dict[Kind | None, tuple[Encoding | None, Dtype | None]] = {
    None: (None, None),
    "float": ("float", "float32"),
    "base64": ("base64", "float32"),
    "binary": (None, "binary"),
    "ubinary": (None, "ubinary"),
}


def _text(value: object) -> object:
    """Return the text of `{"text": ...}`. Raises BadRequest for an image."""
    if not isinstance(value, dict):
        return value
    text: object = text_of(value, "input")
    return text if {key for key, each in value.items() if each is not None} == {"text"} else value


def _not_zero(value: int) -> int:
    if value == 0:
        raise ValueError("no token would be read")
    return value


def _input_form(value: object) -> str:
    """Return which of OpenAI's four forms an `input` has, by its first element."""
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
    | Annotated[list[Text], Field(min_length=1, max_length=embed.MOST_TEXTS), Tag("texts")]
    | Annotated[Ids, Tag("ids")]
    | Annotated[list[Ids], Field(min_length=1, max_length=embed.MOST_TEXTS), Tag("id_lists")],
    Discriminator(_input_form),
]
OneKind = Annotated[
    Kind | None,
    BeforeValidator(
        lambda value: value[0] if isinstance(value, list) and len(value) == 1 else value,
        json_schema_input_type=Kind
        | Annotated[list[Kind], Field(min_length=1, max_length=1)]
        | None,
    ),
]


class Message(BaseModel):
    """A message of a chat: its content is a text, or parts that are texts."""

    role: str = "user"
    content: str | list[TextItem]


MessageText = Annotated[
    StrictStr,
    BeforeValidator(
        lambda value: text_of(value, "messages") if isinstance(value, dict) else None,
        json_schema_input_type=Message | Parts,
    ),
]
Messages = Annotated[list[MessageText], Field(min_length=1, max_length=1)]
EncodingField = Annotated[
    Encoding,
    BeforeValidator(
        lambda value: "bytes" if value == "bytes_only" else value,
        json_schema_input_type=Encoding | Literal["bytes_only"],
    ),
]
TokenLimit = Annotated[StrictInt, Field(ge=-1), AfterValidator(_not_zero)]
Ignored = Annotated[Any, doc("Any value: it cannot change a vector.")]


class OpenAIBody(Known):
    """Body of `POST /v1/embeddings`: OpenAI's fields, our own, and other services' names for them.
    Every field listed here is honoured or refused; null is the same as no field.
    """

    given_texts = ("input",)

    input: OpenAIInput | None = optional(
        "A text, a list of texts, a list of token ids, or a list of such lists. "
        'A text may also be `{"text": ...}`.'
    )
    messages: Messages | None = optional(
        "Instead of `input`: a list of one message. The text of its content is embedded as it is, "
        "without a chat template; images are not read."
    )
    model: StrictStr | None = optional(
        "Id or name of a model; without it the default model is used."
    )
    model_id: StrictStr | None = optional("The same as `model`.")
    # How vectors are written.
    encoding_format: EncodingField | None = optional(
        "`float` (default), `base64` of the numbers of the chosen type, or `bytes` (`bytes_only`): "
        "the body is one array, and `X-Embedding-Shape` and `X-Embedding-Dtype` say how to read it."
    )
    output_dtype: DtypeField | None = optional(
        "`float32` or `float` (default), `float16`, `int8` (127 times a number of the unit vector, "
        "rounded), `uint8` (the same plus 128), `ubinary` (a bit for a number over 0, eight a "
        "byte, the first the highest) or `binary` (the same minus 128)."
    )
    embedding_type: OneKind = optional(
        "`float` or `base64` as `encoding_format`, `binary` or `ubinary` as "
        "`output_dtype`; or a list of one of them."
    )
    encoding_type: OneKind = optional(
        "As `embedding_type`, by LlamaIndex's name: `float`, `base64`, `binary` or `ubinary`."
    )
    embed_dtype: Literal["float32", "float16"] | None = optional(
        "As `output_dtype`: `float32` or `float16`."
    )
    endianness: Literal["native", "little", "big"] | None = optional(
        "The order of the bytes of a number in base64 or bytes: `little` (default, and `native`) "
        "or `big`."
    )
    # Which vector.
    dimensions: StrictInt | None = optional(
        "Cut vectors to this many numbers, 1 or more, then normalise them again.", ge=1
    )
    output_dimension: StrictInt | None = optional("As `dimensions`.", ge=1)
    normalize: StrictBool | None = optional(
        "Scale vectors to length 1, as OpenAI does: `true` (default) or `false`."
    )
    normalized: StrictBool | None = optional("As `normalize`: `true` or `false`.")
    use_activation: StrictBool | None = optional("As `normalize`: `true` or `false`.")
    prompt_name: StrictStr | None = optional("One of the model's prompts.")
    input_type: StrictStr | None = optional(
        "As `prompt_name`, by the names of other services (`search_query`, ...)."
    )
    task: StrictStr | None = optional("As `prompt_name`, by Jina's names (`retrieval.query`, ...).")
    prompt: StrictStr | None = optional(
        "The text of a prompt, put before each input instead of that of the side that `input_type` "
        "or `task` names; at most 10,000 characters.",
        max_length=embed.MOST_PROMPT,
    )
    # An input over the model's limit.
    truncate: embed.Cut = optional(
        "For an input that is longer than the model's limit: keep its start (`right` "
        "or `END`), keep its end (`left` or `START`), cut as the tokenizer does (`auto`), cut as "
        "the service does (true), or refuse it (`error`, `NONE` or false)."
    )
    truncation: StrictBool | None = optional(
        "`true`: cut an input over the model's limit; `false`: refuse it."
    )
    truncation_side: Side | None = optional(
        "The side that is cut off: `right` (the end) or `left`."
    )
    truncation_direction: Side | None = optional("As `truncation_side`.")
    truncate_prompt_tokens: TokenLimit | None = optional(
        "Tokens at which an input is cut, 1 or more; -1, or a number over the model's limit: at "
        "that limit."
    )
    # What an input is.
    late_chunking: StrictBool | None = optional(
        "`true`: all inputs are the chunks of one document, which the model reads as a whole "
        "before each chunk is pooled; or `false`."
    )
    return_multivector: StrictBool | None = optional(
        "`true`: the vectors of an input's tokens, as `embeddings`, for a model that gives them; "
        "or `false`."
    )
    # Fields with one valid value.
    add_special_tokens: StrictBool | None = optional(
        "`true`: texts get the model's special tokens. `false` is only for `messages`, which get "
        "them too, as no chat template has them."
    )
    outputs: tuple[Literal["dense"]] | None = optional(
        "Only a list of `dense`: `POST /embed` gives others."
    )
    top_n: None = optional("Only null: `POST /embed` gives sparse vectors.")
    min_weight: None = optional("Only null: `POST /embed` gives sparse vectors.")
    sparse_format: None = optional("Only null: `POST /embed` gives sparse vectors.")
    continue_final_message: StrictBool | None = optional(
        "`true` or `false`: without a chat template it changes nothing."
    )
    padding: StrictBool | Literal["longest", "do_not_pad"] | None = optional(
        "`true`, `false`, `longest` or `do_not_pad`: it changes no vector."
    )
    mm_processor_kwargs: Annotated[dict[str, Any], Field(max_length=0)] | None = optional(
        "Only an empty object: there are no images."
    )
    modality: Literal["text"] | None = optional("Only `text`.")
    embedding_types: tuple[Literal["float"]] | None = optional(
        "Only a list of `float`: send `output_dtype` for another."
    )
    task_type: None = optional("Only null: send `input_type`.")
    instruction: None = optional("Only null: send `prompt`.")
    chat_template: None = optional("Only null: a message is embedded without one.")
    user: Ignored = None
    request_id: Ignored = None
    priority: Priority | None = optional(PRIORITY)
    cache_salt: Ignored = None
    drop_params: Ignored = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.input is not None and self.messages is not None:
            raise BadRequest("messages: input is there too; send one of them", param="messages")
        if self.input is None and self.messages is None:
            raise BadRequest("input: it is missing; send what to embed", param="input")
        if self.add_special_tokens is False and self.messages is None:
            raise BadRequest(
                "add_special_tokens: false is refused: texts get the model's special tokens; leave "
                "it out",
                param="add_special_tokens",
            )
        if self.late_chunking and self.return_multivector:
            raise BadRequest(
                "late_chunking and return_multivector contradict each other; send one of them",
                param="late_chunking",
            )
        if self.late_chunking and self.most_tokens is not None:
            raise BadRequest(
                "truncate_prompt_tokens: a document is cut at the model's limit only; leave it out",
                param="truncate_prompt_tokens",
            )
        if self.late_chunking and len(self.texts) < len(self.inputs):
            raise BadRequest(
                "late_chunking: token ids cannot be chunks of a text; send texts",
                param="late_chunking",
            )
        if self.return_multivector and (named := self.given("dimensions")):
            field = next(iter(named))
            raise BadRequest(
                f"{field}: the vectors of tokens cannot be shortened; leave it out", param=field
            )
        return self

    @property
    def inputs(self) -> Sequence[Input]:
        """The inputs as a list, in whichever form they came."""
        if self.input is None:
            return self.messages or ()
        alone = isinstance(self.input, str) or isinstance(self.input[0], int)
        return cast(Sequence[Input], [self.input] if alone else self.input)

    @property
    def texts(self) -> list[str]:
        """The inputs, where none is token ids."""
        return [each for each in self.inputs if isinstance(each, str)]

    @property
    def most_tokens(self) -> int | None:
        """The tokens at which an input is cut, if not at the model's limit."""
        asked = self.truncate_prompt_tokens
        return None if asked == -1 else asked

    def given(self, name: str | None) -> dict[str, Any]:
        """Return the values of the fields that mean what the engine calls `name`."""
        values = {same: getattr(self, same) for same in SAME.get(name or "", ())}
        return {same: value for same, value in values.items() if value is not None}


class Usage(TypedDict):
    """The tokens that the model read."""

    prompt_tokens: int
    total_tokens: int
    chunk_tokens: NotRequired[
        Annotated[list[int], doc("With `late_chunking`: how many of them each input has.")]
    ]


def options_of(body: OpenAIBody, default: Truncate) -> embed.Options:
    """Return the options of a body. Raises BadRequest where two fields contradict each other.

    `default` is what the service does with an input that is too long.
    """
    roles = body.given("input_type")
    prompts = {**body.given("prompt_name"), **roles}
    agreed(body, {name: side_of(prompt) or prompt for name, prompt in prompts.items()})
    if body.prompt is not None and body.prompt_name is not None:
        raise BadRequest("prompt and prompt_name both choose a prompt; send one", param="prompt")
    return embed.Options(
        dimensions=agreed(body, body.given("dimensions")),
        truncate=truncate_of(body, default),
        prompt_name=body.prompt_name,
        prompt=body.prompt,
        input_type=next(iter(roles.values()), None),
    )


def normalize_of(body: OpenAIBody) -> bool:
    """Return whether vectors are scaled to length 1, as OpenAI's are. Raises BadRequest."""
    asked = agreed(body, body.given("normalize"))
    return True if asked is None else asked


def form_of(body: OpenAIBody) -> Form:
    """Return how the vectors are written. Raises BadRequest."""
    kinds = {name: KINDS[getattr(body, name)] for name in ("embedding_type", "encoding_type")}
    dtypes: dict[str, Dtype | None] = {
        "output_dtype": body.output_dtype,
        **{name: dtype for name, (_, dtype) in kinds.items()},
        "embed_dtype": body.embed_dtype,
        "embedding_types": "float32" if body.embedding_types else None,
    }
    encodings: dict[str, Encoding | None] = {
        "encoding_format": body.encoding_format,
        **{name: encoding for name, (encoding, _) in kinds.items()},
    }
    form = Form(
        agreed(body, encodings) or "float",
        agreed(body, dtypes) or "float32",
        big_endian=body.endianness == "big",
    )
    embed.normalized(form, normalize_of(body), next(iter(body.given("normalize")), "normalize"))
    return form
