"""The filter language: which records an operation is about, by their metadata.

    {"lang": "en", "year": {"$gte": 2020, "$lt": 2025}, "$or": [{"tag": "a"}, {"$not": {"n": 1}}]}

Every key must hold (AND). A key is a field (`author.name` looks inside objects, never inside lists)
or `$and`, `$or` (lists of filters) or `$not` (one filter). A field has a value, short for `$eq`, or
operators: `$eq $ne $gt $gte $lt $lte $in $nin $exists $contains`.

- `$eq` and `$in` take null, booleans, numbers and strings. 1 equals 1.0; true equals only true.
- `$gt` and the like compare numbers with numbers and strings with strings (by code point); a value
  of another type does not match.
- `$contains`: a list that has the element, or a string that has the substring.
- A missing field matches `$ne`, `$nin` and `$exists: false`, and nothing else; a null is present.
- `$not` is plain negation, so it also matches records that lack the field.
- `{}` matches everything; an empty `$in` nothing.

`parse` turns JSON into a tree and refuses what it does not know; `matches` is the meaning of the
tree, by which every backend is tested.
"""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from errors import BadRequest

Scalar = str | int | float | bool | None
Path = tuple[str, ...]  # the field `author.name` is ("author", "name")

MAX_DEPTH = 16
# What one whole filter may have: each costs time for every row, or memory while it is at work.
MOST = {
    "conditions": 256,
    "filters within it": 1024,  # empty ones too
    "values of $in and $nin": 10_000,
    "characters": 1 << 20,
}
FIELD_CHARS = 512
FIELD = f"at most {MAX_DEPTH} names joined by single dots"
OPERATORS = ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$contains")


@dataclass(frozen=True)
class Condition:
    """One field against one operand. For `$in` and `$nin` the operand is a tuple of scalars."""

    path: Path
    op: str  # one of OPERATORS
    operand: Scalar | tuple[Scalar, ...]


@dataclass(frozen=True)
class And:
    """All parts hold; with no parts, everything matches."""

    parts: tuple["Filter", ...]


@dataclass(frozen=True)
class Or:
    """At least one part holds. Never empty."""

    parts: tuple["Filter", ...]


@dataclass(frozen=True)
class Not:
    """The part does not hold."""

    part: "Filter"


Filter = Condition | And | Or | Not


MISSING: Any = object()  # what `lookup` returns for a field that is not there
ORDER: dict[str, Callable[[Any, Any], Any]] = {
    "$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le,
}  # fmt: skip


def parse(raw: object) -> Filter | None:
    """Read a filter from JSON; None and `{}` match everything and give None.

    Raises BadRequest that says where the filter is wrong.
    """
    if raw is None:
        return None
    tree = _parse_filter(raw, "filter", 1, _Room(MOST))
    return None if tree == And(()) else tree


def lookup(metadata: Mapping[str, Any], path: Path) -> Any:
    """Return the value of a field, or MISSING."""
    value: Any = metadata
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return MISSING
        value = value[key]
    return value


def path_of(field: str) -> Path | None:
    """Return the path of a field as filters name it; None if it names none."""
    if len(field) > FIELD_CHARS:
        return None
    path = tuple(field.split("."))
    return path if all(path) and len(path) <= MAX_DEPTH and field[0] != "$" else None


def matches(tree: Filter | None, metadata: Mapping[str, Any]) -> bool:
    """Whether a record with this metadata matches. This defines what filters mean."""
    match tree:
        case None:
            return True
        case And(parts):
            return all(matches(part, metadata) for part in parts)
        case Or(parts):
            return any(matches(part, metadata) for part in parts)
        case Not(part):
            return not matches(part, metadata)
        case Condition(path, op, operand):
            return holds(op, lookup(metadata, path), operand)


def holds(op: str, value: Any, operand: Any) -> bool:
    """Whether one value (or MISSING) passes one operator."""
    if op == "$exists":
        return (value is not MISSING) is operand
    if op in ("$ne", "$nin"):
        return not holds("$eq" if op == "$ne" else "$in", value, operand)
    if value is MISSING:
        return False
    if op == "$eq":
        return equal(value, operand)
    if op == "$in":
        return any(equal(value, each) for each in operand)
    if op == "$contains":
        if isinstance(value, str):
            return isinstance(operand, str) and operand in value
        return isinstance(value, list) and any(equal(each, operand) for each in value)
    return kind(value) == kind(operand) and bool(ORDER[op](value, operand))


