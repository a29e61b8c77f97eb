"""What all bodies have in common, and how a vector stands in JSON.

Bodies are frozen pydantic models. Replies are typed dictionaries: a handler returns one, mypy
checks it, and the API description is made from the same class.
"""

from types import NoneType
from typing import Annotated, Any, TypeVar, cast, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetPydanticSchema,
    WithJsonSchema,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

Shape = TypeVar("Shape")
LISTS = {"list", "tuple", "set", "frozenset"}


def doc(text: str) -> Any:
    """Return a field's description."""
    return Field(description=text)


def optional(text: str, **limits: Any) -> Any:
    """Return a field that may be missing or null, with its description and limits."""
    return Field(None, description=text, **limits)


Seconds = Annotated[float, doc("Seconds since 1970.")]
Float = Annotated[float, Field(strict=True)]
_FLOATS = core_schema.list_schema(core_schema.float_schema())
# A vector of a reply, and several as a matrix: orjson writes numpy arrays as they are.
Numbers = Annotated[NDArray[Any], GetPydanticSchema(lambda _, __: _FLOATS)]
Rows = Annotated[NDArray[Any], GetPydanticSchema(lambda _, __: core_schema.list_schema(_FLOATS))]


def _fail_fast(part: Any) -> None:
    """Make every list in a part of a schema stop at its first wrong item."""
    if isinstance(part, dict):
        if part.get("type") in LISTS:
            part["fail_fast"] = True
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            _fail_fast(inner)


def _take_null(schema: Any, field: FieldInfo) -> None:
    """Make a field read null as its default."""

    def given(value: Any) -> Any:
        return field.get_default(call_default_factory=True) if value is None else value

    inner = schema["schema"]
    # A model within another was changed when its own class was made.
    if inner["type"] == "function-after" and inner["schema"]["type"] == "nullable":
        return
    nullable = core_schema.nullable_schema(inner)
    schema["schema"] = core_schema.no_info_after_validator_function(given, nullable)


class Strict(BaseModel):
    """A body: unknown fields, NaN and infinity are refused, and null is the same as no field.

    A list is refused at its first wrong item: each further one would cost half a kilobyte and 2 us
    (524,288 of them took 2.1 s, now 0.02 s; 2 cores, 2026-11-29).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[BaseModel], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Return the model's schema with lists that fail fast and fields that take null."""
        schema = handler(source)
        made: Any = handler.resolve_ref_schema(schema)
        _fail_fast(made)
        while made["type"] != "model-fields":
            made = made["schema"]  # the model, and its validators
        for name, field in cls.__pydantic_fields__.items():
            kind = field.annotation
            nullable = kind is Any or kind is NoneType or NoneType in get_args(kind)
            if not (field.is_required() or nullable):
                _take_null(made["fields"][name]["schema"], field)
        return schema


def reply(shape: type[Shape], source: object, **others: Any) -> Shape:
    """Return a reply of this shape: its fields are `others`, and attributes of `source`."""
    fields = {
        name: others[name] if name in others else getattr(source, name)
        for name in shape.__annotations__
    }
    return cast(Shape, fields)


class Query(BaseModel):
    """A query string: unknown parameters are refused."""

    model_config = ConfigDict(protected_namespaces=(), frozen=True, extra="forbid")


def _decoded(value: list[float] | bytes) -> Any:
    """Return base64 as float32 numbers, and a list as it is."""
    if not isinstance(value, bytes):
        return value
    if len(value) % 4:
        raise PydanticCustomError("vector", "no whole number of float32")
    return np.frombuffer(value, "<f4")


# Pydantic decodes base64 while it reads the JSON: 500 vectors of 384 in 1.2 ms, where the module
# `base64` took 4.4 (AMD EPYC, Zen 3, no AVX-512, 2 cores, 2026-11-26). Every model with a `Vector`
# needs this configuration.
BASE64 = ConfigDict(val_json_bytes="base64")
_Base64 = Annotated[bytes, WithJsonSchema({"type": "string"})]
# The limit is above the dimension of every model: it only bounds what is read of a bad body.
_Numbers = Annotated[list[Float], Field(max_length=100_000)]
# One message for a wrong vector, instead of one for each of its two forms.
_Plain = GetPydanticSchema(
    lambda source, handler: core_schema.custom_error_schema(
        handler(source),
        custom_error_type="vector",
        custom_error_message="it should be a list of finite numbers, or base64 of little-endian "
        "float32",
    )
)

# A vector that a client sends: numbers, or base64 of little-endian float32.
Vector = Annotated[_Numbers | _Base64, AfterValidator(_decoded), _Plain]
# Several vectors, one after the other, in base64.
Matrix = Annotated[_Base64, AfterValidator(_decoded)]
