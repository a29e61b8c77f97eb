"""The JSON of Ollama's API: its bodies, its replies and its error."""

import math
import re
import sys
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    StrictBool,
    StrictInt,
    StrictStr,
    model_validator,
)
from typing_extensions import TypedDict

from errors import BadRequest, TooLarge
from schemas.base import Numbers, Rows, doc, optional
from schemas.embed import MOST_TEXTS
from schemas.known import Known

UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
LONGEST = 64  # characters of a duration
PART = r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)"  # of one of Go's durations: 1h30m


def _texts(value: object) -> object:
    """Return the texts of an `input`, as Ollama reads it: no text at all is no error."""
    if value is None or value == "":
        return []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list):
        raise _no_texts("it is neither a text nor a list of texts")
    if len(texts) > MOST_TEXTS:
        raise TooLarge(f"{len(texts)} inputs; at most {MOST_TEXTS} in one call", param="input")
    wrong = next((i for i, each in enumerate(texts) if not isinstance(each, str)), None)
    if wrong is not None:
        raise _no_texts(f"item {wrong} is not a text")
    return texts


def _no_texts(why: str) -> BadRequest:
    return BadRequest(f"input: invalid input type: {why}", param="input")


def _seconds(value: object) -> float | None:
    """Return the seconds of a `keep_alive`: a number, Dify's "-1", or one of Go's durations.

    Those of a negative one are endless.
    """
    if value is None:
        return None
    if isinstance(value, str) and len(value) <= LONGEST:
        text = value.strip().lstrip("-+")
        if re.fullmatch(r"\d+(\.\d*)?", text):
            seconds = float(text)
        elif re.fullmatch(f"({PART})+", text):
            seconds = sum(float(number) * UNITS[unit] for number, unit in re.findall(PART, text))
        else:
            raise ValueError("no duration")
        return math.inf if value.strip().startswith("-") and seconds else seconds
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("no duration")
    if not abs(value) <= sys.float_info.max:  # a longer integer, or no number
        raise ValueError("no duration")
    return math.inf if value < 0 else float(value)


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


class OfOllama(Known):
    """A body whose fields may be written in any case, as Go reads them."""

    @model_validator(mode="before")
    @classmethod
    def _of_any_case(cls, body: Any) -> Any:
        return {key.lower(): body[key] for key in body} if isinstance(body, dict) else body


class OllamaOptions(OfOllama):
    """Of Ollama's options the one that changes a vector. Others are of no meaning here."""

    num_ctx: Annotated[StrictInt | None, BeforeValidator(_whole)] = optional(
        "Tokens at which an input is cut; the model's limit stays.", ge=1
    )


class OfModel(OfOllama):
    """What every body has that encodes."""

    model: StrictStr | None = optional(
        "Id or name of a model, with or without `:latest`; without it the default model is used."
    )
    keep_alive: Annotated[
        float | None, PlainValidator(_seconds, json_schema_input_type=float | str | None)
    ] = optional(
        'Seconds, or a duration such as `"5m"`: the model may be unloaded after so long without a '
        "request, 0 for at once, below 0 for never. It counts from an admin (without AUTH_ENABLED: "
        "from this machine or with ADMIN_TOKEN) where the service unloads idle models "
        "(MODELS_IDLE_UNLOAD), until the model is unloaded; from others it changes nothing."
    )
    truncate: StrictBool | None = optional(
        "For an input that is too long: true cuts it, false refuses it. Without it the service's "
        "own setting holds, which is to cut."
    )
    dimensions: StrictInt | None = optional(
        "Cut vectors to this many numbers; 0 for all. Those of /api/embed are then normalised "
        "again.",
        ge=0,
    )
    options: OllamaOptions | None = optional(
        "An object, in which only `num_ctx` counts: 1 or more tokens."
    )
    images: Annotated[list[Any], Field(max_length=0)] | None = optional(
        "Only null: this service is text only."
    )

    @property
    def num_ctx(self) -> int | None:
        """How many tokens of an input are read, if the caller says so."""
        return self.options.num_ctx if self.options else None


