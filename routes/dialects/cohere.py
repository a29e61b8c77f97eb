"""Cohere's API: `/v1/embed` and `/v2/embed`, `/v1/tokenize`, `/v1/detokenize`, `/v1/check-api-key`.

Its `/v1/rerank` and `/v2/rerank` are in `rerank.py`.
"""

from functools import partial
from typing import Annotated, Any, Literal, NotRequired, Self

import orjson
from flask import g
from pydantic import BeforeValidator, Field, StrictInt, StrictStr
from pydantic import model_validator as model_check
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from context import services
from embedders.base import DENSE
from engine import EmbedRequest
from routes.dialects.openai import UNION
from routes.embed import (
    ERRORS,
    admit,
    called,
    check_reply,
    facts_headers,
    placed,
    prompt_header,
    request_of,
    run,
    take,
)
from routes.table import Reply, Route
from schemas.base import Rows, doc, optional
from schemas.embed import MOST_TEXTS, Options, Wanted, cut
from schemas.forms import Form, written
from schemas.known import Known
from schemas.parts import Parts, text_of

Kind = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]
FORMS: dict[Kind, Form] = {
    "float": Form(),
    "int8": Form(dtype="int8"),
    "uint8": Form(dtype="uint8"),
    "binary": Form(dtype="binary"),
    "ubinary": Form(dtype="ubinary"),
    "base64": Form("base64"),
}
TOKEN = 24  # bytes of a token in a reply
MOST_CHARACTERS = 65_536  # of a text to tokenize, as Cohere has it; also of token ids
Word = Annotated[
    Literal["error", "left", "right"],
    BeforeValidator(cut, json_schema_input_type=Literal["NONE", "START", "END"]),
]
Input = Annotated[
    StrictStr, BeforeValidator(partial(text_of, field="inputs"), json_schema_input_type=Parts)
]
Ignored = Annotated[Any, doc("Any value: it cannot change a vector.")]
SEND = "Only null: send `{}`."


class CohereBody(Known):
    """Body of `/v1/embed` and `/v2/embed`: texts, and which types of numbers to return.

    Every field listed here is honoured or refused; null is the same as no field.
    """

    given_texts = ("texts", "inputs")

    texts: Annotated[list[StrictStr], Field(min_length=1, max_length=MOST_TEXTS)] | None = optional(
        "The texts."
    )
    inputs: Annotated[list[Input], Field(min_length=1, max_length=MOST_TEXTS)] | None = optional(
        "In place of `texts`: objects with `content`, a list of parts of text; the parts of an "
        "input are joined by line feeds."
    )
    images: Annotated[list[Any], Field(max_length=0)] | None = optional(
        "Only null or an empty list: this service is text only."
    )
    model: StrictStr | None = optional(
        "Id or name of a model; without it the default model is used."
    )
    input_type: StrictStr | None = optional(
        "What the texts are for: `search_query`, `search_document`, `classification`, "
        "`clustering`. A model with a prompt of this name, or for this side, puts it before them."
    )
    embedding_types: Annotated[list[Kind], Field(max_length=100)] | None = optional(
        "`float` (default), `base64` (of little-endian float32), `int8` (127 times a number of the "
        "unit vector, rounded), `uint8` (the same plus 128), `ubinary` (a bit for a number over 0, "
        "eight a byte, the first the highest), `binary` (the same minus 128): any number of them."
    )
    truncate: Word | None = optional(
        "For a text that is longer than the model's limit: keep its start (`END`), keep its end "
        "(`START`), or refuse it (`NONE`)."
    )
    output_dimension: StrictInt | None = optional(
        "Cut vectors to this many numbers, then normalise them again.", ge=1
    )
    max_tokens: StrictInt | None = optional(
        "Cut each text at so many tokens, as `truncate` says; the model's limit stays.", ge=1
    )
    priority: StrictInt | None = optional(
        "A whole number from 0 to 999, the lower the earlier: over 0 is bulk, and 0 (default) "
        "leaves it to the key, the role and the size.",
        ge=0,
        le=999,
    )
    user: Ignored = None
    # Other services' names for what Cohere calls otherwise.
    dimensions: None = optional(SEND.format("output_dimension"))
    encoding_format: None = optional(SEND.format("embedding_types"))
    output_dtype: None = optional(SEND.format("embedding_types"))
    task: None = optional(SEND.format("input_type"))
    embedding_type: None = optional(SEND.format("embedding_types"))
    prompt: None = optional(SEND.format("input_type"))
    prompt_name: None = optional(SEND.format("input_type"))
    truncation: None = optional(SEND.format("truncate"))
    truncate_prompt_tokens: None = optional(SEND.format("max_tokens"))
    normalize: Literal[True] | None = optional("Only `true`: vectors have length 1 here.")
    normalized: Literal[True] | None = optional("As `normalize`.")
    late_chunking: Literal[False] | None = optional("Only `false`: `/v1/embeddings` has it.")
    return_multivector: Literal[False] | None = optional("Only `false`: `/v1/embeddings` has it.")

    @model_check(mode="after")
    def _one_list(self) -> Self:
        if (self.texts is None) == (self.inputs is None):
            raise PydanticCustomError("texts", "give the texts, in one field")
        return self

    @property
    def given(self) -> tuple[str, list[str]]:
        """The field that holds the texts, and the texts."""
        field = "texts" if self.inputs is None else "inputs"
        return field, list(self.texts or self.inputs or ())

    @property
    def kinds(self) -> list[Kind]:
        """The types of numbers that are wanted, each once."""
        return list(dict.fromkeys(self.embedding_types or ["float"]))


