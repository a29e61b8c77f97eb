"""What may be stored and asked for, checked before any backend sees it, with the item named.

Both backends call these, so that both refuse the same things in the same words. Owns the limits.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from errors import DimensionMismatch, Invalid, TooLarge
from store.base import METRICS, MODES, PARTS, Item, Metric, Mode, Part, Vectors

MAX_DIM = 16_000  # also what pgvector stores
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
# Squares of larger values, or of smaller norms, leave what float32 can hold.
MAX_VALUE = 1e15
MIN_NORM = 1e-15
MAX_INT = 2**63 - 1
MAX_JSON_DEPTH = 32


@dataclass(frozen=True)
class Limits:
    """How much one call may bring or ask for."""

    items: int = 1000  # of one upsert, get or delete
    queries: int = 100  # of one search
    k: int = 1000
    window: int = 10_000  # offset + k
    page: int = 1000  # of one scroll
    id_chars: int = 512
    text_bytes: int = 1 << 20
    metadata_bytes: int = 64 << 10


@dataclass(frozen=True)
class Rows:
    """Checked items, column by column."""

    ids: list[str]
    vectors: Vectors  # (n, d)
    texts: list[str | None]
    metadata: list[dict[str, Any]]


def check_name(name: object, what: str = "collection") -> str:
    """Return a collection's or alias's name if it is one."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise Invalid(
            f"{_brief(name)} is no {what} name: 1 to 255 of A-Z a-z 0-9 . _ -, "
            "starting with a letter or a digit",
            param="name",
        )
    return name


def check_dim(dim: object) -> int:
    """Return a collection's dimension if it can be one."""
    if not isinstance(dim, int) or isinstance(dim, bool) or not 1 <= dim <= MAX_DIM:
        raise Invalid(f"dim must be from 1 to {MAX_DIM}, not {_brief(dim)}", param="dim")
    return dim


def check_metric(metric: object) -> Metric:
    """Return the metric if it is known; euclidean is refused with what to use instead."""
    for known in METRICS:
        if metric == known:
            return known
    hint = "; for vectors of length 1 cosine ranks as euclidean does" if metric != "l1" else ""
    raise Invalid(
        f"unknown metric {_brief(metric)}; known are cosine and dot{hint}", param="metric"
    )


def check_label(label: object, what: str) -> str | None:
    """Return a model's name or fingerprint, or None."""
    if label is None:
        return None
    if not isinstance(label, str) or not 1 <= len(label) <= 512:
        raise Invalid(f"{what} must be a string of 1 to 512 characters", param=what)
    _check_unicode(label, f"the {what}", what)
    return label


def check_mode(mode: object) -> Mode:
    """Return the write mode if it is known."""
    for known in MODES:
        if mode == known:
            return known
    raise Invalid(f"unknown mode {_brief(mode)}; known are {', '.join(MODES)}", param="mode")


def check_parts(include: Sequence[str]) -> frozenset[Part]:
    """Return the parts of a record that are to be returned."""
    chosen = frozenset(part for part in PARTS if part in include)
    unknown = [part for part in include if part not in PARTS]
    if isinstance(include, str) or unknown:
        raise Invalid(f"include takes a list of {', '.join(PARTS)}", param="include")
    return chosen


def check_items(items: Sequence[Item], dim: int, metric: Metric, limits: Limits) -> Rows:
    """Return the items as columns. The first that is not allowed is named by number and id."""
    if not items:
        raise Invalid("no items given", param="items")
    if len(items) > limits.items:
        raise TooLarge(f"{len(items)} items; at most {limits.items} in one call", param="items")
    ids = check_ids([item.id for item in items], limits, unique=True)
    texts = [_check_text(item.text, _item(i, item.id), limits) for i, item in enumerate(items)]
    metadata = [
        _check_meta(item.metadata, _item(i, item.id), limits) for i, item in enumerate(items)
    ]
    rows = [_one_vector(item.vector, _item(i, item.id), dim) for i, item in enumerate(items)]
    vectors = np.stack(rows)
    _check_values(vectors, metric, lambda i: _item(i, ids[i]))
    return Rows(ids, vectors, texts, metadata)


def check_queries(vectors: npt.ArrayLike, dim: int, metric: Metric, limits: Limits) -> Vectors:
    """Return the query vectors as (q, d); a single one may come flat."""
    if isinstance(vectors, Sequence | np.ndarray) and len(vectors) and np.ndim(vectors[0]) == 0:
        vectors = [vectors]  # type: ignore[assignment]
    if not isinstance(vectors, Sequence | np.ndarray) or not len(vectors):
        raise Invalid("no query vector given", param="vectors")
    if len(vectors) > limits.queries:
        raise TooLarge(f"{len(vectors)} queries; at most {limits.queries} in one call")
    names = [f"query {i}" if len(vectors) > 1 else "the query" for i in range(len(vectors))]
    rows = np.stack([_one_vector(v, names[i], dim) for i, v in enumerate(vectors)])
    _check_values(rows, metric, lambda i: names[i])
    return rows


def check_window(k: object, offset: object, min_score: object, limits: Limits) -> tuple[int, int]:
    """Return k and offset if they may be asked for."""
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= limits.k:
        raise Invalid(f"k must be from 1 to {limits.k}, not {_brief(k)}", param="k")
    most = limits.window - k
    if not isinstance(offset, int) or isinstance(offset, bool) or not 0 <= offset <= most:
        raise Invalid(f"offset must be from 0 to {most}, not {_brief(offset)}", param="offset")
    if min_score is not None and (
        isinstance(min_score, bool)
        or not isinstance(min_score, int | float)
        or not math.isfinite(min_score)
    ):
        raise Invalid(f"min_score must be a number, not {_brief(min_score)}", param="min_score")
    return k, offset


