"""The two formats of a cache: how an input's key is made, and how its value is written and checked.

A key is a digest of everything that decides what a model gives: its fingerprint, its length limit,
the outputs that are asked for, the prompt, what is done to inputs over the limit, and the text, the
token ids, or the query and the document. A value is a header and, for each output, a matrix of
little-endian numbers as the model made them. The CRC at its end covers the key too, so a value
under another key fails the check like a damaged one. Never a pickle: reading runs no code.
"""

import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedders.base import Facts, Input, Output, Pair, Prompt, Sparse, Truncate, Value

PREFIX = b"emb:v2:"
VERSION = 2
HEADER = struct.Struct("<BBHI")  # version, whether it was cut, outputs (a bit each), tokens
SHAPE = struct.Struct("<II")  # rows and columns of a matrix, which follows
CRC = struct.Struct("<I")  # at the end: of the key and of all before
# The CRC-32 of anything followed by its own CRC-32, little-endian: that of every sound value.
RESIDUE = 0x2144DF1C
# The outputs by their bit. A vector or scores are one row; of a sparse row the indices are the
# first and the weights the second.
BITS: dict[Output, int] = {"dense": 1, "sparse": 2, "multi_vector": 4, "score": 8, "tokens": 16}
# The outputs that are one row of a known width, the same for every input.
FIXED: tuple[Output, ...] = ("dense", "score")


class Entry(NamedTuple):
    """What a model gave for an input: a value for each output asked for, in their order.

    With the tokens it cost, and whether the input was cut.
    """

    values: tuple[Value, ...]
    tokens: int
    truncated: bool

    @property
    def finite(self) -> bool:
        """Whether every number is one."""
        return all(np.isfinite(_numbers(value)).all() for value in self.values)

    @property
    def size(self) -> int:
        """The bytes of its numbers and indices."""
        return sum(
            _numbers(value).nbytes * (2 if isinstance(value, Sparse) else 1)
            for value in self.values
        )


def keys_of(
    facts: Facts, prompt: Prompt, truncate: Truncate, outputs: Sequence[Output],
    inputs: Sequence[Input | Pair],
) -> list[bytes]:  # fmt: skip
    """Return the key of each input."""
    limits = (prompt.limit, prompt.document_limit)
    cut = limits if any(limits) else ()  # no more for the many keys without one
    how = (prompt.name, prompt.text, prompt.task, truncate, *outputs, *cut)
    context = (facts.fingerprint, facts.max_tokens, *how)
    common = blake2b(digest_size=20)
    common.update(blake2b(json.dumps(context).encode()).digest())
    asked: dict[str, Any] = {}  # the state after each query: one may have thousands of documents
    keys = []
    for given in inputs:
        if isinstance(given, Pair):
            if given.query not in asked:
                query = _bytes(given.query)
                asked[given.query] = common.copy()
                asked[given.query].update(b"p%d:%b" % (len(query), query))
            digest = asked[given.query].copy()
            digest.update(_bytes(given.document))
        else:
            digest = common.copy()
            if isinstance(given, str):
                digest.update(b"t" + _bytes(given))
            else:
                digest.update(b"i" + ",".join(map(str, given)).encode())
        keys.append(PREFIX + digest.hexdigest().encode())
    return keys


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def pack(key: bytes, outputs: Sequence[Output], entry: Entry) -> bytes:
    """Return the value of an entry under its key."""
    bits = sum(BITS[output] for output in outputs)
    parts = [HEADER.pack(VERSION, entry.truncated, bits, entry.tokens)]
    for value in entry.values:
        if isinstance(value, Sparse):
            parts += SHAPE.pack(2, len(value.values)), value.indices.astype("<i4").tobytes()
        else:
            parts.append(SHAPE.pack(*(value.shape if value.ndim == 2 else (1, len(value)))))
        parts.append(_numbers(value).astype("<f4", copy=False).tobytes())
    body = b"".join(parts)
    return body + CRC.pack(zlib.crc32(body, zlib.crc32(key)))


