"""Single values that may be stored: an id, a text, metadata, a vector. Each refusal says where.

`where` is written into a message only when there is one, so it may be anything that str() knows.
Called by `validation`, which knows the limits and the items.
"""

import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from errors import DimensionMismatch, Invalid, TooLarge
from store.base import Metric, Vectors

# Squares of larger values, or of smaller norms, leave what float32 can hold.
MAX_VALUE = 1e15
MIN_NORM = 1e-15
# A vector whose sum of squares lies between these needs no second look at its values.
PLAIN_SQUARES = (1e-24, 1e29)
MAX_INT = 2**63 - 1
MAX_JSON_DEPTH = 32
MAX_KEYS = 1000  # of one object


_few = reprlib.Repr()  # reads no more of a list than it writes
_few.maxlevel, _few.maxstring, _few.maxother = 3, 60, 60


class Place:
    """Names an item in a message; written out only when there is one to write."""

    __slots__ = ("_i", "_id")

    def __init__(self, i: int, id_: str) -> None:
        self._i, self._id = i, id_

    def __str__(self) -> str:
        return f"item {self._i} (id {brief(self._id)})"


def brief(value: object) -> str:
    """Return a value short enough for a message."""
    text = ascii(value[:60]) if isinstance(value, str) else _few.repr(value)
    if not text.isascii():
        text = ascii(text)[1:-1]
    return text if len(text) <= 60 else f"{text[:57]}..."


class _Metadata:
    """Names an item's metadata in a message, when there is one to write; knows how much it may be.

    What is counted is at most what JSON takes, so that no more is copied than may be stored.
    """

    __slots__ = ("_left", "_most", "_place")

    def __init__(self, place: Place, most: int) -> None:
        self._place, self._left, self._most = place, most, most

    def __str__(self) -> str:
        return f"{self._place}: metadata"

    def take(self, size: int) -> None:
        """Count bytes. Raises TooLarge if they are too many in all."""
        self._left -= size
        if self._left < 0:
            raise TooLarge(
                f"{self._place}: metadata of over {self._most} bytes as JSON, which is the limit",
                param="metadata",
            )


def check_id(id_: object, where: object, most: int) -> None:
    """Raise Invalid for what is no id, or has more than `most` characters."""
    if not isinstance(id_, str) or not id_:
        raise Invalid(f"{where}: an id is a string that is not empty, not {brief(id_)}", param="id")
    if len(id_) > most:
        raise Invalid(f"{where}: the id has {len(id_)} characters; at most {most}", param="id")
    if not is_plain(id_):
        check_unicode(id_, f"{where}: the id", "id")


def is_plain(text: str) -> bool:
    """Whether any column can hold a text, by a quick look; False is no refusal."""
    return text.isascii() and "\0" not in text


def check_unicode(text: str, where: object, param: str) -> None:
    """Raise Invalid for what no text column can hold."""
    if "\0" in text:
        raise Invalid(f"{where} holds a NUL character", param=param)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Invalid(f"{where} holds half a surrogate pair", param=param) from None


def check_text(text: object, where: Place, most: int) -> str | None:
    """Return a text of at most `most` bytes, or None."""
    if text is None:
        return None
    if not isinstance(text, str):
        raise Invalid(f"{where}: text is a string, not {brief(text)}", param="text")
    if not is_plain(text):
        check_unicode(text, f"{where}: the text", "text")
    if len(text) * 4 > most and len(text.encode()) > most:
        raise TooLarge(f"{where}: the text is longer than {most} bytes", param="text")
    return text


def check_meta(metadata: object, where: Place, most: int) -> dict[str, Any]:
    """Return a copy of metadata of at most `most` bytes of JSON."""
    if metadata is None or metadata == {}:
        return {}
    if not isinstance(metadata, Mapping):
        raise Invalid(
            f"{where}: metadata is a JSON object, not {brief(metadata)}", param="metadata"
        )
    copied: dict[str, Any] = _copy_json(metadata, _Metadata(where, most), 1)
    _Metadata(where, most).take(len(orjson.dumps(copied)))
    return copied


def _copy_json(value: Any, where: _Metadata, depth: int) -> Any:
    """Return a deep copy of a JSON value that shares nothing with the caller's."""
    where.take(1)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        where.take(len(value))
        check_unicode(value, where, "metadata")
        return str(value)
    if isinstance(value, int):
        if abs(value) > MAX_INT:
            raise Invalid(f"{where}: a whole number beyond 64 bits", param="metadata")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Invalid(f"{where}: {value} is no JSON number", param="metadata")
        return float(value)
    if depth > MAX_JSON_DEPTH:
        raise Invalid(f"{where}: nested deeper than {MAX_JSON_DEPTH} levels", param="metadata")
    if isinstance(value, list | tuple):
        return [_copy_json(each, where, depth + 1) for each in value]
    if isinstance(value, Mapping):
        if len(value) > MAX_KEYS:
            raise TooLarge(f"{where}: an object of over {MAX_KEYS} keys", param="metadata")
        for key in value:
            if not isinstance(key, str):
                raise Invalid(f"{where}: the key {brief(key)} is no string", param="metadata")
            where.take(len(key))
            if not is_plain(key):
                check_unicode(key, f"{where}: a key", "metadata")
        return {str(key): _copy_json(each, where, depth + 1) for key, each in value.items()}
    raise Invalid(f"{where}: {type(value).__name__} is no JSON value", param="metadata")


def one_vector(raw: npt.ArrayLike, where: object, dim: int) -> Vectors:
    """Return the vector as float32 (d,), the same array if it is that already."""
    try:
        vector = np.asarray(raw)
        if vector.dtype.kind not in "fiu" or vector.ndim != 1:
            raise ValueError
        if vector.dtype != np.float32:
            with np.errstate(over="ignore"):
                vector = vector.astype(np.float32)
    except (ValueError, TypeError, OverflowError):
        raise Invalid(f"{where}: a vector is a flat list of numbers", param="vector") from None
    if len(vector) != dim:
        raise DimensionMismatch(
            f"{where}: the vector has {len(vector)} dimensions, the collection {dim}",
            param="vector",
        )
    return vector


def check_values(vectors: Vectors, metric: Metric, names: Sequence[object]) -> None:
    """Raise Invalid for NaN, infinity, a value beyond 1e15, and for cosine a vector of zeros."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.vecdot(vectors, vectors)
    least, most = PLAIN_SQUARES
    if squares.min() >= least and squares.max() <= most:  # False where one is NaN
        return
    largest = np.abs(vectors).max(axis=1)  # NaN if one is there
    for i in np.flatnonzero(~(largest <= MAX_VALUE))[:1]:
        what = "NaN" if np.isnan(vectors[i]).any() else "infinity or a value beyond 1e15"
        raise Invalid(f"{names[i]}: the vector holds {what}", param="vector")
    if metric == "cosine":
        for i in np.flatnonzero(largest < MIN_NORM)[:1]:
            raise Invalid(f"{names[i]}: a vector of zeros has no direction", param="vector")
