"""How a reply writes vectors: as JSON numbers, base64 or bytes, of numbers of a chosen type.

`int8` is 127 times a number of a unit vector, rounded, and `uint8` the same plus 128; a number
beyond 1 counts as 1. `ubinary` is
a bit for each number, 1 above 0: the first number is the highest bit of a byte, and zeros fill the
last byte. `binary` is the same minus 128. Cohere, Jina, Voyage and sentence-transformers agree on
the bits. Numbers in base64 or bytes are little-endian unless the form says otherwise.
"""

import base64
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator

from embedders.base import Sparse, Vectors
from errors import BadRequest

Encoding = Literal["float", "base64", "bytes"]
Dtype = Literal["float32", "float16", "int8", "uint8", "binary", "ubinary"]
DtypeField = Annotated[
    Dtype,
    BeforeValidator(
        lambda value: "float32" if value == "float" else value,
        json_schema_input_type=Dtype | Literal["float"],
    ),
]
FLOATS = ("float32", "float16")
OF_UNITS = ("int8", "uint8")  # made of vectors of length 1
SIZES: dict[Dtype, float] = {
    "float32": 4, "float16": 2, "int8": 1, "uint8": 1, "binary": 1 / 8, "ubinary": 1 / 8,
}  # fmt: skip
INDEX = 7  # bytes of a term's index in JSON, with its comma: vocabularies have up to 256,000
TERM = 36  # bytes of a term's own text in JSON, with what stands around it
SparseRow = dict[str, Any]  # `indices` and `values`, or a weight for each term


class Form(NamedTuple):
    """How a reply writes vectors."""

    encoding: Encoding = "float"
    dtype: Dtype = "float32"
    big_endian: bool = False  # of base64 and bytes

    @property
    def width(self) -> float:
        """The bytes that one number of a vector takes in a reply, with its comma.

        As JSON a float32 takes 12.7 (in a unit vector of 4,096) and a float16 12.4, a `uint8` 4.0,
        others less.
        """
        if self.encoding == "float":
            return 13.0 if self.dtype in FLOATS else SIZES[self.dtype] * 4
        return SIZES[self.dtype] * (4 / 3 if self.encoding == "base64" else 1)

    def term(self, texts: bool) -> float:
        """Return the bytes of a term of a sparse vector: its index or its text, and its weight."""
        if texts:
            return TERM + self.width
        return (INDEX if self.encoding == "float" else 4 * 4 / 3) + self.width


def numbers(vectors: Vectors, dtype: Dtype) -> NDArray[Any]:
    """Return (n, d) vectors as numbers of this type, eight of them a byte for the binary ones.

    Raises BadRequest for numbers that float16 does not hold.
    """
    match dtype:
        case "float32":
            return np.asarray(vectors, "<f4")
        case "float16":
            with np.errstate(over="ignore"):
                halves = vectors.astype("<f2")
            if not np.isfinite(halves).all():
                raise BadRequest(
                    "output_dtype: a number of this vector is over 65504, the most that float16 "
                    "holds; ask for float32",
                    param="output_dtype",
                )
            return halves
        case "int8":
            return np.rint(np.clip(vectors, -1, 1) * 127).astype(np.int8)
        case "uint8":
            return (np.rint(np.clip(vectors, -1, 1) * 127) + 128).astype(np.uint8)
        case "ubinary":
            return np.packbits(vectors > 0, axis=-1)
    return (np.packbits(vectors > 0, axis=-1).astype(np.int16) - 128).astype(np.int8)


def written(vectors: Vectors, form: Form) -> list[NDArray[Any] | str]:
    """Return each of (n, d) vectors as base64, or as an array that the JSON writer takes."""
    rows = numbers(vectors, form.dtype)
    return list(rows) if form.encoding == "float" else [_base64(row, form) for row in rows]


def written_matrices(matrices: Sequence[Vectors], form: Form) -> list[NDArray[Any] | str]:
    """Return each of the matrices (t, d) as base64, row by row, or as an array for JSON."""
    rows = [numbers(matrix, form.dtype) for matrix in matrices]
    return [row if form.encoding == "float" else _base64(row, form) for row in rows]


def written_sparse(
    rows: Sequence[Sparse], form: Form, terms: Callable[[Sequence[int]], list[str]] | None = None
) -> list[SparseRow]:
    """Return each sparse vector as its `indices` and `values`, or with `terms` as text: weight."""
    weights = [numbers(row.values, form.dtype) for row in rows]
    if terms is not None:
        texts = (terms(row.indices.tolist()) for row in rows)
        return [dict(zip(*pair, strict=True)) for pair in zip(texts, weights, strict=True)]
    shown: Callable[[NDArray[Any]], NDArray[Any] | str]
    shown = (lambda part: part) if form.encoding == "float" else partial(_base64, form=form)
    return [
        {"indices": shown(np.asarray(row.indices, "<i4")), "values": shown(values)}
        for row, values in zip(rows, weights, strict=True)
    ]


def ordered(row: NDArray[Any], form: Form) -> NDArray[Any]:
    """Return little-endian numbers with their bytes in the order of a form."""
    return row.byteswap() if form.big_endian else row


def _base64(row: NDArray[Any], form: Form) -> str:
    return base64.b64encode(ordered(row, form).tobytes()).decode("ascii")
