"""What a collection's metadata holds: its fields, their kinds, top values and ranges of numbers."""

import json
import math
import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from store import VectorStore
from store.budget import UNBOUNDED, Budget
from store.filters import FIELD_CHARS, MAX_DEPTH, Path, Scalar, kind

# Up to so many matching records are all looked at; of more, a random choice of so many. 20,000 of
# 5 fields take 0.5 s from files (2 shared cores, 2026-11-30).
RECORDS_MOST = 20_000
PAGE = 200  # records read at once: 64 KiB each at most, so 13 MB
# Values looked at in all, where a long one counts as several; what was read until then is the
# sample. So 900 fields of different texts take 2.6 s of one core and 40 MB (2026-11-30).
WORK_MOST, WORK_CHARS = 1_000_000, 100
FIELDS_MOST = 1000  # fields followed at once, those that were seen first
# Different values counted of one field, and of all fields together: 30 MB at most.
VALUES_OF_ONE, VALUES_OF_ALL = 5000, 100_000
VALUE_CHARS = 200  # a longer string is a text, and no value to choose
RANGES = 5  # of numbers, with about as many records in each
DIGITS = 3  # of what all ranges span, to which the numbers between two are rounded

Number = int | float


class Count(NamedTuple):
    """A value, and how many records have it."""

    value: Scalar
    records: int


class Range(NamedTuple):
    """Numbers from `start` up to `end`, which only the last range includes."""

    start: Number
    end: Number
    records: int


@dataclass(frozen=True)
class Facet:
    """One field over the records that were looked at."""

    field: str
    kinds: dict[str, int]  # string, number, boolean, null, list, object: records with it
    missing: int
    values: list[Count]  # the most frequent first
    elements: list[Count]  # of lists: each counts once a record
    distinct: int | None  # None: not all values could be counted
    ranges: list[Range]  # of the numbers, rising


@dataclass(frozen=True)
class Facets:
    """Fields by how many records have them; `exact` if all `count` matching ones were read."""

    count: int
    looked_at: int
    exact: bool
    fields: list[Facet]
    left_out: int  # fields that were seen beyond these; at least, if there are very many


def facets(
    store: VectorStore, name: str, filter: object = None, fields: Sequence[str] | None = None,
    most: int = 100, top: int = 10, budget: Budget = UNBOUNDED,
) -> Facets:  # fmt: skip
    """Describe the metadata of the records that match: `most` fields, or those of `fields`.

    Raises NotFound, BadRequest for the filter, and what the budget raises.
    """
    ids = store.sample(name, RECORDS_MOST, budget, filter)
    random.Random(0).shuffle(ids)  # where the work ends early, what was read is a random choice
    seen = _Fields(fields)
    looked_at, whole = 0, True
    for start in range(0, len(ids), PAGE):
        if seen.work > WORK_MOST:
            whole = False
            break
        page = ids[start : start + PAGE]
        for record in store.get(name, page, ("metadata",), budget.unmetered()):
            seen.take(record.metadata or {})
            looked_at += 1
    if not whole or len(ids) == RECORDS_MOST:
        count = store.count(name, filter, budget)
    else:
        count = looked_at
    rows = seen.rows()
    described = [row.facet(looked_at, top) for row in rows[: most if fields is None else None]]
    left_out = 0 if fields is not None else len(rows) - len(described) + len(seen.beyond)
    return Facets(count, looked_at, whole and count == looked_at, described, left_out)


class _Fields:
    """All fields of the metadata that was taken in."""

    def __init__(self, wanted: Sequence[str] | None) -> None:
        self._wanted = None if wanted is None else dict.fromkeys(wanted)
        self._fields: dict[Path, _Field] = {}
        self.beyond: set[Path] = set()  # seen and not followed, `FIELDS_MOST` at most
        self.work = self._values = 0

    def take(self, metadata: dict[str, Any]) -> None:
        """Count one record's fields."""
        for path, value in _leaves(metadata):
            self.work += 1 + _size(value) // WORK_CHARS
            field = self._field(path)
            if field is not None:
                self._values += field.take(value)
        while self._values > VALUES_OF_ALL:
            largest = max(self._fields.values(), key=lambda field: field.counted)
            self._values -= largest.give_up()

    def _field(self, path: Path) -> "_Field | None":
        found = self._fields.get(path)
        if found is None:
            name = ".".join(path)
            if len(name) > FIELD_CHARS or (self._wanted is not None and name not in self._wanted):
                return None
            if len(self._fields) == FIELDS_MOST:
                if len(self.beyond) < FIELDS_MOST:
                    self.beyond.add(path)
                return None
            found = self._fields[path] = _Field(name)
        return found

    def rows(self) -> "list[_Field]":
        """Return the fields by how many records have them, or the wanted ones in their order.

        Where all values of a field are objects, their fields stand for it.
        """
        if self._wanted is not None:
            found = {field.name: field for field in self._fields.values()}
            return [found.get(name) or _Field(name) for name in self._wanted]
        plain = [field for field in self._fields.values() if field.kinds.keys() != {"object"}]
        return sorted(plain, key=lambda field: (-field.kinds.total(), field.name))


