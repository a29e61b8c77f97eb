"""The JSON of `/v1`: OpenAI's bodies and replies, and the fields that other services' clients send.

`OpenAIBody` lists every known field with its valid values. A known field is honoured, or it is a
400 that names it; null is the same as no field. Unknown fields are ignored, as servers that are
compatible with OpenAI do.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    Tag,
)
from typing_extensions import TypedDict

from embedders.base import Input, Truncate, Vectors, side_of
from errors import BadRequest
from schemas import embed
from schemas.base import Numbers, doc, optional
from schemas.forms import Dtype, DtypeField, Encoding, Form, written
from schemas.known import Known, TextItem, agreed, truncate_of

Kind = Literal["float", "base64", "binary", "ubinary"]
Value = TypeVar("Value")
MOST_IDS = 1_000_000  # token ids of one input; it only bounds what is read of a bad body
# The fields that mean the same, by the name under which the engine refuses a value.
SAME = {
    "dimensions": ("dimensions", "output_dimension"),
    "prompt_name": ("prompt_name",),
    "input_type": ("input_type", "task"),
    "normalize": ("normalize", "normalized", "use_activation"),
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
    if isinstance(value, dict) and "image" in value:
        raise BadRequest(
            'input: an image cannot be embedded; send a text, or {"text": ...}', param="input"
        )
    return value["text"] if isinstance(value, dict) and set(value) == {"text"} else value


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
Ignored = Annotated[Any, doc("Any value: it cannot change a vector.")]


class OpenAIBody(Known):
    """Body of `POST /v1/embeddings`: OpenAI's fields, our own, and other services' names for them.
    Every field listed here is honoured or refused; null is the same as no field.
    """

    given_texts = ("input",)

    input: OpenAIInput = doc(
        "A text, a list of texts, a list of token ids, or a list of such lists. "
        'A text may also be `{"text": ...}`.'
    )
    model: StrictStr | None = optional(
        "Id or name of a model; without it the default model is used."
    )
    # How vectors are written.
    encoding_format: Encoding | None = optional(
        "`float` (default), `base64` of little-endian numbers, or `bytes`: the body is one array, "
        "and `X-Embedding-Shape` and `X-Embedding-Dtype` say how to read it."
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
    embed_dtype: Literal["float32"] | None = optional(
        "Only `float32`: the numbers of `float` in base64."
    )
    endianness: Literal["native", "little"] | None = optional(
        "`native` or `little`, which are the same here."
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
        "The text of a prompt, put before each input; at most 10,000 characters.",
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
    truncation_side: Literal["left", "right"] | None = optional(
        "The side that is cut off: `right` (the end) or `left`."
    )
    truncate_prompt_tokens: StrictInt | None = optional(
        "Cut at the model's limit: -1, or a number that is not below it.", ge=-1
    )
    # Fields with one valid value.
    messages: None = optional("Only null: give `input`.")
    add_special_tokens: Literal[True] | None = optional(
        "Only `true`: texts get the model's special tokens."
    )
    late_chunking: Literal[False] | None = optional(
        "Only `false`: each input is encoded by itself."
    )
    return_multivector: Literal[False] | None = optional(
        "Only `false`: an input has one vector here; `POST /embed` gives several."
    )
    outputs: tuple[Literal["dense"]] | None = optional(
        "Only a list of `dense`: `POST /embed` gives others."
    )
    top_n: None = optional("Only null: `POST /embed` gives sparse vectors.")
    min_weight: None = optional("Only null: `POST /embed` gives sparse vectors.")
    sparse_format: None = optional("Only null: `POST /embed` gives sparse vectors.")
    continue_final_message: Literal[False] | None = optional("Only `false`: there are no messages.")
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
    truncation_direction: None = optional("Only null: send `truncation_side`.")
    task_type: None = optional("Only null: send `input_type`.")
    instruction: None = optional("Only null: send `prompt`.")
    chat_template: None = optional("Only null: there are no messages.")
    user: Ignored = None
    request_id: Ignored = None
    priority: Ignored = None
    cache_salt: Ignored = None
    drop_params: Ignored = None

    @property
    def inputs(self) -> Sequence[Input]:
        """The inputs as a list, in whichever form they came."""
        alone = isinstance(self.input, str) or isinstance(self.input[0], int)
        return cast(Sequence[Input], [self.input] if alone else self.input)

    def given(self, name: str | None) -> dict[str, Any]:
        """Return the values of the fields that mean what the engine calls `name`."""
        values = {same: getattr(self, same) for same in SAME.get(name or "", ())}
        return {same: value for same, value in values.items() if value is not None}


class OpenAIEmbedding(TypedDict):
    """One vector of an OpenAI reply."""

    object: Literal["embedding"]
    index: int
    embedding: Numbers | str


class Usage(TypedDict):
    """The tokens that the model read."""

    prompt_tokens: int
    total_tokens: int


class OpenAIReply(TypedDict):
    """Reply of `POST /v1/embeddings`."""

    object: Literal["list"]
    data: list[OpenAIEmbedding]
    model: str
    usage: Usage


class OpenAIModelReply(TypedDict):
    """One model, as OpenAI's clients read it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    prompts: list[str]


class OpenAIModelsReply(TypedDict):
    """The models that a request can name."""

    object: Literal["list"]
    data: list[OpenAIModelReply]


def openai_reply(vectors: Vectors, form: Form, model: str, tokens: int) -> OpenAIReply:
    """Return (n, d) vectors as OpenAI's reply."""
    rows = enumerate(written(vectors, form))
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": i, "embedding": row} for i, row in rows],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


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
    encoding, dtype = KINDS[body.embedding_type]
    dtypes: dict[str, Dtype | None] = {
        "output_dtype": body.output_dtype, "embedding_type": dtype, "embed_dtype": body.embed_dtype,
        "embedding_types": "float32" if body.embedding_types else None,
    }  # fmt: skip
    form = Form(
        agreed(body, {"encoding_format": body.encoding_format, "embedding_type": encoding})
        or "float",
        agreed(body, dtypes) or "float32",
    )
    embed.normalized(form, normalize_of(body), next(iter(body.given("normalize")), "normalize"))
    return form