class OllamaEmbedBody(OfModel):
    """Body of `POST /api/embed`."""

    input: Annotated[
        list[str],
        Field(max_length=MOST_TEXTS),
        BeforeValidator(_texts, json_schema_input_type=str | list[str] | None),
    ] = Field([], description="A text, or a list of texts; none only loads the model.")
    prompt: None = optional("Only null: texts go into `input` here.")


class OllamaPromptBody(OfModel):
    """Body of `POST /api/embeddings`."""

    prompt: StrictStr | None = optional("A text; none only loads the model.")
    input: None = optional("Only null: a text goes into `prompt` here, and texts to /api/embed.")


class OllamaShowBody(OfOllama):
    """Body of `POST /api/show`."""

    model: StrictStr | None = optional("Id or name of a model.")
    name: StrictStr | None = optional("As `model`.")

    @property
    def named(self) -> str:
        """The name. Raises BadRequest."""
        if named := self.model or self.name:
            return named
        raise BadRequest("model: it is required: give a model's name", param="model")


class OllamaEmbedReply(TypedDict):
    """Reply of `POST /api/embed`."""

    model: str
    embeddings: Annotated[Rows, doc("A vector of length 1 for each text, in order.")]
    total_duration: Annotated[int, doc("In nanoseconds.")]
    load_duration: Annotated[int, doc("Of it, what the request waited for its model.")]
    prompt_eval_count: Annotated[int, doc("The tokens that the model read.")]


class OllamaPromptReply(TypedDict):
    """Reply of `POST /api/embeddings`."""

    embedding: Annotated[Numbers, doc("The vector, not scaled to length 1, as in Ollama.")]


class OllamaDetails(TypedDict):
    """What a model is."""

    parent_model: str
    format: Annotated[str, doc("`safetensors`, or empty for a model that runs elsewhere.")]
    family: Annotated[str, doc("The kind of its network, such as `bert`.")]
    families: list[str]
    parameter_size: Annotated[str, doc("Such as `23M`; empty where it is not known.")]
    quantization_level: Annotated[str, doc("The type of its numbers as it runs, such as `F32`.")]
    context_length: Annotated[int, doc("The most tokens of an input; 0 where it is not known.")]
    embedding_length: Annotated[int, doc("The numbers of a vector; 0 where it is not known.")]


class OllamaModel(TypedDict):
    """A model, under one of its names."""

    name: str
    model: str
    modified_at: Annotated[str, doc("When the newest of its files was written.")]
    size: Annotated[int, doc("The bytes of its files; 0 where it has none here.")]
    digest: Annotated[str, doc("The model's fingerprint; zeros before it was first loaded.")]
    details: OllamaDetails
    capabilities: list[str]


class OllamaModelsReply(TypedDict):
    """Reply of `GET /api/tags`."""

    models: list[OllamaModel]


class OllamaRunning(OllamaModel):
    """A model that is loaded. Its `size` is what it takes in memory."""

    expires_at: Annotated[str, doc("When it is unloaded if no further request comes.")]
    size_vram: Annotated[int, doc("What it takes of a GPU's memory.")]
    context_length: int


class OllamaRunningReply(TypedDict):
    """Reply of `GET /api/ps`."""

    models: list[OllamaRunning]


class OllamaShowReply(TypedDict):
    """Reply of `POST /api/show`."""

    modified_at: str
    details: OllamaDetails
    model_info: Annotated[
        dict[str, str | int], doc("`general.architecture`, and under its name what is known.")
    ]
    capabilities: list[str]


class OllamaVersionReply(TypedDict):
    """Reply of `GET /api/version`."""

    version: Annotated[str, doc("The version of Ollama whose API this is.")]


class OllamaPullReply(TypedDict):
    """Reply of `POST /api/pull`."""

    status: Literal["success"]


class OllamaErrorReply(TypedDict):
    """Every error of `/api`."""

    error: Annotated[str, doc("What is wrong, what is valid, and what to do.")]
