"""How vectors stand in a reply: of what numbers, and whether as JSON or as base64."""

import base64
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedders.base import Vectors

Encoding = Literal["float", "base64"]
Dtype = Literal["float", "int8", "uint8", "binary", "ubinary"]


class Form(NamedTuple):
    """How vectors are written: as JSON numbers or base64, of numbers of this type."""

    encoding: Encoding = "float"
    dtype: Dtype = "float"


def width(form: Form) -> float:
    """Return the bytes of a vector's number in a reply, with its comma.

    As JSON a float32 takes 12.7 (of a unit vector of 4,096), a byte of `uint8` 4.0, others less.
    """
    size = {"float": 4.0, "int8": 1.0, "uint8": 1.0, "binary": 1 / 8, "ubinary": 1 / 8}[form.dtype]
    if form.encoding == "base64":
        return size * 4 / 3
    return 13.0 if form.dtype == "float" else size * 4


def written(vectors: Vectors, form: Form) -> list[NDArray[Any] | str]:
    """Return each of (n, d) vectors as base64, or as an array, which the JSON writer reads."""
    rows = _typed(vectors, form.dtype)
    if form.encoding == "base64":
        return [base64.b64encode(row.tobytes()).decode("ascii") for row in rows]
    return list(rows)


def _typed(vectors: Vectors, dtype: Dtype) -> NDArray[Any]:
    """Return the vectors in a type; for `int8` and `uint8` they must have length 1.

    A bit is 1 for a number over 0. The first number is a byte's highest bit, and a last byte that
    is not full ends with zeros: Cohere, Jina, Voyage and sentence-transformers pack alike.
    """
    match dtype:
        case "int8":
            return np.rint(vectors * 127).astype(np.int8)
        case "uint8":
            return (np.rint(vectors * 127) + 128).astype(np.uint8)
        case "binary":
            return (np.packbits(vectors > 0, axis=1).astype(np.int16) - 128).astype(np.int8)
        case "ubinary":
            return np.packbits(vectors > 0, axis=1)
        case "float":
            return np.asarray(vectors, "<f4")
