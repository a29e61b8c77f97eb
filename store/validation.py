"""Checks of what may be stored and asked for; a refusal names the item.

Both back ends call these, so that they refuse the same things in the same words.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from errors import Conflict, Invalid, NotFound, TooLarge
from store.base import METRICS, MODES, PARTS, Item, Metric, Mode, Part, Vectors
from store.filters import FIELD, FIELD_CHARS, path_of
from store.values import (
    Place,
    brief,
    check_id,
    check_meta,
    check_text,
    check_unicode,
    check_values,
    one_vector,
)

MAX_DIM = 16_000  # also what pgvector stores
MAX_INDEXED = 64  # fields that a collection may declare
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


@dataclass(frozen=True)
class Limits:
    """How much one call may bring or ask for."""

    items: int = 1000  # of one upsert, get or delete
    queries: int = 100  # of one search
    k: int = 1000
    window: int = 10_000  # offset + k
    reads: int = 100_000  # of one search: queries x (offset + k)
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
            f"{brief(name)} is no {what} name: 1 to 255 of A-Z a-z 0-9 . _ -, "
            "starting with a letter or a digit",
            param="name",
        )
    return name


def check_uuid(is_: str, expected: str | None, name: str) -> None:
    """Raise Conflict if a name means another collection than was expected, where one was."""
    if expected is not None and is_ != expected:
        raise Conflict(
            f"collection {name!r} was replaced meanwhile; nothing was written, send it again",
            retry_after_s=1,
        )


def being_replaced() -> Conflict:
    """Return the refusal of a write to a collection whose successor is being built."""
    return Conflict(
        "the collection is being re-embedded: searches go on, writes must wait; "
        "GET /jobs shows how far it is",
        retry_after_s=5,
    )


def _whole(value: object, least: int, most: int, param: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Invalid(f"{param} must be from {least} to {most}, not {brief(value)}", param=param)
    return value


def check_dim(dim: object) -> int:
    """Return a collection's dimension if it can be one."""
    return _whole(dim, 1, MAX_DIM, "dim")


def check_metric(metric: object) -> Metric:
    """Return the metric if it is known; euclidean is refused with what to use instead."""
    if metric in METRICS:
        return metric
    hint = "; for vectors of length 1 cosine ranks as euclidean does" if metric != "l1" else ""
    raise Invalid(f"unknown metric {brief(metric)}; known are cosine and dot{hint}", param="metric")


def check_label(label: object, what: str) -> str | None:
    """Return a model's name or fingerprint, or None."""
    if label is None:
        return None
    if not isinstance(label, str) or not 1 <= len(label) <= 512:
        raise Invalid(f"{what} must be a string of 1 to 512 characters", param=what)
    check_unicode(label, f"the {what}", what)
    return label


def check_indexed(fields: Sequence[str]) -> tuple[str, ...]:
    """Return the fields that a collection declares, each as filters name it."""
    if isinstance(fields, str) or not isinstance(fields, Sequence):
        raise Invalid("indexed takes a list of fields", param="indexed")
    if len(fields) > MAX_INDEXED:
        raise Invalid(f"{len(fields)} indexed fields; at most {MAX_INDEXED}", param="indexed")
    for i, each in enumerate(fields):
        if not isinstance(each, str) or path_of(each) is None:
            raise Invalid(
                f"indexed field {i}: {brief(each)} is no field; a field is {FIELD}, without a $ "
                f"before them, {FIELD_CHARS} characters at most",
                param="indexed",
            )
        check_unicode(each, f"indexed field {i}", "indexed")
        if each in fields[:i]:
            raise Invalid(f"indexed field {i}: {brief(each)} comes twice", param="indexed")
    return tuple(fields)


def check_mode(mode: object) -> Mode:
    """Return the write mode if it is known."""
    if mode in MODES:
        return mode
    raise Invalid(f"unknown mode {brief(mode)}; known are {', '.join(MODES)}", param="mode")


def check_present(mode: Mode, ids: Sequence[str], there: set[str]) -> None:
    """Raise Conflict to insert an id that exists, NotFound to update one that does not.

    `there` has those of the ids that exist.
    """
    if mode == "insert" and there:
        raise Conflict(f"id {brief(min(there))} exists already; nothing was written")
    gone = [id_ for id_ in ids if id_ not in there] if mode == "update" else []
    if gone:
        raise NotFound(f"id {brief(gone[0])} does not exist; nothing was written")