class _Field:
    """One field's values so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kinds: Counter[str] = Counter()
        # By kind and value: true and 1 are the same key of a dictionary.
        self._values: Counter[tuple[str, Scalar]] | None = Counter()
        self._elements: Counter[tuple[str, Scalar]] | None = Counter()
        self._long = False  # whether a string was too long to count
        self._numbers: list[Number] = []

    @property
    def counted(self) -> int:
        """Number of different values that are held."""
        return len(self._values or ()) + len(self._elements or ())

    def take(self, value: Any) -> int:
        """Count a value; return how many more different ones are held."""
        before, sort = self.counted, _kind(value)
        self.kinds[sort] += 1
        if sort == "list":
            if self._elements is not None:
                scalars = {(kind(each), each) for each in value if kind(each) != "other"}
                self._elements.update(key for key in scalars if self._short(key[1]))
        elif sort != "object" and self._values is not None and self._short(value):
            self._values[sort, value] += 1
        if sort == "number":
            self._numbers.append(value)
        if self.counted > VALUES_OF_ONE:
            self.give_up()
        return self.counted - before

    def _short(self, value: Scalar) -> bool:
        short = not isinstance(value, str) or len(value) <= VALUE_CHARS
        self._long = self._long or not short
        return short

    def give_up(self) -> int:
        """Count no values any more; return how many were held."""
        held = self.counted
        self._values = self._elements = None
        return held

    def facet(self, looked_at: int, top: int) -> Facet:
        """Describe the field."""
        whole = self._values is not None and not self._long
        return Facet(
            self.name, dict(self.kinds.most_common()), looked_at - self.kinds.total(),
            _top(self._values, top), _top(self._elements, top), self.counted if whole else None,
            ranges(self._numbers),
        )  # fmt: skip


def _leaves(metadata: dict[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield each value that a filter can name with its path; an object before what is in it."""
    for key, value in metadata.items():
        if not key or "." in key or key[0] == "$" or len(path) == MAX_DEPTH:
            continue
        here = (*path, key)
        yield here, value
        if isinstance(value, dict):
            yield from _leaves(value, here)


def _kind(value: Any) -> str:
    sort = kind(value)
    return sort if sort != "other" else "list" if isinstance(value, list) else "object"


def _size(value: Any) -> int:
    """Return about how much work a value is, in characters."""
    if isinstance(value, list):
        return sum(WORK_CHARS + _size(each) for each in value)
    return len(value) if isinstance(value, str | dict) else 0


def _top(counter: Counter[tuple[str, Scalar]] | None, top: int) -> list[Count]:
    """Return the most frequent values; of equal counts in the order of their JSON."""
    if not counter:
        return []
    least = sorted(counter.values(), reverse=True)[:top][-1]
    often = [Count(value, count) for (_, value), count in counter.items() if count >= least]
    return sorted(often, key=lambda each: (-each.records, json.dumps(each.value)))[:top]


def ranges(numbers: Sequence[Number]) -> list[Range]:
    """Return up to `RANGES` ranges with about as many numbers in each, all numbers in one.

    What is between two ranges is rounded, so that a person can read it.
    """
    if not numbers:
        return []
    ordered = sorted(numbers)
    first, last = ordered[0], ordered[-1]
    if first == last:
        return [Range(first, last, len(ordered))]
    digits = _digits(float(last) / 2 - float(first) / 2)
    inner = {round(ordered[len(ordered) * i // RANGES], digits) for i in range(1, RANGES)}
    edges = [first, *sorted(each for each in inner if first < each < last), last]
    at = [*(bisect_left(ordered, edge) for edge in edges[:-1]), len(ordered)]
    found = [
        Range(start, end, after - before)
        for start, end, before, after in zip(edges, edges[1:], at, at[1:], strict=False)
    ]
    return [each for each in found if each.records]


def _digits(span: float) -> int | None:
    """Return how many digits after the point a number on a span needs; None where all are one."""
    return DIGITS - 1 - math.floor(math.log10(span)) if span > 0 else None
