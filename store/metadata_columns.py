"""Metadata by field, so that a filter looks at many records at once: a code for each place.

A condition is decided once per distinct value, by the function that defines what filters mean
(`filters.holds`), and spread over the places by one table look-up. A field is read from the records
by the first filter that names it, and later filters read what is new; a declared field is kept up
with every write, so that no filter waits for it.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from store.budget import UNBOUNDED, Budget
from store.filters import MISSING, ORDER, And, Condition, Filter, Not, Or, Path, holds, kind, lookup
from store.rows import Mask

# Fields that were not declared, and conditions; the longest unused go first.
MAX_FIELDS = 64
MAX_TABLES = 256
# Values decided between two looks at the budget: each takes a microsecond, a list its elements'.
CHECK_VALUES = 256
# Longer strings and lists that were asked for are not remembered.
MAX_OPERAND = 256
EXACT_INT = 2**53  # whole numbers beyond are not all float64

# (first place, how many) -> (place, metadata) of the records there, in order
ReadMetadata = Callable[[int, int], Iterator[tuple[int, dict[str, Any]]]]


class MetadataColumns:
    """The fields of one generation of a collection. Its owner holds a lock."""

    def __init__(self, keep: Iterable[Path] = ()) -> None:
        self._kept = {path: _Field(path) for path in keep}
        self._fields: dict[Path, _Field] = {}

    def follow(self, read: ReadMetadata, n: int, budget: Budget = UNBOUNDED) -> None:
        """Read what is new up to place `n` into the declared fields."""
        self._catch_up(self._kept.values(), read, n, budget)

    def mask(self, tree: Filter, read: ReadMetadata, n: int, budget: Budget = UNBOUNDED) -> Mask:
        """Return which of the first `n` places match, dead ones too, (n,)."""
        wanted = {path: self._field(path) for path in _paths(tree)}
        self._catch_up(wanted.values(), read, n, budget)
        return self._walk(tree, n, wanted, budget)

    @staticmethod
    def _catch_up(fields: Iterable["_Field"], read: ReadMetadata, n: int, budget: Budget) -> None:
        """Read up to place `n`. A place whose record died meanwhile keeps the missing value."""
        late = [field for field in fields if field.upto < n]
        if not late:
            return
        for place, metadata in read(min(field.upto for field in late), n):
            budget.check()
            for field in late:
                if field.upto <= place:
                    field.put(place, metadata)
        for field in late:
            field.reach(n)

    def _field(self, path: Path) -> "_Field":
        if path in self._kept:
            return self._kept[path]
        field = self._fields.pop(path, None) or _Field(path)
        self._fields[path] = field
        while len(self._fields) > MAX_FIELDS:
            del self._fields[next(iter(self._fields))]
        return field

    def _walk(self, tree: Filter, n: int, fields: "dict[Path, _Field]", budget: Budget) -> Mask:
        budget.check()
        match tree:
            case Condition(path):
                return fields[path].mask(tree, n, budget)
            case Not(part):
                return ~self._walk(part, n, fields, budget)
            case And(parts) | Or(parts):
                out = np.full(n, isinstance(tree, And))
                for part in parts:
                    mask = self._walk(part, n, fields, budget)
                    out = out & mask if isinstance(tree, And) else out | mask
                return out

    def bytes(self) -> int:
        """Return about how much memory the codes take."""
        return sum(f.codes.nbytes for f in (*self._kept.values(), *self._fields.values()))


def _paths(tree: Filter) -> set[Path]:
    match tree:
        case Condition(path):
            return {path}
        case Not(part):
            return _paths(part)
        case And(parts) | Or(parts):
            return set().union(*map(_paths, parts))


class _Field:
    """One field's values. Code 0 is the missing value."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.upto = 0  # places read so far
        self.codes: npt.NDArray[np.int32] = np.zeros(1024, np.int32)
        self._values: list[Any] = [MISSING]
        self._code_of: dict[Any, int] = {}
        self._numbers: npt.NDArray[np.float64] | None = np.full(1, np.nan)  # None: not all exact
        self._tables: dict[Any, Mask] = {}

    def reach(self, n: int) -> None:
        """Have read all places below `n`; those that were not put have the missing value."""
        while len(self.codes) < n:
            self.codes = np.concatenate([self.codes, np.zeros_like(self.codes)])
        self.upto = max(n, self.upto)

    def put(self, place: int, metadata: dict[str, Any]) -> None:
        """Take in the value of the record at a place behind all that were read."""
        self.reach(place + 1)
        value = lookup(metadata, self._path)
        if value is not MISSING:
            key = _key(value)
            code = self._code_of.get(key)
            if code is None:
                code = self._code_of[key] = len(self._values)
                self._values.append(value)
            self.codes[place] = code

    def mask(self, condition: Condition, n: int, budget: Budget) -> Mask:
        """Return which of the first `n` places pass."""
        return self._table(condition, budget).take(self.codes[:n])  # half the time of an index

    def _table(self, condition: Condition, budget: Budget) -> Mask:
        """Return which codes pass, kept and extended when new values have come."""
        op, operand = condition.op, condition.operand
        key = (op, tuple(map(_key, operand)) if isinstance(operand, tuple) else _key(operand))
        table = self._tables.pop(key, np.zeros(0, np.bool_))
        if len(table) < len(self._values):
            table = np.concatenate([table, self._decide(op, operand, len(table), budget)])
        if isinstance(operand, str | tuple) and len(operand) > MAX_OPERAND:
            return table  # it would be kept with all it names
        self._tables[key] = table
        while len(self._tables) > MAX_TABLES:
            del self._tables[next(iter(self._tables))]
        return table

    def _decide(self, op: str, operand: Any, first: int, budget: Budget) -> Mask:
        """Return which codes from `first` on pass."""
        if op in ("$eq", "$ne", "$in", "$nin"):
            passed = np.zeros(len(self._values), np.bool_)
            many = operand if isinstance(operand, tuple) else (operand,)
            codes = [self._code_of[key] for key in map(_key, many) if key in self._code_of]
            passed[codes] = True
            return (~passed if op in ("$ne", "$nin") else passed)[first:]
        if op in ORDER and kind(operand) == "number" and abs(operand) <= EXACT_INT:
            numbers = self._as_numbers()
            if numbers is not None:
                with np.errstate(invalid="ignore"):
                    return np.asarray(ORDER[op](numbers[first:], float(operand)))
        rest = self._values[first:]
        passed = np.zeros(len(rest), np.bool_)
        for i, value in enumerate(rest):
            if i % CHECK_VALUES == 0 or isinstance(value, list):
                budget.check()
            passed[i] = holds(op, value, operand)
        return passed

    def _as_numbers(self) -> npt.NDArray[np.float64] | None:
        """Return the values as float64, NaN where not a number; None if one would be rounded."""
        if self._numbers is not None and len(self._numbers) < len(self._values):
            more = self._values[len(self._numbers) :]
            numbers = [v if kind(v) == "number" else np.nan for v in more]
            if any(isinstance(v, int) and abs(v) > EXACT_INT for v in numbers):
                self._numbers = None
            else:
                self._numbers = np.concatenate([self._numbers, np.array(numbers, np.float64)])
        return self._numbers


def _key(value: Any) -> Any:
    """Return what is equal for values that filters hold equal, and hashable."""
    sort = kind(value)
    return (sort, json.dumps(value, sort_keys=True) if sort == "other" else value)