def check_parts(include: Sequence[str]) -> frozenset[Part]:
    """Return the parts of a record that are to be returned."""
    if isinstance(include, str) or any(part not in PARTS for part in include):
        raise Invalid(f"include takes a list of {', '.join(PARTS)}", param="include")
    return frozenset(cast(Sequence[Part], include))


def check_items(items: Sequence[Item], dim: int, metric: Metric, limits: Limits) -> Rows:
    """Return the items as columns. The first that is not allowed is named by number and id."""
    ids, texts, metadata, places = check_columns(items, limits)
    rows = [one_vector(item.vector, place, dim) for item, place in zip(items, places, strict=True)]
    vectors = np.concatenate(rows).reshape(-1, dim)  # a copy, even of one
    check_values(vectors, metric, places)
    return Rows(ids, vectors, texts, metadata)


def check_columns(
    items: Sequence[Item], limits: Limits
) -> tuple[list[str], list[str | None], list[dict[str, Any]], list[Place]]:
    """Return ids, texts, metadata and what names each item, checked; vectors are not looked at."""
    if not items:
        raise Invalid("no items given", param="items")
    if len(items) > limits.items:
        raise TooLarge(f"{len(items)} items; at most {limits.items} in one call", param="items")
    ids = check_ids([item.id for item in items], limits, unique=True)
    places = list(map(Place, range(len(ids)), ids))
    placed = list(zip(items, places, strict=True))
    texts = [check_text(item.text, place, limits.text_bytes) for item, place in placed]
    metadata = [check_meta(item.metadata, place, limits.metadata_bytes) for item, place in placed]
    return ids, texts, metadata, places


def check_queries(vectors: npt.ArrayLike, dim: int, metric: Metric, limits: Limits) -> Vectors:
    """Return the query vectors as (q, d); a single one may come flat."""
    if isinstance(vectors, Sequence | np.ndarray) and len(vectors) and np.ndim(vectors[0]) == 0:
        vectors = [vectors]  # type: ignore[assignment]
    if not isinstance(vectors, Sequence | np.ndarray) or not len(vectors):
        raise Invalid("no query vector given", param="vectors")
    if len(vectors) > limits.queries:
        raise TooLarge(f"{len(vectors)} queries; at most {limits.queries} in one call")
    names = [f"query {i}" if len(vectors) > 1 else "the query" for i in range(len(vectors))]
    rows = np.stack([one_vector(v, names[i], dim) for i, v in enumerate(vectors)])
    check_values(rows, metric, names)
    return rows


def check_window(k: object, offset: object, min_score: object, limits: Limits) -> tuple[int, int]:
    """Return k and offset if they may be asked for."""
    k = _whole(k, 1, limits.k, "k")
    offset = _whole(offset, 0, limits.window - k, "offset")
    if min_score is not None and (
        isinstance(min_score, bool)
        or not isinstance(min_score, int | float)
        or not math.isfinite(min_score)
    ):
        raise Invalid(f"min_score must be a number, not {brief(min_score)}", param="min_score")
    return k, offset


def check_reads(queries: int, k: int, offset: int, limits: Limits) -> None:
    """Raise TooLarge for a search that ranks too many records, over all its queries."""
    if queries * (offset + k) > limits.reads:
        raise TooLarge(
            f"{queries} queries x (offset {offset} + k {k}) records; at most {limits.reads:,} in "
            "one call: send fewer queries, or ask for less with k or offset"
        )


def check_page(cursor: object, limit: object, limits: Limits) -> tuple[str | None, int]:
    """Return a scroll's cursor and page size if they may be asked for."""
    limit = _whole(limit, 1, limits.page, "limit")
    if cursor is not None:
        check_id(cursor, "cursor", limits.id_chars)
    return cursor, limit  # type: ignore[return-value]


def check_ids(ids: Sequence[str], limits: Limits, unique: bool = False) -> list[str]:
    """Return the ids if each can be one (and comes once, if `unique`)."""
    if isinstance(ids, str) or not isinstance(ids, Sequence):
        raise Invalid("ids must be a list", param="ids")
    if len(ids) > limits.items:
        raise TooLarge(f"{len(ids)} ids; at most {limits.items} in one call", param="ids")
    first: dict[str, int] = {}
    for i, each in enumerate(ids):
        check_id(each, f"item {i}", limits.id_chars)
        if unique and each in first:
            raise Invalid(f"item {i}: id {brief(each)} comes twice (also item {first[each]})")
        first[each] = i
    return list(ids)
