"""The JSON of the native embedding routes, and what all embedding routes have in common:
the options of a request, and which results it wants in which form.
"""

import json
from typing import Annotated, Literal, NamedTuple, NotRequired, Self, get_args

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
from typing_extensions import TypedDict

from config.serving import Lane
from embedders.base import DENSE, Output, Truncate
from errors import BadRequest
from schemas.base import Float, Numbers, Query, Rows, Strict, doc, optional
from schemas.forms import FLOATS, OF_UNITS, DtypeField, Encoding, Form

# Far above what MAX_TEXTS_PER_REQUEST is set to: it only bounds what is read of a bad body.
MOST_TEXTS = 100_000
MOST_PROMPT = 10_000  # characters; a prompt goes before each of the texts
# The words of Cohere and NVIDIA name the end that is cut off, in any case.
CUTS = {"none": "error", "start": "left", "end": "right"}
CutWords = Truncate | Literal["NONE", "START", "END"] | bool | None
Result = Literal["dense", "sparse", "multi_vector"]
TOP_N = "The most terms of a sparse vector, the heaviest."
MIN_WEIGHT = "The least weight of a sparse vector's terms."


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
Cut = Annotated[Truncate | StrictBool | None, BeforeValidator(cut, json_schema_input_type=CutWords)]
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
    priority: Lane | None = optional(
        "`interactive`: somebody waits for the reply; `bulk`: a program does. Without it the key, "
        "the role or the size decides."
    )


def _results(value: object) -> object:
    """Return the words of a comma list, and the outputs of a list once each, in one order."""
    if isinstance(value, str):
        value = [word.strip() for word in value.split(",")]
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        return value
    order = get_args(Result)
    if unknown := next((word for word in value if word not in order), None):
        said = {"word": json.dumps(unknown[:64]), "known": ", ".join(order)}
        raise PydanticCustomError("outputs", "there is no {word}; there is {known}", said)
    return sorted(set(value), key=order.index)


Results = Annotated[
    tuple[Result, ...],
    Field(min_length=1),
    BeforeValidator(_results, json_schema_input_type=str | list[Result]),
]


class Wishes(BaseModel):
    """What a reply of the native routes holds, and how it writes it."""

    outputs: Results | None = optional(
        "What to return of each text, for a model that gives it: `dense` (default), `sparse`, "
        "`multi_vector`; several at once if one model gives them."
    )
    encoding_format: Encoding | None = optional(
        "`float` (default), `base64` of little-endian numbers, or `bytes`: the body is one array, "
        "and `X-Embedding-Shape` and `X-Embedding-Dtype` say how to read it."
    )
    output_dtype: DtypeField | None = optional(
        "`float32` (default), `float16`, `int8` (127 times a number of the unit vector, rounded), "
        "`uint8` (the same plus 128), `ubinary` (a bit for a number over 0, eight a byte, the "
        "first the highest) or `binary` (the same minus 128)."
    )
    sparse_format: Literal["indices", "terms"] | None = optional(
        "A sparse vector as `indices` and `values` (default), or as `terms`: the weight of each."
    )


class EmbedBody(Wishes, Options):
    """Body of `POST /embed` and `POST /batch-embed`: exactly one of `texts` and `text`."""

    texts: Texts | None = optional("A text, or a list of texts.")
    text: StrictStr | None = optional("One text; the reply also has its vector as `embedding`.")
    normalize: StrictBool | None = optional("Scale dense vectors to length 1.")
    top_n: StrictInt | None = optional(TOP_N, ge=1)
    min_weight: Float | None = optional(MIN_WEIGHT, ge=0)
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


class ModelQuery(EmbedQuery):
    """Query string of paths of other services; parameters that are not listed are ignored."""

    model_config = ConfigDict(extra="ignore")


class SingleQuery(Wishes, EmbedQuery):
    """Query string of `POST /embed/single`."""

    text: str = doc("The text to embed.")
    top_n: int | None = optional(TOP_N, ge=1)
    min_weight: float | None = optional(MIN_WEIGHT, ge=0, allow_inf_nan=False)


