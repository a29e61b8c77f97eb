"""Collections as JSON lines: to look at, to keep, to move from one store to another.

The first line says what the collection is, each further one is a record. float32 values are
written with as many digits as bring back the same bits. Works on any store.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO

import numpy as np

from errors import Invalid, ServiceError
from store.base import CollectionInfo, Identity, Item, Progress, Record, VectorStore

FORMAT = "vector-collection"
PAGE = 500
MAX_LINE = 16 << 20


def export_jsonl(
    store: VectorStore, name: str, out: BinaryIO, progress: Progress | None = None
) -> int:
    """Write a collection to `out`; return how many records."""
    info = store.info(name)
    out.write(head_of(info, info.indexed))
    cursor, done = None, 0
    while True:
        page = store.scroll(name, cursor, PAGE)
        out.writelines(map(line_of, page.records))
        done += len(page.records)
        if progress:
            progress(done, max(info.count, done))
        cursor = page.next_cursor
        if cursor is None:
            return done


def head_of(collection: Identity, indexed: Sequence[str]) -> bytes:
    """Return the first line of an export."""
    keys = ("name", "dim", "metric", "model", "fingerprint")
    facts = {key: getattr(collection, key) for key in keys}
    return _line({"format": FORMAT, "version": 1, **facts, "indexed": indexed})


def line_of(record: Record) -> bytes:
    """Return a record, all its parts read, as a line of an export."""
    assert record.vector is not None
    facts = {"id": record.id, "vector": record.vector.astype(np.float64).tolist()}
    return _line(facts | {"text": record.text, "metadata": record.metadata})


def import_jsonl(
    store: VectorStore, source: BinaryIO, name: str | None = None, progress: Progress | None = None
) -> CollectionInfo:
    """Make a new collection from `source`; on any error there is none. `name` overrides its own."""
    lines = _lines(source)
    number, head = next(lines, (1, None))
    if not isinstance(head, dict) or head.get("format") != FORMAT or head.get("version") != 1:
        raise Invalid(f"line {number}: not an export: no line that says format {FORMAT!r}")
    target = name or head.get("name")
    fields = {key: head.get(key) for key in ("dim", "metric", "model", "fingerprint")}
    store.create(target, **fields, indexed=head.get("indexed", ()))  # type: ignore[arg-type]
    assert isinstance(target, str)
    try:
        done = 0
        while some := list(islice(lines, PAGE)):
            batch = [_item(number, row) for number, row in some]
            try:
                store.upsert(target, batch, "insert")
            except ServiceError as exc:
                where = f"lines {some[0][0]} to {some[-1][0]}"
                raise type(exc)(f"{where}: {exc.message}") from exc
            done += len(batch)
            if progress:
                progress(done, 0)
    except BaseException:
        store.drop(target)
        raise
    return store.info(target)


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _lines(source: BinaryIO) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(iter(lambda: source.readline(MAX_LINE), b""), 1):
        if len(line) == MAX_LINE:
            raise Invalid(f"line {number} is longer than {MAX_LINE} bytes")
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as exc:
            raise Invalid(f"line {number} is not JSON") from exc


def _item(number: int, row: object) -> Item:
    if not isinstance(row, dict) or "id" not in row or "vector" not in row:
        raise Invalid(f"line {number}: a record is an object with id and vector")
    return Item(row["id"], row["vector"], row.get("text"), row.get("metadata") or {})
