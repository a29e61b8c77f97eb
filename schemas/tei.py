"""The JSON of `routes/dialects/tei.py`: the bodies and replies of text-embeddings-inference."""

from functools import partial
from typing import Annotated, Any, Literal, NotRequired, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    GetPydanticSchema,
    RootModel,
    StrictBool,
    StrictInt,
    StrictStr,
    Tag,
)
from pydantic_core import PydanticCustomError, core_schema
from typing_extensions import TypedDict

from embedders.base import Input, Pair, Truncate
from schemas.base import doc, optional
from schemas.embed import MOST_TEXTS, Options
from schemas.known import Known, Side, TextItem
from schemas.parts import text_of

MOST_IDS = 1_000_000  # token ids of one input; it only bounds what is read of a bad body


def _form(value: object) -> str:
    """Return which form `inputs` have, by the tags of pydantic's union."""
    if not isinstance(value, list):
        return "text"
    if value and isinstance(value[0], int):
        return "ids"
    return "id_lists" if any(isinstance(each, list) for each in value) else "texts"


def _sequences_form(value: object) -> str:
    """Return which form the `inputs` of `/predict` have: a list of texts is one text, or a pair."""
    form = _form(value)
    return "id_lists" if form == "ids" or value == [] else form


def _ids_form(value: object) -> str:
    """Return whether the `ids` of `/decode` are of one text, or lists of ids."""
    return "id_lists" if isinstance(value, list) and value and isinstance(value[0], list) else "ids"


def _sequence(value: object) -> object:
    """Return `["a"]` as a text, and `["a", "b"]` as a pair."""
    if not (isinstance(value, list) and all(isinstance(text, str) for text in value)):
        return value
    if len(value) not in (1, 2):
        raise PydanticCustomError("pair", "it should be one text, or the two texts of a pair")
    return value[0] if len(value) == 1 else Pair(*value)


# One message for a wrong input, instead of one for each of its two forms.
_Plain = GetPydanticSchema(
    lambda source, handler: core_schema.custom_error_schema(
        handler(source),
        custom_error_type="input",
        custom_error_message="it should be a text, or a list of one or more token ids",
    )
)
Ids = Annotated[list[StrictInt], Field(min_length=1, max_length=MOST_IDS)]
Text = Annotated[
    StrictStr,
    BeforeValidator(partial(text_of, field="texts"), json_schema_input_type=str | TextItem),
]
Many = Field(max_length=MOST_TEXTS)
Inputs = Annotated[
    Annotated[StrictStr, Tag("text")]
    | Annotated[list[StrictStr], Many, Tag("texts")]
    | Annotated[Ids, Tag("ids")]
    | Annotated[list[Annotated[StrictStr | Ids, _Plain]], Many, Tag("id_lists")],
    Discriminator(_form),
]
TextOrPair = Annotated[
    StrictStr | Pair,
    BeforeValidator(
        _sequence, json_schema_input_type=Annotated[list[str], Field(min_length=1, max_length=2)]
    ),
]
Sequences = Annotated[
    Annotated[StrictStr, Tag("text")]
    | Annotated[TextOrPair, Tag("texts")]
    | Annotated[list[TextOrPair], Many, Tag("id_lists")],
    Discriminator(_sequences_form),
]  # fmt: skip


class Cuts(Known):
    """What every body of TEI's has that is read by a model."""

    truncate: StrictBool | None = optional(
        "`true`: cut an input over the model's limit; `false`: refuse it; without it as the "
        "service does (`AUTO_TRUNCATE` or `TRUNCATE`)."
    )
    truncation_direction: Side | None = optional(
        "The side that is cut off: `right` (default) or `left`."
    )

    def options(
        self, default: Truncate, prompt_name: str | None = None, dimensions: int | None = None
    ) -> Options:
        """Return how the inputs are read. `default` is what the service does with long ones."""
        side: Truncate = self.truncation_direction or ("left" if default == "left" else "right")
        cuts = default != "error" if self.truncate is None else self.truncate
        how = side if cuts else "error"
        return Options(truncate=how, prompt_name=prompt_name, dimensions=dimensions)


class TeiBody(Cuts):
    """Body of `POST /embed_all` and `/embed_sparse`. Fields that are not here are ignored."""

    given_texts = ("inputs",)

    inputs: Inputs = doc("A text, a list of token ids, or a list of texts and of such lists.")
    prompt_name: StrictStr | None = optional("One of the model's prompts.")
    model: StrictStr | None = optional("Id or name of a model; TEI has only one.")

    @property
    def several(self) -> list[Input]:
        """The inputs as a list."""
        alone = isinstance(self.inputs, str) or isinstance(next(iter(self.inputs), None), int)
        return cast(list[Input], [self.inputs] if alone else self.inputs)


class TeiEmbedBody(TeiBody):
    """Body of `POST /embed` with `inputs`. Fields that are not here are ignored."""

    normalize: StrictBool = Field(
        True, description="Scale vectors to length 1: `true` (default) or `false`."
    )
    dimensions: StrictInt | None = optional(
        "1 or more: cut vectors to this many numbers, then normalise them again.", ge=1
    )
    encoding_format: Literal["float"] | None = optional(
        "Only `float`: `huggingface_hub` reads nothing else; `POST /v1/embeddings` gives base64."
    )


