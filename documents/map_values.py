"""The values of a metadata field, one for each point of a map, as colours need them."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LOOKED_AT = 500  # points whose metadata tells the fields there are
FIELDS = 100  # that are told; one record may have thousands
TOP = 10  # values with a colour of their own
LONGEST = 60  # characters of a value's name
MISSING = -1
SHADES = 32  # of a scale
# A field is a scale if so much of it is numbers, and more different ones than colours tell apart.
NUMBERS_SHARE = 0.9
LARGEST = 1e300  # JSON's whole numbers have no end, a float's do
# Ends of a scale: a few values far out would make all others one colour.
ENDS = (2, 98)
LOGARITHMIC_FROM = 20  # times the lower end: most lengths and prices would be one colour


@dataclass(frozen=True)
class Categories:
    """The `TOP` commonest values, how many points have each, and which of them each has (n,).

    `len(names)` means another value and -1 none; `others` points have another.
    """

    names: list[str]
    counts: list[int]
    others: int
    of: NDArray[np.int8]


@dataclass(frozen=True)
class Scale:
    """The shade of each point's number, (n,), -1 where there is none, and the ends of the shades.

    What is beyond an end has its shade.
    """

    of: NDArray[np.int8]
    low: float
    high: float
    logarithmic: bool


def fields(metadata: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the fields by which it is worth colouring, named as filters name them.

    Left out is what has one value, or of text another for almost every record, as titles do.
    """
    values: dict[str, list[Any]] = {}
    for each in metadata:
        for name, value in _flat(each):
            if name in values or len(values) < FIELDS:
                values.setdefault(name, []).append(value)
    found = []
    for name, some in values.items():
        different = len({json.dumps(value) for value in some})
        few = different <= max(TOP, len(some) // 2)
        if different > 1 and (few or _is_scale(some)):
            found.append(name)
    return found


def values(metadata: Iterable[Mapping[str, Any]], field: str) -> Categories | Scale:
    """Return the values of one field; all missing if no record has it.

    Values are the same if their first `LONGEST` characters are.
    """
    path = field.split(".")
    found = [_short(_at(each, path)) for each in metadata]
    there = [value for value in found if value is not None]
    if _is_scale(there):
        numbers = np.array([v if _is_number(v) else np.nan for v in found], np.float64)
        low, high = np.nanpercentile(numbers, ENDS).tolist()
        logarithmic = low > 0 and high > LOGARITHMIC_FROM * low
        places = np.log(numbers.clip(low)) if logarithmic else numbers
        first, last = (math.log(low), math.log(high)) if logarithmic else (low, high)
        shares = ((places - first) / ((last - first) or 1.0)).clip(0, 1)
        shades = np.nan_to_num(np.rint(shares * (SHADES - 1)), nan=MISSING)
        return Scale(shades.astype(np.int8), low, high, logarithmic)
    texts = [None if value is None else _text(value) for value in found]
    counted = Counter(text for text in texts if text is not None)
    top = counted.most_common(TOP if len(counted) > TOP else None)
    place = {name: at for at, (name, _) in enumerate(top)} | {None: MISSING}
    of = np.array([place.get(text, len(top)) for text in texts], np.int8)
    return Categories(
        [name for name, _ in top], [count for _, count in top],
        counted.total() - sum(count for _, count in top), of,
    )  # fmt: skip


def _flat(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each field that is no object, by the name that filters give it."""
    for key, each in value.items():
        name = f"{path}.{key}" if path else key
        if isinstance(each, Mapping):
            yield from _flat(each, name)
        elif each is not None:
            yield name, each


def _at(value: Any, path: Sequence[str]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return None if isinstance(value, Mapping) else value


def _short(value: Any) -> Any:
    """Return a value that is no longer than its name, since all are held at once."""
    return value if value is None or _is_number(value) else _text(value)[:LONGEST]


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < LARGEST


def _is_scale(some: Sequence[Any]) -> bool:
    numbers = [value for value in some if _is_number(value)]
    return bool(some) and len(numbers) >= NUMBERS_SHARE * len(some) and len(set(numbers)) > TOP


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
