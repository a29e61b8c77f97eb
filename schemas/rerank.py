"""The JSON of `POST /rerank`: the fields of Cohere, Jina, Voyage, vLLM, Infinity and TEI.

`documents` is answered as Cohere, Jina and Voyage do, with one reply for all of them; `texts` is
answered as TEI does, with a list.
"""

from typing import Annotated, Any, Literal, NotRequired, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
)
from pydantic import model_validator as model_check
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from embedders.base import Truncate
from errors import BadRequest
from schemas import embed
from schemas.base import doc, optional
from schemas.known import Known, agreed, truncate_of


def _text(value: object) -> object:
    """Return the text of a document. Raises BadRequest for an image or for parts of a message."""
    if not isinstance(value, dict):
        return value
    if "image" in value or "content" in value:
        raise BadRequest(
            'documents: an image cannot be scored; send a text, or {"text": ...}', param="documents"
        )
    return value.get("text", value)


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("query", "it is empty: send what the documents should answer")
    return text


def _flag(value: object) -> object:
    """Return the words "true" and "false" as what they mean: RAGFlow sends them so."""
    words = {"true": True, "false": False}
    return words.get(value.lower(), value) if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class DocumentItem(BaseModel):
    """A document as an object: its `text` is scored, and other fields are ignored."""

    text: str


Document = Annotated[StrictStr, BeforeValidator(_text, json_schema_input_type=str | DocumentItem)]
Documents = Annotated[list[Document], Field(min_length=1, max_length=embed.MOST_TEXTS)]
Flag = Annotated[
    StrictBool,
    BeforeValidator(_flag, json_schema_input_type=bool | Literal["true", "false", "True", "False"]),
]
Side = Annotated[
    Literal["left", "right"],
    BeforeValidator(_lower, json_schema_input_type=Literal["left", "right", "Left", "Right"]),
]
OF_VECTORS = "Only null: `POST /rerank` gives scores; `POST /embed` gives vectors."
Ignored = Annotated[Any, doc("Any value: it changes no score.")]


class RerankBody(Known):
    """Body of `POST /rerank`: a query, and exactly one of `documents` and `texts`. Of several names
    for one field any will do; every field listed here is honoured or refused, and null is the same
    as no field.
    """

    given_texts = ("query", "documents", "texts")

    query: Annotated[StrictStr, AfterValidator(_not_blank)] = doc(
        "What the documents should answer."
    )
    documents: Documents | None = optional(
        "Texts, or objects with a `text`; the reply has `results`, the best first."
    )
    texts: Documents | None = optional("As `documents`, answered by a list as TEI does.")
    model: StrictStr | None = optional(
        "Id or name of a reranker; without it the default model is used if it is one, else the "
        "first that is."
    )
    model_id: StrictStr | None = optional("The same as `model`.")
    top_n: StrictInt | None = optional("Return only so many, the best; 0 for all.", ge=0)
    top_k: StrictInt | None = optional("As `top_n`.", ge=0)
    return_documents: Flag | None = optional("Whether each result has its document's text.")
    return_text: Flag | None = optional("As `return_documents`.")
    raw_scores: Flag | None = optional(
        "`true`: the model's logits; `false` (default): what its own activation makes of them, for "
        "most models a sigmoid, so that scores are in 0..1."
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
    truncate_prompt_tokens: StrictInt | None = optional(
        "Cut at the model's limit: -1, or a number that is not below it.", ge=-1
    )
    max_tokens_per_doc: StrictInt | None = optional(
        "Tokens at which a document is cut: a number that is not below the model's limit.", ge=1
    )
    # Fields with one valid value.
    max_chunks_per_doc: Literal[1] | None = optional("Only 1: a document is not split.")
    rank_fields: tuple[Literal["text"]] | None = optional("Only a list of `text`.")
    # Our own fields of vectors.
    outputs: None = optional(OF_VECTORS)
    dimensions: None = optional(OF_VECTORS)
    normalize: None = optional(OF_VECTORS)
    encoding_format: None = optional(OF_VECTORS)
    output_dtype: None = optional(OF_VECTORS)
    sparse_format: None = optional(OF_VECTORS)
    min_weight: None = optional(OF_VECTORS)
    input_type: None = optional("Only null: a query and its documents have no other role.")
    # `usage` is in every reply.
    return_len: Ignored = None
    user: Ignored = None
    priority: Ignored = None
    request_id: Ignored = None
    cache_salt: Ignored = None

    @model_check(mode="after")
    def _one_list(self) -> Self:
        if (self.documents is None) == (self.texts is None):
            raise PydanticCustomError("documents", "give either documents or texts")
        return self

    @property
    def given(self) -> list[str]:
        """The documents, in whichever field they came."""
        return list(self.documents or self.texts or ())

    @property
    def most(self) -> int | None:
        """How many results are wanted; None for all. Raises BadRequest."""
        return agreed(self, {"top_n": self.top_n, "top_k": self.top_k}) or None

    @property
    def with_text(self) -> bool:
        """Whether a result has its document. Raises BadRequest."""
        fields = {"return_documents": self.return_documents, "return_text": self.return_text}
        return bool(agreed(self, fields))

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
        """Return how pairs are read. Raises BadRequest where fields contradict each other."""
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
            doc("If asked for; a string for callers that send Voyage's fields."),
        ]
    ]


class UsageReply(TypedDict):
    """The tokens that the model read."""

    prompt_tokens: int
    total_tokens: int


class VersionReply(TypedDict):
    """The version of Cohere's API that the reply has the form of."""

    version: str


class BilledReply(TypedDict):
    """What Cohere counts: a query with its documents is one."""

    search_units: int


class MetaReply(TypedDict):
    """What Cohere's clients read besides the results."""

    api_version: VersionReply
    billed_units: BilledReply


class RerankReply(TypedDict):
    """Reply of `POST /rerank` to `documents`, the best first."""

    id: str
    object: Literal["rerank"]
    model: str
    results: list[RankedReply]
    data: Annotated[list[RankedReply], doc("The same as `results`, for Voyage's clients.")]
    usage: UsageReply
    meta: MetaReply


class ScoredReply(TypedDict):
    """A text's place and score, as TEI writes it."""

    index: int
    score: float
    text: NotRequired[str]
