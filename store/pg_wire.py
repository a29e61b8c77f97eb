"""Vectors and JSON in the forms that PostgreSQL sends and takes, value for value.

pgvector's binary form is two big-endian shorts (width, zero) and big-endian float32 values. It is
sent without a type number, so a statement says `CAST(:v AS vector)`; it is read through
`vector_send`, because text would have to be parsed.
"""

import json
import re
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

from store.base import Vectors

_EXACT_FROM = 2.0**53  # from here on every float is whole, and not always as it is written
_MAYBE_LARGE = re.compile(r"[0-9]{16}|e\+")  # how json writes such a float (and some other things)


class Vector:
    """One vector as a statement's parameter."""

    __slots__ = ("wire",)

    def __init__(self, vector: Vectors) -> None:
        self.wire = struct.pack(">HH", len(vector), 0) + vector.astype(">f4").tobytes()


class _VectorDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Vector) -> bytes:
        return obj.wire


# For every connection of this process.
psycopg.adapters.register_dumper(Vector, _VectorDumper)


def read_vector(sent: bytes) -> Vectors:
    """Return what `vector_send` sent: (d,) float32."""
    return np.frombuffer(sent, dtype=">f4", offset=4).astype(np.float32)


def dump_json(value: Any) -> str:
    """Return JSON that jsonb, which keeps decimal numbers, keeps exactly.

    `1e23` as Python writes it is another number than the float itself, and would come back as an
    integer; a large float is therefore written out in full, with `.0`.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _written_out(value) if _MAYBE_LARGE.search(text) else text


def _written_out(value: Any) -> str:
    if isinstance(value, float) and abs(value) >= _EXACT_FROM:
        return f"{int(value)}.0"
    if isinstance(value, Mapping):
        inner = (f"{json.dumps(k, ensure_ascii=False)}:{_written_out(v)}" for k, v in value.items())
        return "{" + ",".join(inner) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_written_out, value)) + "]"
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
