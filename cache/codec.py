"""The two formats of a cache: how a vector's key is made, and how its value is written and checked.

A key is a digest of everything that decides a vector: the model's fingerprint, its length limit,
the prompt, what is done to inputs over the limit, and the text or the token ids. A value is a
header and the vector as the model made it, little-endian float32. The CRC at its end covers the
key too, so a value under another key fails the check like a damaged one. Never a pickle: reading
runs no code.
"""

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from embedders.base import Facts, Input, Prompt, Truncate, Vectors

PREFIX = b"emb:v1:"
VERSION = 1
HEADER = struct.Struct("<BBHII")  # version, whether it was cut, zero, dimension, tokens
CRC = struct.Struct("<I")  # at the end: of the key and of all before
# The CRC-32 of anything followed by its own CRC-32, little-endian: that of every sound value.
RESIDUE = 0x2144DF1C


class Entry(NamedTuple):
    """A vector (d,) float32 as the model made it, what it cost, and whether its input was cut."""

    vector: Vectors
    tokens: int
    truncated: bool


def keys_of(
    facts: Facts, prompt: Prompt, truncate: Truncate, inputs: Sequence[Input]
) -> list[bytes]:
    """Return the key of each input."""
    how = (prompt.name, prompt.text, prompt.task, truncate)
    context = (facts.fingerprint, facts.max_tokens, *how)
    common = blake2b(digest_size=20)
    common.update(blake2b(json.dumps(context).encode()).digest())
    keys = []
    for given in inputs:
        digest = common.copy()
        if isinstance(given, str):
            digest.update(b"t" + given.encode("utf-8", "surrogatepass"))
        else:
            digest.update(b"i" + ",".join(map(str, given)).encode())
        keys.append(PREFIX + digest.hexdigest().encode())
    return keys


def pack(key: bytes, entry: Entry) -> bytes:
    """Return the value of a vector under its key."""
    head = HEADER.pack(VERSION, entry.truncated, 0, len(entry.vector), entry.tokens)
    body = head + entry.vector.astype("<f4", copy=False).tobytes()
    return body + CRC.pack(zlib.crc32(body, zlib.crc32(key)))


def unpack(values: Mapping[bytes, bytes], dimension: int) -> dict[bytes, Entry]:
    """Return the entries of the sound values: of this version, key and dimension, and finite."""
    head = [("version", "u1"), ("truncated", "u1"), ("zero", "<u2"), ("dimension", "<u4")]
    row = np.dtype([*head, ("tokens", "<u4"), ("vector", "<f4", dimension), ("crc", "<u4")])
    right = {key: value for key, value in values.items() if len(value) == row.itemsize}
    rows = np.frombuffer(b"".join(right.values()), row)
    crc = np.array([zlib.crc32(value, zlib.crc32(key)) for key, value in right.items()], np.uint32)
    sound = (crc == RESIDUE) & (rows["version"] == VERSION) & (rows["dimension"] == dimension)
    sound &= np.isfinite(rows["vector"]).all(axis=1)
    vectors = rows["vector"].astype(np.float32, copy=False)
    costs = rows["tokens"].tolist(), (rows["truncated"] != 0).tolist()
    entries = zip(right, map(Entry, vectors, *costs), sound.tolist(), strict=True)
    return {key: entry for key, entry, ok in entries if ok}