class TokenizeBody(Known):
    """Body of `POST /v1/tokenize`."""

    given_texts = ("text",)

    text: Annotated[StrictStr, Field(min_length=1, max_length=MOST_CHARACTERS)] = doc(
        "The text; at most 65,536 characters."
    )
    model: StrictStr | None = optional("Id or name of a model, whose tokenizer is used.")


class DetokenizeBody(Known):
    """Body of `POST /v1/detokenize`."""

    given_texts = ("tokens",)

    tokens: Annotated[list[StrictInt], Field(max_length=MOST_CHARACTERS)] = doc(
        "Token ids; at most 65,536."
    )
    model: StrictStr | None = optional("Id or name of a model, whose tokenizer is used.")


class CohereVersion(TypedDict):
    """The version of the API that a reply has the form of."""

    version: str


class InputTokens(TypedDict):
    """The tokens that the model read."""

    input_tokens: int


class CohereMeta(TypedDict):
    """What a request cost."""

    api_version: CohereVersion
    billed_units: NotRequired[InputTokens]
    warnings: NotRequired[Annotated[list[str], doc("That texts were cut.")]]


class CohereVectors(TypedDict):
    """A list for each type that was asked for, with each text's vector."""

    float: NotRequired[Rows]
    int8: NotRequired[list[list[int]]]
    uint8: NotRequired[list[list[int]]]
    binary: NotRequired[list[list[int]]]
    ubinary: NotRequired[list[list[int]]]
    base64: NotRequired[list[str]]


class ByTypeReply(TypedDict):
    """The vectors of all texts by the types that were asked for, all of one encoding."""

    response_type: Literal["embeddings_by_type"]
    id: str
    embeddings: CohereVectors
    texts: list[str]
    images: list[Any]
    meta: CohereMeta


class FloatsReply(TypedDict):
    """The vectors of all texts, where a request of version 1 names no types."""

    response_type: Literal["embeddings_floats"]
    id: str
    embeddings: Rows
    texts: list[str]
    images: list[Any]
    meta: CohereMeta


class TokenizeReply(TypedDict):
    """The tokens of a text, without those that a model adds."""

    tokens: list[int]
    token_strings: list[str]
    meta: CohereMeta


class DetokenizeReply(TypedDict):
    """The text of tokens."""

    text: str
    meta: CohereMeta


class CheckedKeyReply(TypedDict):
    """That the key is valid; one that is not gets 401."""

    valid: bool


Cohere = partial(
    Route, access="embed", tag="cohere", any_page=True, dialect=UNION, errors=ERRORS, works=True
)