def kind(value: object) -> str:
    """Return the JSON type of a value: a boolean is no number, an integer and a float are one."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else "other"


def equal(value: object, operand: Scalar) -> bool:
    """Whether a stored value equals a scalar; lists and objects equal no scalar."""
    return kind(value) == kind(operand) and bool(value == operand)


# -- parsing -------------------------------------------------------------------------------------


class _Room(dict[str, int]):
    """What a filter may still have of `MOST`."""

    def take(self, what: str, count: int, where: str) -> None:
        """Count something. Raises BadRequest if it is too much."""
        self[what] -= count
        if self[what] < 0:
            raise _bad(where, f"more than {MOST[what]:,} {what}; ask with fewer in several calls")


def _bad(where: str, what: str) -> BadRequest:
    return BadRequest(f"{where}: {what}", param="filter")


def _parse_filter(raw: object, where: str, depth: int, room: _Room) -> Filter:
    if not isinstance(raw, Mapping):
        raise _bad(where, f"a filter is an object, not {_name(raw)}")
    if depth > MAX_DEPTH:
        raise _bad(where, f"nested deeper than {MAX_DEPTH} levels")
    room.take("filters within it", 1, where)
    parts: list[Filter] = []
    for key, value in raw.items():
        here = f"{where}.{str(key)[:64]}"
        if key in ("$and", "$or"):
            if not isinstance(value, list) or not value:
                raise _bad(here, f"takes a list of filters that is not empty, not {_name(value)}")
            inner = tuple(
                _parse_filter(each, f"{here}[{i}]", depth + 1, room) for i, each in enumerate(value)
            )
            parts.append(And(inner) if key == "$and" else Or(inner))
        elif key == "$not":
            parts.append(Not(_parse_filter(value, here, depth + 1, room)))
        else:
            parts += _parse_field(key, value, here, room)
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _parse_field(key: object, value: object, where: str, room: _Room) -> list[Filter]:
    if not isinstance(key, str) or not key or key.startswith("$"):
        raise _bad(where, "unknown operator; here come field names or $and, $or, $not")
    path = path_of(key)
    if path is None:
        raise _bad(where, f"a field is {FIELD}, {FIELD_CHARS} characters at most")
    _no_surrogates(key, where)
    tests = value if isinstance(value, Mapping) else {"$eq": value}
    if not tests:
        raise _bad(where, f"an empty object; give a value or one of {', '.join(OPERATORS)}")
    room.take("conditions", len(tests), where)
    room.take("characters", len(key), where)
    return [Condition(path, op, _operand(op, raw, where, room)) for op, raw in tests.items()]


def _operand(op: str, raw: object, where: str, room: _Room) -> Scalar | tuple[Scalar, ...]:
    if op not in OPERATORS:
        raise _bad(where, f"unknown operator {str(op)[:40]!r}; known are {', '.join(OPERATORS)}")
    where = f"{where}.{op}"
    if op == "$exists":
        if not isinstance(raw, bool):
            raise _bad(where, f"takes true or false, not {_name(raw)}")
        return raw
    if op in ("$in", "$nin"):
        if not isinstance(raw, list):
            raise _bad(where, f"takes a list of values, not {_name(raw)}")
        room.take("values of $in and $nin", len(raw), where)
        return tuple(_scalar(each, where, room) for each in raw)
    value = _scalar(raw, where, room)
    if op in ORDER and kind(value) not in ("number", "string"):
        raise _bad(where, f"compares numbers or strings, not {_name(raw)}")
    return value


def _scalar(raw: object, where: str, room: _Room) -> Scalar:
    if isinstance(raw, str):
        room.take("characters", len(raw), where)
        _no_surrogates(raw, where)
        return raw
    if raw is None or isinstance(raw, int) or (isinstance(raw, float) and math.isfinite(raw)):
        return raw
    raise _bad(where, f"takes null, true, false, a finite number or a string, not {_name(raw)}")


def _no_surrogates(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _bad(where, "holds half a surrogate pair, which no text has") from None


def _name(raw: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    names |= {int: "a number", float: "a number", type(None): "null"}
    return names.get(type(raw), type(raw).__name__)
