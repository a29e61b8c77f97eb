"""A filter as SQL over a row's `meta` (jsonb), with exactly the meaning of `filters.matches`.

Every part is true or false, never NULL, so that NOT negates it. Equality, the most frequent test,
becomes containment (`meta @> {...}`), which has an index.
"""

from typing import Any

from store.filters import And, Condition, Filter, Not, Or, Path, Scalar, kind
from store.pg_wire import dump_json

FEW = 16  # values of one $in that are looked for one by one, through the index

_ORDER = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


class Where:
    """The SQL of a filter and the values of its parameters."""

    def __init__(self, tree: Filter | None) -> None:
        self.values: dict[str, Any] = {}
        self.sql = "TRUE" if tree is None else self._compile(tree)

    def _compile(self, tree: Filter) -> str:
        match tree:
            case And(parts):
                return self._join(" AND ", [self._compile(part) for part in parts]) or "TRUE"
            case Or(parts):
                return self._join(" OR ", [self._compile(part) for part in parts]) or "FALSE"
            case Not(part):
                return f"NOT {self._compile(part)}"
            case Condition(path, op, operand):
                return f"({self._condition(path, op, operand)})"

    def _condition(self, path: Path, op: str, operand: Any) -> str:
        if any("\0" in key for key in path):  # no stored key has a NUL
            return (
                "TRUE" if op in ("$ne", "$nin") or (op, operand) == ("$exists", False) else "FALSE"
            )
        match op:
            case "$exists":
                return f"{self._field(path)} IS {'NOT NULL' if operand else 'NULL'}"
            case "$eq":
                return self._equal(path, operand)
            case "$ne":
                return f"NOT ({self._equal(path, operand)})"
            case "$in":
                return self._any(path, operand)
            case "$nin":
                return f"NOT ({self._any(path, operand)})"
            case "$contains":
                return self._contains(path, operand)
        return self._ordered(path, op, operand)

    def _equal(self, path: Path, operand: Scalar) -> str:
        if isinstance(operand, str) and "\0" in operand:  # nothing stored has one
            return "FALSE"
        return f"meta @> {self._param(dump_json(_nest(path, operand)), 'jsonb')}"

    def _any(self, path: Path, operands: tuple[Scalar, ...]) -> str:
        possible = [each for each in operands if not (isinstance(each, str) and "\0" in each)]
        if len(possible) <= FEW:
            return self._join(" OR ", [self._equal(path, each) for each in possible]) or "FALSE"
        values = f"SELECT jsonb_array_elements({self._param(dump_json(possible), 'jsonb')})"
        return f"COALESCE({self._field(path)} IN ({values}), FALSE)"

    def _contains(self, path: Path, operand: Scalar) -> str:
        if isinstance(operand, str) and "\0" in operand:
            return "FALSE"
        listed = f"meta @> {self._param(dump_json(_nest(path, [operand])), 'jsonb')}"
        if not isinstance(operand, str):
            return listed
        field = self._field(path)
        return (
            f"{listed} OR CASE jsonb_typeof({field}) WHEN 'string' "
            f"THEN position({self._param(operand)} IN {field} #>> '{{}}') > 0 ELSE FALSE END"
        )

    def _ordered(self, path: Path, op: str, operand: Scalar) -> str:
        sign, field = _ORDER[op], self._field(path)
        if kind(operand) == "number":
            value = f"CAST({self._param(dump_json(operand))} AS numeric)"
            test = f"CAST({field} AS numeric) {sign} {value}"
        else:
            before, nul, _ = str(operand).partition("\0")
            if nul:
                # No stored string has a NUL: what is beyond "ab\0" is exactly what is beyond "ab".
                sign = ">" if sign in (">", ">=") else "<="
            test = f"({field} #>> '{{}}') COLLATE \"C\" {sign} {self._param(before)}"
        return f"CASE jsonb_typeof({field}) WHEN '{kind(operand)}' THEN {test} ELSE FALSE END"

    def _field(self, path: Path) -> str:
        """Return the value at a path, or NULL; `-> text` never looks into lists."""
        return f"(meta{''.join(f' -> {self._param(key)}' for key in path)})"

    def _param(self, value: str, kind: str = "text") -> str:
        name = f"w{len(self.values)}"
        self.values[name] = value
        return f"CAST(:{name} AS {kind})"

    @staticmethod
    def _join(word: str, parts: list[str]) -> str:
        return f"({word.join(parts)})" if parts else ""


def _nest(path: Path, value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value