@Cohere("POST", "/v1/embed", large=True)
def embed_v1(body: CohereBody) -> Reply[FloatsReply] | Reply[ByTypeReply]:
    """Embed texts, as version 1 of Cohere's API does."""
    by_type, headers = _embed(body, "1")
    if body.embedding_types:
        return Reply(by_type, headers=headers)
    floats: FloatsReply = {
        "response_type": "embeddings_floats",
        "id": by_type["id"],
        "embeddings": by_type["embeddings"]["float"],
        "texts": by_type["texts"],
        "images": [],
        "meta": by_type["meta"],
    }
    return Reply(floats, headers=headers)


@Cohere("POST", "/v2/embed", large=True)
def embed_v2(body: CohereBody) -> Reply[ByTypeReply]:
    """Embed texts, as version 2 of Cohere's API does: in several types of numbers at once."""
    by_type, headers = _embed(body, "2")
    return Reply(by_type, headers=headers)


@Cohere("POST", "/v1/tokenize", large=True)
def tokenize(body: TokenizeBody) -> Reply[TokenizeReply]:
    """Split a text into the tokens of a model, as Cohere's API does."""
    (tokens,) = services().engine.tokenize(
        [body.text], _for_tokens(body.model), add_special_tokens=False
    )
    return Reply(
        {
            "tokens": [token.id for token in tokens],
            "token_strings": [token.text for token in tokens],
            "meta": {"api_version": {"version": "1"}},
        }
    )


@Cohere("POST", "/v1/detokenize", large=True)
def detokenize(body: DetokenizeBody) -> Reply[DetokenizeReply]:
    """Return the text of token ids, as Cohere's API does."""
    with placed(lambda _: "tokens"):
        (text,) = services().engine.detokenize(
            [body.tokens], _for_tokens(body.model), skip_special_tokens=False
        )
    return Reply({"text": text, "meta": {"api_version": {"version": "1"}}})


@Cohere("POST", "/v1/check-api-key", works=False)
def check_api_key() -> CheckedKeyReply:
    """Say that the caller's key is valid, as Cohere's API does."""
    return {"valid": True}


def _embed(body: CohereBody, version: str) -> tuple[ByTypeReply, dict[str, str]]:
    """Embed a body's texts once, whatever types are wanted. Returns the reply and its headers."""
    field, texts = body.given
    kinds = body.kinds
    forms = [FORMS[kind] for kind in kinds]
    default = services().engine.truncate
    dimensions, max_tokens = body.output_dimension, body.max_tokens
    if max_tokens is not None and default == "error":  # who names a limit wants texts cut at it
        default = "right"
    options = Options(
        dimensions=dimensions, truncate=body.truncate or default, input_type=body.input_type
    )
    taken = take(body.model, DENSE)
    most = taken[1].facts.dimension
    echo = len(orjson.dumps(texts))  # they stand in the reply too
    check_reply(len(texts), min(dimensions or most, most), *forms, beside=echo)
    wanted = Wanted(form=forms[0], normalize=True)
    names = {"dimensions": "output_dimension", "truncate_prompt_tokens": "max_tokens"}
    with called(**names), placed(lambda index: f"{field}.{index}"):
        result = run(texts, body.model, options, wanted, taken, max_tokens=max_tokens, field=field)
    check_reply(len(texts), result.vectors.shape[1], *forms, beside=echo)
    vectors: Any = {
        # The JSON writer takes a whole matrix at once.
        kind: result.vectors if kind == "float" else written(result.vectors, form)
        for kind, form in zip(kinds, forms, strict=True)
    }
    meta: CohereMeta = {
        "api_version": {"version": version},
        "billed_units": {"input_tokens": result.tokens},
    }
    if result.truncated:
        meta["warnings"] = [f"{result.truncated} of the texts were too long and were cut"]
    reply: ByTypeReply = {
        "response_type": "embeddings_by_type",
        "id": g.request_id,
        "embeddings": vectors,
        "texts": texts,
        "images": [],
        "meta": meta,
    }
    return reply, {**facts_headers(result), **prompt_header(result, options)}


def _for_tokens(model: str | None) -> EmbedRequest:
    """Return a request for the tokens of one text, by any model's tokenizer, and count it."""
    admit(1, model)
    most = services().config.max_reply_bytes // TOKEN
    return request_of(Options(), model=model, most_tokens=most, taken=take(model, ()))
