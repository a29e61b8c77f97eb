"""Keys and values: nothing that decides a result is left out, nothing damaged is believed."""

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.codec import BITS, HEADER, SHAPE, Entry, keys_of, pack, unpack
from embedders.base import DENSE, Input, Output, Pair, Prompt, Sparse, Truncate, Value
from embedders.fake import FakeEmbedder

FACTS = FakeEmbedder().facts
KEY = b"emb:v2:" + b"0" * 40
SPARSE = Sparse(np.array([3, 70_000], np.int32), np.array([0.5, 2.5], np.float32))
MATRIX = np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)
VECTOR = np.linspace(-1, 1, 8, dtype=np.float32)
ALL: tuple[Output, ...] = ("dense", "sparse", "multi_vector")
# Of each shape that an entry can have: its outputs and its values.
ROWS: dict[str, tuple[tuple[Output, ...], tuple[Value, ...]]] = {
    "dense": (DENSE, (VECTOR,)),
    "score": (("score",), (VECTOR,)),
    "sparse": (("sparse",), (SPARSE,)),
    "no term": (("sparse",), (Sparse(np.empty(0, np.int32), np.empty(0, np.float32)),)),
    "multi_vector": (("multi_vector",), (MATRIX,)),
    "no token": (("multi_vector",), (MATRIX[:0],)),
    "all": (ALL, (VECTOR, SPARSE, MATRIX)),
}
each_row = pytest.mark.parametrize(("outputs", "values"), ROWS.values(), ids=ROWS)


def entry(width: int = 8) -> Entry:
    return Entry((np.linspace(-1, 1, width, dtype=np.float32),), 7, True)


def packed(outputs: Sequence[Output], values: tuple[Value, ...], key: bytes = KEY) -> bytes:
    return pack(key, outputs, Entry(values, 7, True))


def keys(
    inputs: Sequence[Input | Pair], prompt: Prompt = Prompt(), truncate: Truncate = "right",  # noqa: B008
    outputs: tuple[Output, ...] = DENSE, facts: object = FACTS,
) -> list[bytes]:  # fmt: skip
    return keys_of(facts, prompt, truncate, outputs, inputs)  # type: ignore[arg-type]


@each_row
def test_it_works(outputs: tuple[Output, ...], values: tuple[Value, ...]) -> None:
    back = unpack({KEY: packed(outputs, values)}, outputs, 8)[KEY]
    assert (back.tokens, back.truncated) == (7, True)
    for got, kept in zip(back.values, values, strict=True):
        assert isinstance(got, Sparse) == isinstance(kept, Sparse)
        for part, other in zip(got, kept, strict=True):
            np.testing.assert_array_equal(part, other)
            assert part.dtype == other.dtype


def test_every_thing_that_decides_a_result_is_in_the_key() -> None:
    prompts = [Prompt(), Prompt("a"), Prompt("a", "query"), Prompt("", "query")]
    facts = [FACTS, replace(FACTS, fingerprint="other"), replace(FACTS, max_tokens=5)]
    inputs = ["", "a", "1,2", "[1, 2]", [1, 2], [12], [1, 2, 0], "\ud800", "b", "t", "i1,2",
              Pair("a", "b"), Pair("ab", ""), Pair("", "ab"), Pair("b", "a"), "p1:ab"]  # fmt: skip
    wants: list[tuple[Output, ...]] = [DENSE, ("sparse",), ("dense", "sparse")]
    made = {
        key
        for fact in facts
        for prompt in prompts
        for truncate in ("right", "left", "error")
        for outputs in wants
        for key in keys(inputs, prompt, truncate, outputs, fact)  # type: ignore[arg-type]
    }
    assert len(made) == len(facts) * len(prompts) * 3 * len(wants) * len(inputs)


def test_a_prompt_and_a_text_do_not_flow_into_each_other() -> None:
    assert keys(["c"], Prompt("ab")) != keys(["bc"], Prompt("a"))


@given(st.text(), st.text(), st.text(), st.text())
def test_two_pairs_have_one_key_only_if_they_are_equal(a: str, b: str, c: str, d: str) -> None:
    assert (keys([Pair(a, b)]) == keys([Pair(c, d)])) == ((a, b) == (c, d))


def test_what_decides_no_result_is_not_in_the_key() -> None:
    same = replace(FACTS, device="cuda:1", backend="other")
    texts: list[Input] = ["a", [1]]
    assert keys(texts) == keys(texts, facts=same)


