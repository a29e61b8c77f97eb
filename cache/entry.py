"""How a vector is named and written in a cache, and how what comes back is proved.

Owns the two formats: the key and the value. A key is a digest of everything that decides a vector:
the model's fingerprint, its length limit, the prompt, what is done to inputs over the limit, and
the text or the token ids themselves. A value is a header and the vector's little-endian float32 as
the model made it, before it is shortened or normalised. The header's CRC covers the key too, so a
value under another's key is as bad as a damaged one. Never a pickle: reading runs no code.
"""

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from embedders.base import Facts, Input, Prompt, Truncate, Vectors

PREFIX = b"emb:v1:"
VERSION = 1
# version, truncated, zero, dimension, tokens, CRC-32 of key, the header before it, and vector
HEADER = struct.Struct("<BBHIII")
CHECKED = struct.Struct("<BBHII")


@dataclass(frozen=True, slots=True)
class Entry:
    """A vector (d,) float32 as the model made it, what it cost, and whether its input was cut."""

    vector: Vectors
    tokens: int
    truncated: bool


def keys_of(
    facts: Facts, prompt: Prompt, truncate: Truncate, inputs: Sequence[Input]
) -> list[bytes]:
    """Return the key of each input."""
    context = (facts.fingerprint, facts.max_tokens, prompt.name, prompt.text, truncate)
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
    """Write a vector for its key."""
    vector = entry.vector.astype("<f4", copy=False).tobytes()
    head = CHECKED.pack(VERSION, entry.truncated, 0, len(entry.vector), entry.tokens)
    return head + struct.pack("<I", _crc(key, head, vector)) + vector


def unpack(values: Mapping[bytes, bytes], dimension: int) -> dict[bytes, Entry]:
    """Read the values that are sound: of this version, key and dimension, whole and finite."""
    heads: dict[bytes, tuple[int, bool]] = {}
    vectors = []
    for key, value in values.items():
        if len(value) != HEADER.size + 4 * dimension:
            continue
        version, truncated, _, width, tokens, crc = HEADER.unpack_from(value)
        vector = memoryview(value)[HEADER.size :]
        if (version, width) != (VERSION, dimension) or truncated > 1:
            continue
        if crc == _crc(key, value[: CHECKED.size], vector):
            heads[key] = tokens, bool(truncated)
            vectors.append(vector)
    rows = np.frombuffer(b"".join(vectors), "<f4").reshape(len(vectors), dimension)
    rows = rows.astype(np.float32, copy=False)
    finite = np.isfinite(rows).all(axis=1).tolist()
    return {
        key: Entry(row, tokens, truncated)
        for (key, (tokens, truncated)), row, sound in zip(heads.items(), rows, finite, strict=True)
        if sound
    }


def _crc(key: bytes, head: bytes, vector: bytes | memoryview) -> int:
    return zlib.crc32(vector, zlib.crc32(head, zlib.crc32(key)))
