"""Reads Parquet files row by row, as values that JSON can hold.

A small file may unpack to more than a machine has. So its columns are held to limits before they
are read, texts stay in their dictionaries until their length is known, and few rows are unpacked
at once.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tools.records import Record, Stop, first_twice

ROWS = 1024  # in memory at once
PIECE = 8 << 20  # bytes of rows that are unpacked at once; a row of more is a problem
# A group of rows may unpack to the first of these; beyond it only if that is at most `FOLD` times
# its size in the file, as no text is packed more tightly by the usual writers; the last is the end.
UNPACKED, FOLD, UNPACKED_MOST = 128 << 20, 20, 1 << 30
MOST_COLUMNS = 10_000
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
        _check_size(path, file, {*wanted})
        batches = _pieces(file.iter_batches(batch_size=ROWS, columns=wanted))
        while True:
            try:
                batch = next(batches, None)
                if batch is None:
                    return
                large = batch.num_rows == 1 and unpacked(batch.columns) > PIECE
                rows = [{}] if large else _rows(batch)
            except (pa.ArrowException, OSError, ValueError, OverflowError) as exc:
                raise Stop(f"{path}: cannot be read after row {number} ({_brief(exc)})") from None
            for row in rows:
                number += 1
                problem = f"holds over {PIECE >> 20} MB: take columns out" if large else ""
                yield Record(number, row, problem)


def _check_size(path: Path, file: Any, wanted: set[str]) -> None:
    """Raise Stop where the columns of a group of rows unpack to more than can be held."""
    paths = [file.schema.column(i).path for i in range(len(file.schema))]
    chosen = [i for i, name in enumerate(paths) if _top(name, wanted)]
    for group in range(file.metadata.num_row_groups):
        columns = [file.metadata.row_group(group).column(i) for i in chosen]
        size = sum(column.total_uncompressed_size for column in columns)
        packed = sum(column.total_compressed_size for column in columns)
        if size > UNPACKED_MOST or (size > UNPACKED and size > FOLD * packed):
            most = UNPACKED_MOST if size > UNPACKED_MOST else UNPACKED
            raise Stop(
                f"{path}: a group of its rows unpacks from {packed} to {size} bytes; the limit is "
                f"{most}: write it in smaller groups of rows"
            )


def _top(path: str, wanted: set[str]) -> bool:
    """Return whether a path of the schema is of one of these columns, whose names may have dots."""
    return path in wanted or any(path.startswith(f"{name}.") for name in wanted)


def _pieces(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield batches in pieces that unpack to at most `PIECE` bytes, or have one row."""
    for batch in batches:
        waiting = [batch]
        while waiting:
            piece = waiting.pop()
            if piece.num_rows > 1 and unpacked(piece.columns) > PIECE:
                half = piece.num_rows // 2
                waiting += [piece.slice(half), piece.slice(0, half)]
            elif piece.num_rows:
                yield piece


def unpacked(arrays: Iterable[Any]) -> int:
    """Return how many bytes the values of Arrow arrays have without a dictionary."""
    import pyarrow as pa
    import pyarrow.compute as pc

    size, left = 0, list(arrays)
    while left:
        array = left.pop()
        kind = array.type
        if pa.types.is_dictionary(kind):
            lengths = pc.binary_length(array.dictionary)
            size += 4 * len(array) + (
                pc.sum(lengths.take(array.indices).cast("int64")).as_py() or 0
            )
        elif pa.types.is_struct(kind):
            left += array.flatten()
            size += 8 * len(array)
        elif pa.types.is_map(kind):
            begin, end = array.offsets[0].as_py(), array.offsets[-1].as_py()
            left += [each.slice(begin, end - begin) for each in (array.keys, array.items)]
            size += 8 * len(array)
        elif pa.types.is_nested(kind):
            left.append(array.flatten())
            size += 8 * len(array)
        else:
            size += array.nbytes + len(array)  # a bit has an address as a value of Python
    return size


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
        file = parquet.ParquetFile(path, buffer_size=1 << 20)
        if (count := len(file.schema)) > MOST_COLUMNS:
            file.close()
            raise Stop(f"{path}: has {count} columns; at most {MOST_COLUMNS} can be read")
        columns = map(file.schema.column, range(count))
        texts = [each.path for each in columns if each.physical_type == "BYTE_ARRAY"]
        known = file.metadata
        file.close()
        return parquet.ParquetFile(path, metadata=known, buffer_size=1 << 20, read_dictionary=texts)
    except FileNotFoundError:
        raise
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