class SparseReply(TypedDict):
    """The terms of a sparse vector: their places in the vocabulary, and their weights."""

    indices: Numbers | str
    values: Numbers | str


class EmbedReply(TypedDict):
    """Reply of the native embedding routes."""

    embeddings: NotRequired[
        Annotated[Rows | list[str], doc("One dense vector per text, in order.")]
    ]
    embedding: NotRequired[Annotated[Numbers | str, doc("The dense vector of a single text.")]]
    sparse: NotRequired[
        Annotated[
            list[SparseReply | dict[str, float]],
            doc("For each text `indices` (ascending) and `values`, or the weight of each term."),
        ]
    ]
    multi_vector: NotRequired[
        Annotated[
            list[Rows | str],
            doc("For each text the vectors of its tokens; in base64 one row after the other."),
        ]
    ]
    dimension: NotRequired[Annotated[int, doc("How many numbers a vector has.")]]
    model: str
    count: int
    processing_time_ms: float


class Wanted(NamedTuple):
    """What a request wants of each input, and how the reply writes it."""

    outputs: tuple[Output, ...] = DENSE
    form: Form = Form()
    normalize: bool | None = None
    top_n: int | None = None
    min_weight: float | None = None
    terms: bool = False

    @classmethod
    def of(
        cls, wishes: Wishes, texts: int, *, normalize: bool | None = None,
        dimensions: int | None = None, top_n: int | None = None, min_weight: float | None = None,
    ) -> "Wanted":  # fmt: skip
        """Return what these fields ask for, of so many texts. Raises BadRequest."""
        outputs: tuple[Output, ...] = wishes.outputs or DENSE
        form = Form(wishes.encoding_format or "float", wishes.output_dtype or "float32")
        if "sparse" not in outputs:
            of_sparse = {"top_n": top_n, "min_weight": min_weight}
            _refuse({**of_sparse, "sparse_format": wishes.sparse_format}, "sparse vectors")
        if "dense" not in outputs:
            _refuse({"normalize": normalize, "dimensions": dimensions}, "dense vectors")
        if "multi_vector" in outputs and dimensions is not None:
            raise BadRequest(
                "dimensions: the vectors of tokens cannot be shortened; ask for dense vectors in a "
                "request of their own",
                param="dimensions",
            )
        terms = wishes.sparse_format == "terms"
        check_form(form, outputs, texts, terms)
        return cls(outputs, form, normalized(form, normalize), top_n, min_weight, terms)


def check_form(form: Form, outputs: tuple[Output, ...], texts: int, terms: bool = False) -> None:
    """Raise BadRequest for outputs that cannot be written in this form."""
    if "sparse" in outputs and form.dtype not in FLOATS:
        raise BadRequest(
            f"output_dtype: weights of sparse vectors are float32 or float16, not {form.dtype}",
            param="output_dtype",
        )
    if terms and form.encoding != "float":
        raise BadRequest(
            "sparse_format: terms have their weights as JSON numbers; leave encoding_format out",
            param="sparse_format",
        )
    alone = outputs == DENSE or (outputs == ("multi_vector",) and texts == 1)
    if form.encoding == "bytes" and not alone:
        raise BadRequest(
            "encoding_format: bytes are one array: dense vectors, or the vectors of the tokens of "
            "one text; ask for base64",
            param="encoding_format",
        )


def normalized(form: Form, asked: bool | None, field: str = "normalize") -> bool | None:
    """Return whether vectors are normalised: as asked, and for int8 always. Raises BadRequest."""
    if form.dtype not in OF_UNITS:
        return asked
    if asked is False:
        raise BadRequest(
            f"output_dtype: {form.dtype} is made of vectors of length 1, and {field} is false; "
            "leave one of them out",
            param="output_dtype",
        )
    return True


def _refuse(fields: dict[str, object], what: str) -> None:
    """Raise BadRequest for the first of these fields that was sent."""
    for name, value in fields.items():
        if value is not None:
            raise BadRequest(
                f"{name}: it is of {what}, which outputs does not ask for; leave it out", param=name
            )