def check_page(cursor: object, limit: object, limits: Limits) -> tuple[str | None, int]:
    """Return a scroll's cursor and page size if they may be asked for."""
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= limits.page:
        raise Invalid(f"limit must be from 1 to {limits.page}, not {_brief(limit)}", param="limit")
    if cursor is not None:
        _check_id(cursor, "cursor", limits)
    return cursor, limit  # type: ignore[return-value]


def check_ids(ids: Sequence[str], limits: Limits, unique: bool = False) -> list[str]:
    """Return the ids if each can be one (and comes once, if `unique`)."""
    if isinstance(ids, str) or not isinstance(ids, Sequence):
        raise Invalid("ids must be a list", param="ids")
    if len(ids) > limits.items:
        raise TooLarge(f"{len(ids)} ids; at most {limits.items} in one call", param="ids")
    first: dict[str, int] = {}
    for i, each in enumerate(ids):
        _check_id(each, f"item {i}", limits)
        if unique and each in first:
            raise Invalid(f"item {i}: id {_brief(each)} comes twice (also item {first[each]})")
        first[each] = i
    return list(ids)


# -- one thing each --------------------------------------------------------------------------------


def _item(i: int, id_: object) -> str:
    return f"item {i} (id {_brief(id_)})"


def _brief(value: object) -> str:
    """Return a value short enough for a message."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_id(id_: object, where: str, limits: Limits) -> None:
    if not isinstance(id_, str) or not id_:
        raise Invalid(
            f"{where}: an id is a string that is not empty, not {_brief(id_)}", param="id"
        )
    if len(id_) > limits.id_chars:
        raise Invalid(
            f"{where}: the id has {len(id_)} characters; at most {limits.id_chars}", param="id"
        )
    _check_unicode(id_, f"{where}: the id", "id")


def _check_unicode(text: str, where: str, param: str) -> None:
    """Refuse what no text column can hold."""
    if "\0" in text:
        raise Invalid(f"{where} holds a NUL character", param=param)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Invalid(f"{where} holds half a surrogate pair", param=param) from None


def _check_text(text: object, where: str, limits: Limits) -> str | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise Invalid(f"{where}: text is a string, not {_brief(text)}", param="text")
    _check_unicode(text, f"{where}: the text", "text")
    if len(text) * 4 > limits.text_bytes and len(text.encode()) > limits.text_bytes:
        raise TooLarge(f"{where}: the text is longer than {limits.text_bytes} bytes", param="text")
    return text


def _check_meta(metadata: object, where: str, limits: Limits) -> dict[str, Any]:
    if metadata is None or metadata == {}:
        return {}
    if not isinstance(metadata, Mapping):
        raise Invalid(
            f"{where}: metadata is a JSON object, not {_brief(metadata)}", param="metadata"
        )
    copied: dict[str, Any] = _copy_json(metadata, f"{where}: metadata", 1)
    size = len(json.dumps(copied, ensure_ascii=False, separators=(",", ":")).encode())
    if size > limits.metadata_bytes:
        raise TooLarge(
            f"{where}: metadata of {size} bytes; at most {limits.metadata_bytes}", param="metadata"
        )
    return copied


def _copy_json(value: Any, where: str, depth: int) -> Any:
    """Return a deep copy of a JSON value that shares nothing with the caller's."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        _check_unicode(value, where, "metadata")
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
        for key in value:
            if not isinstance(key, str):
                raise Invalid(f"{where}: the key {_brief(key)} is no string", param="metadata")
            _check_unicode(key, f"{where}: a key", "metadata")
        return {str(key): _copy_json(each, where, depth + 1) for key, each in value.items()}
    raise Invalid(f"{where}: {type(value).__name__} is no JSON value", param="metadata")


def _one_vector(raw: npt.ArrayLike, where: str, dim: int) -> Vectors:
    """Return a copy as float32 (d,)."""
    if isinstance(raw, np.ndarray) and raw.dtype == np.float32 and raw.ndim == 1:
        vector = raw
    else:
        try:
            wide = np.asarray(raw)
            if wide.dtype.kind not in "fiu" or wide.ndim != 1:
                raise ValueError
            with np.errstate(over="ignore"):
                vector = wide.astype(np.float32)
        except (ValueError, TypeError, OverflowError):
            raise Invalid(f"{where}: a vector is a flat list of numbers", param="vector") from None
    if len(vector) != dim:
        raise DimensionMismatch(
            f"{where}: the vector has {len(vector)} dimensions, the collection {dim}",
            param="vector",
        )
    return vector


def _check_values(vectors: Vectors, metric: Metric, name: Any) -> None:
    """Refuse NaN, infinities, values beyond float32 arithmetic and vectors of no direction."""
    largest = np.abs(vectors).max(axis=1)  # NaN if one is there
    for i in np.flatnonzero(~(largest <= MAX_VALUE))[:1]:
        what = "NaN" if np.isnan(vectors[i]).any() else "infinity or a value beyond 1e15"
        raise Invalid(f"{name(i)}: the vector holds {what}", param="vector")
    if metric == "cosine":
        for i in np.flatnonzero(largest < MIN_NORM)[:1]:
            raise Invalid(f"{name(i)}: a vector of zeros has no direction", param="vector")
