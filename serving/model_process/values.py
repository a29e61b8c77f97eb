"""Items, results and facts of models as heads and parts of frames, and back."""

import dataclasses
import json
from collections.abc import Sequence
from itertools import chain
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from embedders.base import Column, Encoded, Facts, Item, Output, Prompt, Small, Sparse, Value
from serving.model_process.frames import Head, Part, Parts

# Of an item beside its payload. What is the same for all of a request crosses once.
FIELDS = ("tokens", "truncated", "skip", "prompt", "side", "variant", "outputs", "second", "spans",
          "lane")  # fmt: skip


def pack_items(items: Sequence[Item]) -> tuple[Head, list[Part]]:
    """Return items as a head and parts: token ids as int32, or texts."""
    head: Head = {}
    for name in FIELDS:
        values = [getattr(item, name) for item in items]
        same = not values or all(value == values[0] for value in values)
        head[name] = values[:1] if same else values
    payloads = [item.payload for item in items]
    if any(isinstance(each, str) for each in payloads):
        # The standard library's JSON keeps what is no text, such as half a surrogate pair.
        texts = [each if isinstance(each, str) else list(map(int, each)) for each in payloads]
        return {"items": head}, [json.dumps(texts).encode()]
    lengths = np.array([len(each) for each in payloads], np.int32)
    ids = np.fromiter(chain.from_iterable(payloads), np.int32, int(lengths.sum()))
    return {"items": head}, [lengths, ids]


def unpack_items(head: Head, parts: Parts) -> list[Item]:
    """Return the items of `pack_items`. Token ids are int32 arrays (t,). Raises ValueError."""
    payloads: Sequence[Any]
    if len(parts) == 1:
        payloads = json.loads(bytes(parts[0]))
    else:
        lengths = np.frombuffer(parts[0], np.int32)
        ids, ends = np.frombuffer(parts[1], np.int32), np.cumsum(lengths).tolist()
        if (lengths < 0).any() or len(ids) != (ends[-1] if ends else 0):
            raise ValueError("lengths that are not those of the token ids")
        payloads = [ids[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    said, count = head["items"], len(payloads)
    said["prompt"] = [Prompt(**each) for each in said["prompt"]]
    said["outputs"] = [tuple(each) for each in said["outputs"]]
    said["spans"] = [tuple(map(tuple, each)) for each in said["spans"]]
    columns = [said[name] * count if len(said[name]) == 1 else said[name] for name in FIELDS]
    return [Item(*row) for row in zip(payloads, *columns, strict=True)]


def pack_encoded(encoded: Encoded) -> tuple[Head, list[Part]]:
    """Return results as a head and parts."""
    columns: list[Head] = []
    parts: list[Part] = []
    for output, column in encoded.columns.items():
        if isinstance(column, np.ndarray):
            columns.append({"output": output, "shape": column.shape})
            parts.append(column.astype(np.float32, copy=False))
            continue
        found = [value for value in column if value is not None]
        sparse = any(isinstance(value, Sparse) for value in found)
        lengths = [-1 if value is None else len(_numbers(value)) for value in column]
        parts.append(np.array(lengths, np.int32))
        if sparse:
            terms = [value.indices for value in found if isinstance(value, Sparse)]
            parts.append(_joined(terms).astype(np.int32, copy=False))
        numbers = _joined([_numbers(value) for value in found]).astype(np.float32, copy=False)
        parts.append(numbers)
        columns.append({"output": output, "sparse": sparse, "shape": numbers.shape[1:]})
    return {"columns": columns, "tokens": list(map(int, encoded.tokens))}, parts


def unpack_encoded(head: Head, parts: Parts) -> Encoded:
    """Return the results of `pack_encoded`."""
    left = iter(parts)
    columns: dict[Output, Column] = {}
    for said in head["columns"]:
        output = cast(Output, said["output"])
        if "sparse" not in said:
            columns[output] = _floats(next(left), said["shape"])
            continue
        lengths = np.frombuffer(next(left), np.int32)
        indices = np.frombuffer(next(left), np.int32) if said["sparse"] else None
        numbers = _floats(next(left), (-1, *said["shape"]))
        columns[output] = _values(lengths, indices, numbers)
    return Encoded(columns, head["tokens"])


def _values(
    lengths: NDArray[np.int32], indices: NDArray[np.int32] | None, numbers: NDArray[np.float32]
) -> Column:
    values: list[Value | None] = []
    start = 0
    for length in lengths.tolist():
        if length < 0:
            values.append(None)
            continue
        rows = slice(start, start + length)
        values.append(numbers[rows] if indices is None else Sparse(indices[rows], numbers[rows]))
        start += length
    return values


def _numbers(value: Value) -> NDArray[np.float32]:
    return value.values if isinstance(value, Sparse) else value


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(arrays) if arrays else np.empty(0, np.float32)


def _floats(part: memoryview, shape: Sequence[int]) -> NDArray[np.float32]:
    flat = np.frombuffer(part, np.float32)
    return flat.reshape(shape) if flat.size or -1 not in shape else flat.reshape(0, *shape[1:])


def pack_facts(facts: Facts) -> Head:
    """Return a model's facts as JSON."""
    small = [list(each) for each in facts.small_passes]  # orjson writes no named tuple
    return {**dataclasses.asdict(facts), "small_passes": small}


def unpack_facts(head: Head) -> Facts:
    """Return the facts of `pack_facts`."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in head.items()}
    fields["small_passes"] = tuple(Small(*each) for each in head["small_passes"])
    return Facts(**fields)