@pytest.mark.fault("Redis")
@given(st.data(), st.sampled_from(list(ROWS)))
def test_a_value_with_any_bit_changed_is_refused(data: st.DataObject, row: str) -> None:
    """Any bit of a cached value is changed -> a miss."""
    outputs, values = ROWS[row]
    value = bytearray(packed(outputs, values))
    bit = data.draw(st.integers(0, len(value) * 8 - 1))
    value[bit // 8] ^= 1 << bit % 8
    assert unpack({KEY: bytes(value)}, outputs, 8) == {}


@given(st.binary(max_size=100), st.sampled_from(list(ROWS)))
def test_arbitrary_bytes_are_refused(value: bytes, row: str) -> None:
    assert unpack({KEY: value}, ROWS[row][0], 8) == {}


@each_row
@pytest.mark.parametrize("cut", [0, 1, 11, 15, 16, 17, 47])
def test_a_value_cut_short_is_refused(
    outputs: tuple[Output, ...], values: tuple[Value, ...], cut: int
) -> None:
    whole = packed(outputs, values)
    assert unpack({KEY: whole[: min(cut, len(whole) - 1)]}, outputs, 8) == {}


@each_row
def test_another_keys_value_is_refused(
    outputs: tuple[Output, ...], values: tuple[Value, ...]
) -> None:
    """A reply that got out of step, or a copied value: sound in itself, but not ours."""
    other = KEY[:-1] + b"1"
    value = packed(outputs, values, other)
    assert unpack({KEY: value}, outputs, 8) == {}
    assert set(unpack({other: value}, outputs, 8)) == {other}


@pytest.mark.parametrize("row", ["dense", "score", "all"])
def test_another_dimension_is_refused(row: str) -> None:
    outputs, values = ROWS[row]
    assert unpack({KEY: packed(outputs, values)}, outputs, 9) == {}


def test_the_value_of_other_outputs_is_refused() -> None:
    for outputs, values in ROWS.values():
        for others, _ in ROWS.values():
            found = unpack({KEY: packed(outputs, values)}, others, 8)
            assert bool(found) == (outputs == others)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", ["dense", "score", "sparse", "multi_vector", "all"])
def test_numbers_that_are_not_finite_are_refused_and_cost_no_other_value(
    row: str, number: float
) -> None:
    other = KEY[:-1] + b"1"
    outputs, values = ROWS[row]
    last = values[-1]
    spoilt = last.values.copy() if isinstance(last, Sparse) else last.copy()
    spoilt.flat[1] = number
    last = Sparse(last.indices, spoilt) if isinstance(last, Sparse) else spoilt
    bad = Entry((*values[:-1], last), 1, False)
    assert not bad.finite and Entry(values, 1, False).finite
    kept = {KEY: pack(KEY, outputs, bad), other: packed(outputs, values, other)}
    assert set(unpack(kept, outputs, 8)) == {other}


def test_a_value_that_somebody_else_wrote_with_a_right_crc_is_refused() -> None:
    head = HEADER.pack(2, 0, 2, 7)
    for body in (head, head + SHAPE.pack(2, 9**9), head + SHAPE.pack(1, 1) + b"1234", head + b"12"):
        crc = zlib.crc32(body, zlib.crc32(KEY)).to_bytes(4, "little")
        assert unpack({KEY: body + crc}, ("sparse",), 8) == {}


HUGE = 2**32 - 1


@pytest.mark.fault("Redis")
@pytest.mark.parametrize("row", list(ROWS))
@pytest.mark.parametrize(
    ("rows", "columns"), [(HUGE, HUGE), (HUGE, 0), (0, HUGE), (1, HUGE), (0, 0), (3, 8), (3, 1)]
)
def test_a_shape_that_no_model_gives_is_refused(row: str, rows: int, columns: int) -> None:
    """A value of another shape with a right CRC, of up to 2^32 - 1 rows and columns -> a miss."""
    outputs, values = ROWS[row]
    if outputs == ("multi_vector",) and (rows, columns) == (3, 8):
        return  # it is sound
    body = HEADER.pack(2, 0, sum(BITS[output] for output in outputs), 7)
    body += SHAPE.pack(rows, columns) + bytes(4 * min(rows * columns, 24))
    crc = zlib.crc32(body, zlib.crc32(KEY)).to_bytes(4, "little")
    assert unpack({KEY: body + crc}, outputs, 8) == {}


@pytest.mark.parametrize(
    ("indices", "vocabulary", "sound"),
    [([0, 9], 10, True), ([0, 10], 10, False), ([0, 10], None, True), ([4, 4], None, False),
     ([5, 4], 10, False), ([-1, 4], 10, False), ([0, 2**31 - 1], None, True)],
)  # fmt: skip
def test_a_sparse_row_ascends_within_the_vocabulary(
    indices: list[int], vocabulary: int | None, sound: bool
) -> None:
    row = Sparse(np.array(indices, np.int32), np.ones(2, np.float32))
    found = unpack({KEY: packed(("sparse",), (row,))}, ("sparse",), 0, vocabulary)
    assert bool(found) == sound


@pytest.mark.parametrize("row", ["multi_vector", "all"])
def test_token_vectors_of_another_width_are_refused(row: str) -> None:
    outputs, values = ROWS[row]
    value = packed(outputs, (*values[:-1], MATRIX[:, :7]))
    assert unpack({KEY: value}, outputs, 8) == {}


class Query(str):
    """A query that counts how often it is read."""

    read = 0

    def encode(self, *how: str) -> bytes:  # type: ignore[override]
        Query.read += 1
        return super().encode(*how)


def test_a_query_is_read_once_for_all_its_documents() -> None:
    query = Query("q" * 1000)
    made = keys([Pair(query, str(i)) for i in range(50)])
    assert Query.read == 1 and len(set(made)) == 50
    assert made[7:8] == keys([Pair("q" * 1000, "7")])


def test_the_vector_is_little_endian_float32_after_the_header() -> None:
    value = packed(DENSE, (VECTOR,))
    start = HEADER.size + SHAPE.size
    np.testing.assert_array_equal(np.frombuffer(value, "<f4", count=8, offset=start), VECTOR)
