"""Reads Parquet files row by row, as values that JSON can hold."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.records import Record, Stop, first_twice

ROWS = 1024  # in memory at once
NANO, EVERY = ("ns",), ("ns", "us", "ms", "s")  # units of time


def parquet_columns(path: Path) -> list[str]:
    """Return the names of a file's columns. Raises Stop."""
    with _opened(path) as file:
        names: list[str] = file.schema_arrow.names
    if (twice := first_twice(names)) is not None:
        raise Stop(f"{path}: two columns are named {twice!r}; each needs a name of its own")
    return names


def parquet_count(path: Path) -> int:
    """Return how many rows a file has. Raises Stop."""
    with _opened(path) as file:
        count: int = file.metadata.num_rows
    return count


def parquet_records(path: Path, wanted: list[str]) -> Iterator[Record]:
    """Yield the rows, with the wanted columns. Raises Stop where the file is damaged."""
    import pyarrow as pa

    number = 0
    with _opened(path) as file:
        batches = file.iter_batches(batch_size=ROWS, columns=wanted)
        while True:
            try:
                batch = next(batches, None)
                if batch is None:
                    return
                rows = _rows(batch)
            except (pa.ArrowException, OSError, ValueError, OverflowError) as exc:
                raise Stop(f"{path}: cannot be read after row {number} ({_brief(exc)})") from None
            for row in rows:
                number += 1
                yield Record(number, row)


def pyarrow_parquet() -> Any:
    """Import pyarrow's Parquet module. Raises Stop if it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise Stop("Parquet needs pyarrow: pip install pyarrow") from None
    return pyarrow.parquet


def _opened(path: Path) -> Any:
    parquet = pyarrow_parquet()
    import pyarrow as pa

    try:
        return parquet.ParquetFile(path)
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise Stop(f"{path}: is no Parquet file that can be read ({_brief(exc)})") from None


def _brief(exc: Exception) -> str:
    """Return the first sentence of an Arrow error, which may have many lines."""
    said = str(exc).partition("\n")[0].partition(". ")[0][:200]
    return "".join(char for char in said if char.isprintable())


def _rows(batch: Any) -> list[dict[str, Any]]:
    """Return a batch as rows. Times that Python's types cannot hold become text."""
    try:
        table = _readable(batch, NANO)
        columns = [_values(column) for column in table.columns]
    except (ValueError, OverflowError):  # beyond the year 9999
        table = _readable(batch, EVERY)
        columns = [_values(column) for column in table.columns]
    names = table.column_names
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: Any) -> list[Any]:
    """Return a column's values. A map becomes an object, or pairs where its keys are lists."""
    unhashable, mapped = _keys(column.type)
    values: list[Any] = column.to_pylist(maps_as_pydicts=None if unhashable else "lossy")
    return [_named(value) for value in values] if mapped else values


def _keys(kind: Any) -> tuple[bool, bool]:
    """Return whether a type's maps have unhashable keys, and whether it has maps at all."""
    import pyarrow as pa

    inner = [kind.field(i).type for i in range(kind.num_fields)]
    found = [_keys(each) for each in inner]
    own = pa.types.is_map(kind)
    nested = own and pa.types.is_nested(kind.key_type)
    return nested or any(hard for hard, _ in found), own or any(has for _, has in found)


def _named(value: Any) -> Any:
    """Return a value whose map keys are text, as in JSON."""
    if isinstance(value, dict):
        return {
            (decoded(key) or key.hex()) if isinstance(key, bytes) else str(key): _named(part)
            for key, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [_named(part) for part in value]
    return value


def decoded(value: bytes) -> str | None:
    """Decode UTF-8 bytes, or return None: some writers store text as bytes."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _readable(batch: Any, units: tuple[str, ...]) -> Any:
    """Return a batch as a table in which times of these units are text and durations numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    schema = pa.schema([field.with_type(_textual(field.type, units)) for field in batch.schema])
    table = pa.table(batch).cast(schema, safe=False)
    for i, (before, after) in enumerate(zip(batch.schema, schema, strict=True)):
        if pa.types.is_temporal(before.type) and pa.types.is_string(after.type):
            # As Python writes them: without a fraction of zeros, or in millionths.
            column = pc.replace_substring_regex(table[i], r"\.0+($|[Z+-])", r"\1")
            column = pc.replace_substring_regex(column, r"(\.\d{6})000($|[Z+-])", r"\1\2")
            table = table.set_column(i, after, column)
    return table


def _textual(kind: Any, units: tuple[str, ...]) -> Any:
    import pyarrow as pa

    types = pa.types
    if types.is_timestamp(kind) or types.is_time64(kind):
        return pa.string() if kind.unit in units else kind
    if types.is_duration(kind) and kind.unit in units:
        return pa.duration("us") if units == NANO else pa.int64()
    if types.is_date(kind) and "s" in units:
        return pa.string()
    if types.is_dictionary(kind):
        return _textual(kind.value_type, units)
    if types.is_struct(kind):
        return pa.struct([field.with_type(_textual(field.type, units)) for field in kind])
    if types.is_map(kind):
        return pa.map_(_textual(kind.key_type, units), _textual(kind.item_type, units))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = _textual(kind.value_type, units)
        return kind if inner.equals(kind.value_type) else pa.list_(inner)
    return kind