def unpack(
    values: Mapping[bytes, bytes], outputs: Sequence[Output], width: int,
    vocabulary: int | None = None,
) -> dict[bytes, Entry]:  # fmt: skip
    """Return the entries of the sound values: of this version, key, outputs and shape, and finite.

    `width` is how many numbers a vector, of a text or of a token, or an input's scores must have.
    The indices of a sparse row must ascend, below `vocabulary` where that is known.
    """
    bits = sum(BITS[output] for output in outputs)
    if len(outputs) == 1 and outputs[0] in FIXED:
        return _unpack_alike(values, bits, width)
    found = {}
    for key, value in values.items():
        if len(value) < HEADER.size + CRC.size or zlib.crc32(value, zlib.crc32(key)) != RESIDUE:
            continue
        version, truncated, given, tokens = HEADER.unpack_from(value)
        if (version, given) != (VERSION, bits):
            continue
        with suppress(Exception):  # of another program, with a right CRC: whatever it holds
            parts = zip(outputs, _matrices(value), strict=True)
            made = tuple(_value(*part, width, vocabulary) for part in parts)
            entry = Entry(made, tokens, truncated != 0)
            if entry.finite:
                found[key] = entry
    return found


def _unpack_alike(values: Mapping[bytes, bytes], bits: int, width: int) -> dict[bytes, Entry]:
    """Return the entries of values with one row of this width each, read all at once."""
    layout = _layout(width)
    right = {key: value for key, value in values.items() if len(value) == layout.itemsize}
    rows = np.frombuffer(b"".join(right.values()), layout)
    crc = np.array([zlib.crc32(value, zlib.crc32(key)) for key, value in right.items()], np.uint32)
    sound = (crc == RESIDUE) & (rows["version"] == VERSION) & (rows["outputs"] == bits)
    sound &= (rows["rows"] == 1) & (rows["columns"] == width)
    sound &= np.isfinite(rows["row"]).all(axis=1)
    vectors = zip(rows["row"].astype(np.float32, copy=False))
    costs = rows["tokens"].tolist(), (rows["truncated"] != 0).tolist()
    entries = zip(right, map(Entry, vectors, *costs), sound.tolist(), strict=True)
    return {key: entry for key, entry, ok in entries if ok}


@lru_cache(maxsize=64)
def _layout(width: int) -> np.dtype[np.void]:
    head = [("version", "u1"), ("truncated", "u1"), ("outputs", "<u2"), ("tokens", "<u4")]
    shape = [("rows", "<u4"), ("columns", "<u4"), ("row", "<f4", width)]
    return np.dtype([*head, *shape, ("crc", "<u4")])


def _matrices(value: bytes) -> Iterator[NDArray[np.float32]]:
    """Yield the matrices of a value whose CRC is right. Raises ValueError, struct.error."""
    place, end = HEADER.size, len(value) - CRC.size
    while place < end:
        rows, columns = SHAPE.unpack_from(value, place)
        place += SHAPE.size
        numbers = np.frombuffer(value, "<f4", rows * columns, place)
        place += numbers.nbytes
        if place > end:
            raise ValueError("its last matrix is cut")
        yield numbers.reshape(rows, columns).astype(np.float32, copy=False)


def _value(
    output: Output, matrix: NDArray[np.float32], width: int, vocabulary: int | None
) -> Value:
    """Return what a matrix holds. Raises ValueError for another shape than the output has."""
    if output == "sparse":
        rows, weights = matrix
        indices = rows.view(np.int32)
        steps = np.diff(indices.astype(np.int64), prepend=-1, append=vocabulary or 1 << 31)
        if (steps <= 0).any():
            raise ValueError("its indices do not ascend within the vocabulary")
        return Sparse(indices, weights)
    if matrix.shape[1] != width:
        raise ValueError("it has another width")
    if output in ("multi_vector", "tokens"):
        return matrix
    if len(matrix) != 1:
        raise ValueError("it has more than one row")
    row: NDArray[np.float32] = matrix[0]
    return row


def _numbers(value: Value) -> NDArray[np.float32]:
    return value.values if isinstance(value, Sparse) else value
