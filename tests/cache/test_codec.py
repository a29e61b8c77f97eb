"""Keys and values: nothing that decides a vector is left out, nothing damaged is believed."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.codec import HEADER, Entry, keys_of, pack, unpack
from embedders.base import Prompt
from embedders.fake import FakeEmbedder

FACTS = FakeEmbedder().facts
KEY = b"emb:v1:" + b"0" * 40


def entry(width: int = 8) -> Entry:
    return Entry(np.linspace(-1, 1, width, dtype=np.float32), 7, True)


def test_it_works() -> None:
    back = unpack({KEY: pack(KEY, entry())}, 8)[KEY]
    assert (back.tokens, back.truncated) == (7, True)
    np.testing.assert_array_equal(back.vector, entry().vector)


def test_every_thing_that_decides_a_vector_is_in_the_key() -> None:
    prompts = [Prompt(), Prompt("a"), Prompt("a", "query"), Prompt("", "query")]
    facts = [FACTS, replace(FACTS, fingerprint="other"), replace(FACTS, max_tokens=5)]
    inputs = ["", "a", "1,2", "[1, 2]", [1, 2], [12], [1, 2, 0], "\ud800", "b", "t", "i1,2"]
    keys = {
        key
        for fact in facts
        for prompt in prompts
        for truncate in ("right", "left", "error")
        for key in keys_of(fact, prompt, truncate, inputs)
    }
    assert len(keys) == len(facts) * len(prompts) * 3 * len(inputs)


def test_a_prompt_and_a_text_do_not_flow_into_each_other() -> None:
    one = keys_of(FACTS, Prompt("ab"), "right", ["c"])
    other = keys_of(FACTS, Prompt("a"), "right", ["bc"])
    assert one != other


def test_what_decides_no_vector_is_not_in_the_key() -> None:
    same = replace(FACTS, device="cuda:1", backend="other")
    texts = ["a", [1]]
    assert keys_of(FACTS, Prompt(), "right", texts) == keys_of(same, Prompt(), "right", texts)


@pytest.mark.fault("Redis")
@given(st.data())
def test_a_value_with_any_bit_changed_is_refused(data: st.DataObject) -> None:
    """Any bit of a cached value is changed -> a miss."""
    value = bytearray(pack(KEY, entry()))
    bit = data.draw(st.integers(0, len(value) * 8 - 1))
    value[bit // 8] ^= 1 << bit % 8
    assert unpack({KEY: bytes(value)}, 8) == {}


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_refused(value: bytes) -> None:
    assert unpack({KEY: value}, 8) == {}


@pytest.mark.parametrize("cut", [0, 1, 15, 16, 17, 47])
def test_a_value_cut_short_is_refused(cut: int) -> None:
    assert unpack({KEY: pack(KEY, entry())[:cut]}, 8) == {}


def test_another_keys_value_is_refused() -> None:
    """A reply that got out of step, or a copied value: sound in itself, but not ours."""
    other = KEY[:-1] + b"1"
    assert unpack({KEY: pack(other, entry())}, 8) == {}
    assert set(unpack({other: pack(other, entry())}, 8)) == {other}


def test_another_dimension_is_refused() -> None:
    assert unpack({KEY: pack(KEY, entry(9))}, 8) == {}


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused_and_cost_no_other_value(number: float) -> None:
    other = KEY[:-1] + b"1"
    vector = entry().vector.copy()
    vector[3] = number
    values = {KEY: pack(KEY, Entry(vector, 1, False)), other: pack(other, entry())}
    assert set(unpack(values, 8)) == {other}


def test_the_vector_is_little_endian_float32_after_the_header() -> None:
    value = pack(KEY, entry())
    np.testing.assert_array_equal(
        np.frombuffer(value, "<f4", count=8, offset=HEADER.size), entry().vector
    )
