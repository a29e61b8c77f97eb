"""The JSON of `/rerank` with `documents`, on all of its paths: the fields of Cohere, Jina, Voyage,
vLLM, Infinity, Xinference and LocalAI, and one reply for all of them.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from embedders.base import Truncate
from errors import BadRequest
from schemas import embed
from schemas.base import doc, optional
from schemas.known import PRIORITY, Known, Priority, Side, agreed, truncate_of
from schemas.openai import TokenLimit
from schemas.parts import Parts, text_of

OF_VECTORS = "Only null: this route gives scores; `POST /embed` gives vectors."


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("query", "it is empty: send what the documents should answer")
    return text


def _flag(value: object) -> object:
    """Return the words "true" and "false" as what they mean: RAGFlow sends them so."""
    words = {"true": True, "false": False}
    return words.get(value.lower(), value) if isinstance(value, str) else value


def _document(value: object, info: ValidationInfo) -> object:
    """Return the text of a document: of an object its `text`, or its `rank_fields` in their order.

    Raises BadRequest for an image.
    """
    fields = info.data.get("rank_fields")
    if not isinstance(value, dict) or fields is None:
        return text_of(value, "documents")
    given = [value[name] for name in fields if value.get(name) is not None]
    if not given:
        raise PydanticCustomError("documents", "it has none of the rank_fields")
    plain = all(isinstance(each, str | int | float) for each in given)
    return "\n".join(map(str, given)) if plain else value


class DocumentItem(BaseModel):
    """A document as an object: its `text` is scored, or the fields that `rank_fields` names."""

    text: str


Query = Annotated[
    StrictStr,
    AfterValidator(_not_blank),
    BeforeValidator(
        lambda value: text_of(value, "query"), json_schema_input_type=str | DocumentItem | Parts
    ),
]
Document = Annotated[
    StrictStr,
    BeforeValidator(_document, json_schema_input_type=str | dict[str, Any]),
]
Flag = Annotated[
    StrictBool,
    BeforeValidator(_flag, json_schema_input_type=bool | Literal["true", "false", "True", "False"]),
]
Ignored = Annotated[Any, doc("Any value: it changes no score.")]


class RerankBody(Known):
    """Body of `POST /rerank`, `/v1/rerank`, `/v2/rerank` and `/api/rerank`: a query and documents.
    Of several names for one field any will do; every field listed here is honoured or refused, and
    null is the same as no field.
    """

    given_texts = ("query", "documents")

    query: Query = doc("What the documents should answer.")
    # It stands before the documents, which are read by it.
    rank_fields: Annotated[list[StrictStr], Field(min_length=1, max_length=100)] | None = optional(
        "The fields of a document that is an object, in the order in which their values are read, "
        "one below the other; without it `text`."
    )
    documents: Annotated[list[Document], Field(min_length=1, max_length=embed.MOST_TEXTS)] = doc(
        "Texts; or objects with a `text`, with the `rank_fields`, or with `content`, a list of "
        "parts of text."
    )
    model: StrictStr | None = optional(
        "Id or name of a reranker; without it the default model is used if it is one, else the "
        "first that is."
    )
    model_id: StrictStr | None = optional("The same as `model`.")
    top_n: StrictInt | None = optional("Return only so many, the best; 0 for all.", ge=0)
    top_k: StrictInt | None = optional("As `top_n`.", ge=0)
    return_documents: Flag | None = optional(
        "Whether each result has its document's text. The default is `true` on `/rerank` and "
        "`/v1/rerank`, as Jina and vLLM do, and `false` on `/v2/rerank` and `/api/rerank` and for "
        "callers that send Voyage's `top_k` or `truncation`."
    )
    return_text: Flag | None = optional("As `return_documents`.")
    raw_scores: Flag | None = optional(
        "`true`: the model's logits; `false` (default): a sigmoid of them, so that scores are in "
        "0..1."
    )
    use_activation: Flag | None = optional("The opposite of `raw_scores`: `true` or `false`.")
    prompt_name: StrictStr | None = optional("One of the model's prompts (instructions).")
    prompt: StrictStr | None = optional(
        "The instruction of a model that takes one; at most 10,000 characters.",
        max_length=embed.MOST_PROMPT,
    )
    instruction: StrictStr | None = optional("As `prompt`.", max_length=embed.MOST_PROMPT)
    # A pair over the model's limit.
    truncate: embed.Cut = optional(
        "For a document that is too long beside the query: keep its start (`right` or `END`), keep "
        "its end (`left` or `START`), cut as the service does (true), or refuse it (`error`, "
        "`NONE` or false)."
    )
    truncation: Flag | None = optional(
        "`true`: cut a document that is too long; `false`: refuse it."
    )
    truncation_side: Side | None = optional(
        "The side that is cut off: `right` (the end) or `left`."
    )
    truncation_direction: Side | None = optional("As `truncation_side`.")
    truncate_prompt_tokens: TokenLimit | None = optional(
        "Tokens at which a query with its document is cut, 1 or more; -1, or a number over the "
        "model's limit: at that limit."
    )
    max_tokens_per_doc: StrictInt | None = optional(
        "Tokens at which a document is cut, 1 or more; the model's limit stays.", ge=1
    )
    max_chunks_per_doc: StrictInt | None = optional(
        "The most parts that a document is split into, 1 or more. It is read as one part here, and "
        "cut if it is too long.",
        ge=1,
    )
    # Fields with one valid value.
    return_embeddings: Literal[False] | None = optional("Only `false`: `POST /embed` gives them.")
    max_doc_length: None = optional("Only null: send `max_tokens_per_doc`.")
    # Fields of requests for vectors.
    outputs: None = optional(OF_VECTORS)
    dimensions: None = optional(OF_VECTORS)
    normalize: None = optional(OF_VECTORS)
    encoding_format: None = optional(OF_VECTORS)
    output_dtype: None = optional(OF_VECTORS)
    sparse_format: None = optional(OF_VECTORS)
    min_weight: None = optional(OF_VECTORS)
    input_type: None = optional("Only null: a query and its documents have no other role.")
    # `usage` is in every reply, and there are no parts that could overlap.
    return_len: Ignored = None
    overlap_tokens: Ignored = None
    user: Ignored = None
    priority: Priority | None = optional(PRIORITY)
    request_id: Ignored = None
    cache_salt: Ignored = None

    @property
    def most(self) -> int | None:
        """How many results are wanted; None for all. Raises BadRequest."""
        return agreed(self, {"top_n": self.top_n, "top_k": self.top_k}) or None

    @property
    def with_text(self) -> bool | None:
        """Whether a result has its document; None if nothing says so. Raises BadRequest."""
        fields = {"return_documents": self.return_documents, "return_text": self.return_text}
        return agreed(self, fields)

    @property
    def raw(self) -> bool:
        """Whether scores are the model's logits. Raises BadRequest."""
        inverse = None if self.use_activation is None else not self.use_activation
        return bool(agreed(self, {"raw_scores": self.raw_scores, "use_activation": inverse}))

    @property
    def for_voyage(self) -> bool:
        """Whether the caller reads a result's document as a text and not as an object."""
        return self.top_k is not None or self.truncation is not None

    def options(self, default: Truncate) -> embed.Options:
        """Return how pairs are read. Raises BadRequest where fields contradict each other.

        `default` is what the service does; who names a limit wants documents cut at it.
        """
        if self.max_tokens_per_doc is not None and default == "error":
            default = "auto"
        prompt = agreed(self, {"prompt": self.prompt, "instruction": self.instruction})
        if prompt is not None and self.prompt_name is not None:
            raise BadRequest("prompt and prompt_name both choose one; send one", param="prompt")
        return embed.Options(
            truncate=truncate_of(self, default), prompt_name=self.prompt_name, prompt=prompt
        )


