"""Bodies that take the fields of several services: each is honoured, or a 400 names it."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StrictInt,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from config.serving import Lane
from embedders.base import Truncate
from errors import BadRequest
from schemas.base import Strict

Value = TypeVar("Value")
# vLLM's is a whole number, and so is Cohere's: the lower, the earlier, and 0 without one.
Priority = StrictInt | Lane
PRIORITY = (
    "`interactive` or `bulk`; or a whole number: over 0 is `bulk`, below 0 `interactive`, and 0 "
    "(default) leaves it to the key, the role and the size."
)
Side = Annotated[
    Literal["left", "right"],
    BeforeValidator(
        lambda value: value.lower() if isinstance(value, str) else value,
        json_schema_input_type=Literal["left", "right", "Left", "Right"],
    ),
]


class TextItem(BaseModel):
    """A text in the form that Jina's and Cohere's clients may send."""

    model_config = ConfigDict(extra="forbid")

    text: str


class Known(Strict):
    """A body whose fields are honoured or refused; null is the same as no field.

    Fields that are not listed are ignored, as servers that are compatible with others do.
    """

    model_config = ConfigDict(extra="ignore")

    # The fields with what is to be embedded: a wrong item is refused by its place.
    given_texts: ClassVar[tuple[str, ...]] = ()

    @field_validator("*", mode="wrap")
    @classmethod
    def _honoured_or_refused(
        cls, value: Any, read: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        name = str(info.field_name)
        try:
            made = read(value)
        except ValidationError:
            if name in cls.given_texts:
                raise
        else:  # pydantic takes `true` for a literal 1, and 1 for a literal `true`
            number = isinstance(value, int | float)
            if not number or isinstance(made, bool) == isinstance(value, bool):
                return made
        valid = cls.model_fields[name].description
        raise BadRequest(f"{name}: {_shown(value)} is refused. {valid}", param=name)


def agreed(body: BaseModel, meanings: Mapping[str, Value | None]) -> Value | None:
    """Return the one meaning of several fields. Raises BadRequest if they differ."""
    meant = {name: value for name, value in meanings.items() if value is not None}
    if len(set(meant.values())) > 1:
        sent = " and ".join(f"{name} {_shown(getattr(body, name))}" for name in meant)
        raise BadRequest(f"{sent} contradict each other; send one of them", param=next(iter(meant)))
    return next(iter(meant.values()), None)


def truncate_of(body: Any, default: Truncate) -> Truncate:
    """Return what is done to an input over the limit, by whichever fields say so.

    `default` is what the service does. Raises BadRequest for fields that contradict each other.
    """
    word = body.truncate
    cuts = {
        "truncate": None if word is None else word not in (False, "error"),
        "truncation": body.truncation,
        "truncate_prompt_tokens": None if body.truncate_prompt_tokens is None else True,
    }
    sides: dict[str, Truncate | None] = {
        "truncate": None if isinstance(word, bool) or word == "error" else word,
        "truncation_side": body.truncation_side,
        "truncation_direction": body.truncation_direction,
    }
    wanted = agreed(body, cuts)
    side: Truncate | None = agreed(body, sides)
    if wanted is False or (wanted is None and default == "error"):
        return "error"
    return side or ("auto" if default == "error" else default)


def lane_of(priority: int | Lane | None) -> Lane | None:
    """Return the lane that a body's `priority` asks for, None if it says nothing of it."""
    if not isinstance(priority, int):
        return priority
    return None if priority == 0 else "bulk" if priority > 0 else "interactive"


def check_limit(field: str, asked: int | None, most: int | None) -> None:
    """Refuse a limit of tokens below the model's own, at which inputs are cut."""
    if asked is None or asked == -1 or (most is not None and asked >= most):
        return
    valid = "nothing" if most is None else f"{most} and more"
    raise BadRequest(
        f"{field}: {asked} is refused: inputs are cut at the model's limit only; send {valid}",
        param=field,
    )


def _shown(value: object) -> str:
    """Return a short text of a value that was sent, without the items of a list or an object."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = json.dumps(value[:50] if isinstance(value, str) else value)
    return text if len(text) <= 40 else f"{text[:40]}..."
