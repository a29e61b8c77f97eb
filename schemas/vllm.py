"""The JSON of vLLM's own routes."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, StrictStr, model_validator
from typing_extensions import TypedDict

from embedders.base import Input, Truncate
from errors import BadRequest
from schemas.base import Numbers, Rows, doc, optional
from schemas.embed import MOST_PROMPT, MOST_TEXTS
from schemas.forms import Form
from schemas.known import PRIORITY, Known, Priority, Side, TextItem
from schemas.openai import MOST_IDS, Ignored, Messages, OpenAIInput, TokenLimit, Usage
from schemas.parts import Parts, text_of

Task = Literal["embed", "token_embed", "classify"]


class OfVLLM(Known):
    """The fields of several of vLLM's routes."""

    model: StrictStr | None = optional("Id or name of a model; without it the default one.")
    truncate_prompt_tokens: TokenLimit | None = optional(
        "Tokens at which an input is cut, 1 or more; -1, or a number over the model's limit: at "
        "that limit."
    )
    truncation_side: Side | None = optional(
        "The side that is cut off: `right` (the end) or `left`."
    )
    use_activation: StrictBool | None = optional(
        "`true` (default): vectors of length 1, and scores as the model's activation makes them; "
        "`false`: vectors and scores before that."
    )
    normalize: None = optional("It was removed from vLLM's API: send `use_activation`.")
    softmax: None = optional("It was removed from vLLM's API: send `use_activation`.")
    activation: None = optional("It was removed from vLLM's API: send `use_activation`.")
    input_type: None = optional("Only null: write what goes before a text into the text.")
    padding: Literal["do_not_pad"] | None = optional("Only `do_not_pad`.")
    mm_processor_kwargs: Annotated[dict[str, Any], Field(max_length=0)] | None = optional(
        "Only an empty object: this service is text only."
    )
    chat_template: None = optional("Only null: texts are read as they are.")
    chat_template_kwargs: Annotated[dict[str, Any], Field(max_length=0)] | None = optional(
        "Only an empty object: texts are read as they are."
    )
    user: Ignored = None
    request_id: Ignored = None
    priority: Priority | None = optional(PRIORITY)
    cache_salt: Ignored = None

    @property
    def most_tokens(self) -> int | None:
        """The tokens at which an input is cut, if not at the model's limit."""
        asked = self.truncate_prompt_tokens
        return None if asked == -1 else asked

    def truncate(self, default: Truncate) -> Truncate:
        """Return what is done to an input that is too long; `default` is what the service does."""
        if default == "error":
            cut = self.truncate_prompt_tokens is not None
            return (self.truncation_side or "auto") if cut else "error"
        return self.truncation_side or default


