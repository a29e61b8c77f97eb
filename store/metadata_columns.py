"""Answers filters over many rows at once: for each field, a code per row and a value per code.

A condition is decided once per distinct value, by the very function that defines what filters mean
(`filters.holds`), and spread over the rows by one table look-up. A field is read from the journal
when it is first asked for, and caught up with on later use; one that is kept takes in each row as
it comes, so that no filter waits for it.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from store.budget import UNBOUNDED, Budget
from store.filters import MISSING, And, Condition, Filter, Not, Or, Path, holds, kind, lookup
from store.rows import Mask

# Fields that nobody declared, and conditions; the longest unused go first.
MAX_FIELDS = 64
MAX_TABLES = 256
# Values decided between two looks at the budget: each takes a microsecond, a list its elements'.
CHECK_VALUES = 256
# Longer strings and lists that were asked for are not remembered.
MAX_OPERAND = 256
EXACT_INT = 2**53  # whole numbers beyond are not all float64

# (first row) -> metadata of that row and all after it, in order
ReadMetadata = Callable[[int], Iterator[dict[str, Any]]]


class Postings:
    """The fields of one generation of a collection. Its owner holds a lock."""

    def __init__(self, read: ReadMetadata, keep: Iterable[Path] = ()) -> None:
        self._read = read
        self._kept = {path: _Field(path) for path in keep}
        self._fields: dict[Path, _Field] = {}

    def follow(self, first: int, metadata: Iterable[dict[str, Any]]) -> None:
        """Take the rows from `first` on into the fields that are kept."""
        for field in self._kept.values():
            if field.upto == first:
                for each in metadata:
                    field.add(each)

    def mask(self, tree: Filter, n: int, budget: Budget = UNBOUNDED) -> Mask:
        """Return which of the first `n` rows match, dead ones too, (n,)."""
        wanted = {path: self._field(path) for path in _paths(tree)}
        late = [field for field in wanted.values() if field.upto < n]
        if late:
            start = min(field.upto for field in late)
            for row, metadata in enumerate(self._read(start), start):
                budget.check()
                for field in late:
                    if field.upto == row:
                        field.add(metadata)
        return self._walk(tree, n, wanted, budget)

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
        self.upto = 0  # rows read so far
        self.codes: npt.NDArray[np.int32] = np.zeros(1024, np.int32)
        self._values: list[Any] = [MISSING]
        self._code_of: dict[Any, int] = {}
        self._numbers: npt.NDArray[np.float64] | None = np.full(1, np.nan)  # None: not all exact
        self._tables: dict[Any, Mask] = {}

    def add(self, metadata: dict[str, Any]) -> None:
        """Take in the next row."""
        if self.upto == len(self.codes):
            self.codes = np.concatenate([self.codes, np.zeros_like(self.codes)])
        value = lookup(metadata, self._path)
        if value is not MISSING:
            key = _key(value)
            code = self._code_of.get(key)
            if code is None:
                code = self._code_of[key] = len(self._values)
                self._values.append(value)
            self.codes[self.upto] = code
        self.upto += 1

    def mask(self, condition: Condition, n: int, budget: Budget) -> Mask:
        """Return which of the first `n` rows pass."""
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
        if op in COMPARE and kind(operand) == "number" and abs(operand) <= EXACT_INT:
            numbers = self._as_numbers()
            if numbers is not None:
                with np.errstate(invalid="ignore"):
                    out: Mask = COMPARE[op](numbers[first:], float(operand))
                return out
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


COMPARE: dict[str, Callable[..., Any]] = {
    "$gt": np.greater,
    "$gte": np.greater_equal,
    "$lt": np.less,
    "$lte": np.less_equal,
}


def _key(value: Any) -> Any:
    """Return what is equal for values that filters hold equal, and hashable."""
    sort = kind(value)
    return (sort, json.dumps(value, sort_keys=True) if sort == "other" else value)