class TeiRerankBody(Cuts):
    """Body of `POST /rerank` with `texts`. Fields that are not here are ignored."""

    given_texts = ("query", "texts")

    query: StrictStr = doc("What the texts should answer.")
    texts: Annotated[list[Text], Many] = doc('Texts; a text may also be `{"text": ...}`.')
    raw_scores: StrictBool = Field(
        False, description="`true`: the model's logits; `false` (default): a sigmoid of them."
    )
    return_text: StrictBool = Field(
        False, description="Whether each result has its text: `true` or `false` (default)."
    )
    top_n: StrictInt | None = optional("1 or more: return only so many, the best; 0 for all.", ge=0)
    model: StrictStr | None = optional("Id or name of a reranker; TEI has only one model.")
    documents: None = optional("Only null: send `texts`, or `documents` without them.")


class Parameters(Known):
    """What `huggingface_hub` sends beside the inputs of a classification."""

    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = optional(
        "What scores are made of the logits by: `sigmoid`, `softmax` or `none`."
    )
    top_k: StrictInt | None = optional("1 or more: return only so many labels, the best.", ge=1)
    candidate_labels: None = optional(
        "Only null: a classifier gives the labels that it has, and no others (zero-shot)."
    )


class TeiPredictBody(Cuts):
    """Body of `POST /predict`. Fields that are not here are ignored."""

    given_texts = ("inputs",)

    inputs: Sequences = doc("A text, a pair of two texts, or a list of `[text]` and of pairs.")
    raw_scores: StrictBool = Field(
        False,
        description="`true`: the model's logits; `false` (default): what the model's activation "
        "makes of them; if it names none a sigmoid of one label, and a softmax of several.",
    )
    parameters: Parameters | None = optional(
        "Sent by `huggingface_hub`, which reads a list for each text, also for a single one."
    )
    model: StrictStr | None = optional("Id or name of a classifier; TEI has only one model.")

    @property
    def several(self) -> list[str | Pair]:
        """The inputs as a list."""
        return cast(list[str | Pair], [self.inputs] if self.alone else self.inputs)

    @property
    def alone(self) -> bool:
        """Whether there is one text, or one pair, and not a list of them."""
        return isinstance(self.inputs, str | Pair)


class SimilarityInputs(Known):
    """A sentence, and those that it is compared with."""

    given_texts = ("source_sentence", "sentences")

    source_sentence: StrictStr
    sentences: Annotated[list[StrictStr], Many]


class SimilarityParameters(Cuts):
    """How the sentences are read."""

    prompt_name: StrictStr | None = optional("One of the model's prompts.")


class TeiSimilarityBody(Known):
    """Body of `POST /similarity`. Fields that are not here are ignored."""

    given_texts = ("inputs", "parameters")

    inputs: SimilarityInputs
    parameters: SimilarityParameters | None = None
    model: StrictStr | None = optional("Id or name of a model; TEI has only one.")


class TeiTokenizeBody(Known):
    """Body of `POST /tokenize` with `inputs`. Fields that are not here are ignored."""

    given_texts = ("inputs",)

    inputs: StrictStr | Annotated[list[StrictStr], Many] = doc("A text, or a list of texts.")
    add_special_tokens: StrictBool = Field(
        True, description="Whether to add the model's own tokens, such as [CLS]."
    )
    prompt_name: StrictStr | None = optional("One of the model's prompts, put before each text.")
    model: StrictStr | None = optional("Id or name of a model; TEI has only one.")


class TeiDecodeBody(Known):
    """Body of `POST /decode`. Fields that are not here are ignored."""

    given_texts = ("ids",)

    ids: Annotated[
        Annotated[list[StrictInt], Field(max_length=MOST_IDS), Tag("ids")]
        | Annotated[list[Ids], Many, Tag("id_lists")],
        Discriminator(_ids_form),
    ] = doc("A list of token ids, or a list of such lists.")  # fmt: skip
    skip_special_tokens: StrictBool = Field(
        True, description="Whether to leave out the model's own tokens, such as [CLS]."
    )
    model: StrictStr | None = optional("Id or name of a model; TEI has only one.")


class RootBody(RootModel[TeiEmbedBody | TeiRerankBody | TeiPredictBody | TeiSimilarityBody]):
    """Body of `POST /` and `/invocations`: that of `/rerank` if it has `texts`, of `/similarity` if
    it has a `source_sentence`, else of what the model is for.
    """


class VertexBody(Known):
    """Body of `POST /vertex`: several bodies of `POST /`."""

    given_texts = ("instances",)

    instances: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MOST_TEXTS)]


class Shape(BaseModel):
    """The fields by which the body of `POST /` is told."""

    inputs: Any = None
    texts: Any = None
    model: Any = None


# -- replies ---------------------------------------------------------------------------------------


class SparseValue(TypedDict):
    """A term of a sparse vector: its place in the vocabulary, and its weight."""

    index: int
    value: float


class Ranked(TypedDict):
    """A text's place and score."""

    index: int
    score: float
    text: NotRequired[str]


class Prediction(TypedDict):
    """A label and its score."""

    score: float
    label: str


class SimpleToken(TypedDict):
    """A token; its text is that of the input between `start` and `stop`, or its own."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class VertexReply(TypedDict):
    """What `POST /` answers to each instance."""

    predictions: list[Any]


Predictions = list[Prediction] | list[list[Prediction]]