class PoolingBody(OfVLLM):
    """Body of `POST /pooling`."""

    given_texts = ("input",)

    input: OpenAIInput | None = optional(
        "A text, a list of texts, a list of token ids, or a list of such lists."
    )
    messages: Messages | None = optional(
        "Instead of `input`: a list of one message. The text of its content is read as it is, "
        "without a chat template; images are not read."
    )
    task: Task | None = optional(
        "`embed`: a vector of each input; `token_embed`: the vectors of its tokens; `classify`: "
        "its scores. Without it, what the model is for. (vLLM removed `score` for `classify` and "
        "`encode` for `token_embed`.)"
    )
    dimensions: StrictInt | None = optional(
        "With `embed`: cut vectors to this many numbers, then normalise them again.", ge=1
    )
    encoding_format: Literal["float", "base64", "bytes", "bytes_only"] | None = optional(
        "`float` (default), `base64`, or `bytes`: the body is the numbers of all inputs, and the "
        "header `metadata` says where each input's are; `bytes_only`: without this header."
    )
    embed_dtype: Literal["float32", "float16"] | None = optional(
        "The type of numbers in base64 and bytes: `float32` (default) or `float16`."
    )
    endianness: Literal["native", "little", "big"] | None = optional(
        "The order of a number's bytes in base64 and bytes: `little` (default, and `native`) or "
        "`big`."
    )
    add_special_tokens: StrictBool | None = optional(
        "`true`: texts get the model's special tokens. `false` is only for `messages`, which get "
        "them too, as no chat template has them."
    )
    data: None = optional("Only null: there are no plugins here.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.input is None) == (self.messages is None):
            raise BadRequest("input: give input (or messages, but not both)", param="input")
        if self.add_special_tokens is False and self.messages is None:
            raise BadRequest(
                "add_special_tokens: false is refused: texts get the model's special tokens; leave "
                "it out",
                param="add_special_tokens",
            )
        return self

    @property
    def inputs(self) -> list[Input]:
        """The inputs as a list, in whichever form they came."""
        given: Any = self.messages if self.input is None else self.input
        alone = isinstance(given, str) or isinstance(given[0], int)
        return [given] if alone else list(given)

    @property
    def form(self) -> Form:
        """How the numbers are written. As JSON they are float32, as vLLM has it."""
        encoding = (self.encoding_format or "float").removesuffix("_only")
        if encoding == "float":
            return Form()
        made: Literal["base64", "bytes"] = "base64" if encoding == "base64" else "bytes"
        return Form(made, self.embed_dtype or "float32", self.endianness == "big")


def _many(value: object) -> object:
    return [value] if isinstance(value, str | dict) else value


ScoreText = Annotated[
    StrictStr,
    BeforeValidator(
        lambda value, info: text_of(value, info.field_name),
        json_schema_input_type=str | TextItem | Parts,
    ),
]
ScoreTexts = Annotated[
    list[ScoreText],
    Field(min_length=1, max_length=MOST_TEXTS),
    BeforeValidator(_many, json_schema_input_type=str | TextItem | Parts | list[ScoreText]),
]
FIRST, SECOND = ("queries", "text_1", "data_1"), ("documents", "items", "text_2", "data_2")


class ScoreBody(OfVLLM):
    """Body of `POST /score` and `POST /v1/score`: one query for all documents, or one for each."""

    given_texts = (*FIRST, *SECOND)

    queries: ScoreTexts | None = optional("A text or a list of texts.")
    text_1: ScoreTexts | None = optional("As `queries`.")
    data_1: ScoreTexts | None = optional("As `queries`.")
    documents: ScoreTexts | None = optional("A text or a list of texts.")
    items: ScoreTexts | None = optional("As `documents`.")
    text_2: ScoreTexts | None = optional("As `documents`.")
    data_2: ScoreTexts | None = optional("As `documents`.")
    instruction: StrictStr | None = optional(
        "The instruction of a reranker that takes one; at most 10,000 characters.",
        max_length=MOST_PROMPT,
    )
    max_tokens_per_doc: StrictInt | None = optional(
        "With a reranker: tokens at which a document is cut; 0 for the model's limit.", ge=0
    )
    max_tokens_per_query: Literal[0] | None = optional(
        "Only 0: a query is cut as the model needs it."
    )

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        for names in (FIRST, SECOND):
            given = [name for name in names if getattr(self, name) is not None]
            if len(given) != 1:
                raise BadRequest(f"{names[0]}: give one of {', '.join(names)}", param=names[0])
        first, second = self.first[1], self.second[1]
        if len(first) not in (1, len(second)):
            raise BadRequest(
                f"{self.first[0]}: {len(first)} texts and {len(second)} of {self.second[0]} make "
                "no pairs: send one for all of those, or one for each",
                param=self.first[0],
            )
        return self

    @property
    def first(self) -> tuple[str, list[str]]:
        """The queries, after the name of their field."""
        return self._given(FIRST)

    @property
    def second(self) -> tuple[str, list[str]]:
        """The documents, after the name of their field."""
        return self._given(SECOND)

    def _given(self, names: tuple[str, ...]) -> tuple[str, list[str]]:
        name = next(name for name in names if getattr(self, name) is not None)
        return name, getattr(self, name)


class VllmTokenizeBody(Known):
    """Body of vLLM's `POST /tokenize`."""

    given_texts = ("prompt",)

    prompt: StrictStr | None = optional("A text.")
    messages: Messages | None = optional(
        "Instead of `prompt`: a list of one message. The text of its content is read as it is, "
        "without a chat template."
    )
    model: StrictStr | None = optional("Id or name of a model; without it the default one.")
    add_special_tokens: StrictBool | None = optional(
        "Whether the model's special tokens are among them: `true` (the default of `prompt`) or "
        "`false` (that of `messages`)."
    )
    return_token_strs: StrictBool | None = optional(
        "`true`: also the text of each token, as it stands in the prompt; `false` (default)."
    )
    add_generation_prompt: StrictBool | None = optional(
        "`true` or `false`: without a chat template it changes nothing."
    )
    continue_final_message: StrictBool | None = optional(
        "`true` or `false`: without a chat template it changes nothing."
    )
    tools: Annotated[list[Any], Field(max_length=0)] | None = optional("Only null.")
    chat_template: None = optional("Only null: a message is read without one.")
    mm_processor_kwargs: Annotated[dict[str, Any], Field(max_length=0)] | None = optional(
        "Only an empty object: this service is text only."
    )

    @model_validator(mode="after")
    def _one_text(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise BadRequest("prompt: give prompt (or messages, but not both)", param="prompt")
        return self


class VllmDetokenizeBody(Known):
    """Body of `POST /detokenize`."""

    given_texts = ("tokens",)

    tokens: Annotated[list[Annotated[StrictInt, Field(ge=0)]], Field(max_length=MOST_IDS)] = doc(
        "Ids of tokens in the model's vocabulary."
    )
    model: StrictStr | None = optional("Id or name of a model; without it the default one.")


class Pooled(TypedDict):
    """What the model made of one input."""

    index: int
    object: Literal["pooling"]
    data: Annotated[
        Numbers | Rows | str, doc("A vector, the vectors of all tokens, or scores; or base64.")
    ]


class PoolingReply(TypedDict):
    """Reply of `POST /pooling`."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Pooled]
    usage: Usage


class Score(TypedDict):
    """The score of a pair."""

    index: int
    object: Literal["score"]
    score: float


class ScoreReply(TypedDict):
    """Reply of `POST /score`: a score for each document."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Score]
    usage: Usage


class VllmTokenizeReply(TypedDict):
    """Reply of vLLM's `POST /tokenize`."""

    count: int
    max_model_len: Annotated[int, doc("The most tokens that the model reads; 0 for no limit.")]
    tokens: list[int]
    token_strs: list[str] | None


class VllmDetokenizeReply(TypedDict):
    """Reply of `POST /detokenize`."""

    prompt: str
