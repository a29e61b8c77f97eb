"""How a vector stands in JSON: numbers, or base64 of little-endian float32."""

import base64
import binascii
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field, GetCoreSchemaHandler, StrictStr
from pydantic_core import core_schema

Float = Annotated[float, Field(strict=True)]


def _decoded(value: list[float] | str) -> Any:
    """Read a vector given as base64 of little-endian float32."""
    if not isinstance(value, str):
        return value
    try:
        return np.frombuffer(base64.b64decode(value, validate=True), "<f4")
    except (binascii.Error, ValueError):
        raise ValueError("no base64 of little-endian float32") from None


class _Plain:
    """Says what a vector is, once, instead of why it is neither of the two forms."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.custom_error_schema(
            handler(source),
            custom_error_type="vector",
            custom_error_message="it should be a list of finite numbers, or base64 of "
            "little-endian float32",
        )


# What every collection route that takes a vector takes: numbers, or base64 as `/v1` writes it.
Vector = Annotated[list[Float] | StrictStr, AfterValidator(_decoded), _Plain()]