class DocumentReply(TypedDict):
    """The document of a result."""

    text: str


class RankedReply(TypedDict):
    """A document's place and score."""

    index: Annotated[int, doc("Its place among the documents that were sent, from 0.")]
    relevance_score: float
    document: NotRequired[
        Annotated[
            DocumentReply | str,
            doc("A string on `/api/rerank` and for callers that send Voyage's fields."),
        ]
    ]


class RerankUsage(TypedDict):
    """The tokens that the model read."""

    prompt_tokens: int
    total_tokens: int


class VersionReply(TypedDict):
    """The version of Cohere's API that the reply has the form of."""

    version: str


class SearchUnits(TypedDict):
    """What Cohere counts: a query with its documents is one."""

    search_units: int


class RerankMeta(TypedDict):
    """What Cohere's clients read besides the results."""

    api_version: VersionReply
    billed_units: SearchUnits
    warnings: NotRequired[Annotated[list[str], doc("That documents were cut.")]]


class RerankReply(TypedDict):
    """Reply to a query and its documents, the best first."""

    id: str
    object: Literal["rerank"]
    model: str
    results: list[RankedReply]
    data: Annotated[list[RankedReply], doc("The same as `results`, for Voyage's clients.")]
    usage: RerankUsage
    meta: RerankMeta
