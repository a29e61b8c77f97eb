"""Frames arrive as they were sent, and nothing else is taken for one."""

import socket
import struct
import threading
import tracemalloc
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import errors
from embedders.base import Column, Encoded, Facts, Item, Output, Prompt, Small, Sparse
from serving.model_process import frames
from serving.model_process.frames import (
    HEADER,
    MAGIC,
    MOST,
    MOST_HEAD,
    MOST_PARTS,
    VERSION,
    Closed,
    Connection,
    Head,
    Malformed,
    error_head,
    raise_error,
)
from serving.model_process.values import (
    pack_encoded,
    pack_facts,
    pack_items,
    unpack_encoded,
    unpack_facts,
    unpack_items,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS
SIDES = st.sampled_from([None, "query", "document"])
HEADS = st.dictionaries(st.text("abcxyz", max_size=8), SCALARS, max_size=6)
FLOATS = st.floats(width=32)
COUNTS = st.none() | st.integers(1, 9)


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    """A connection, and the bare socket at its other end."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    yield Connection(one), other
    one.close()
    other.close()


def sent(head: Head, parts: Sequence[frames.Part]) -> tuple[Head, frames.Parts]:
    """What arrives of a frame that another thread sends."""
    one, other = map(Connection, socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM))
    thread = threading.Thread(target=one.send, args=(head, parts))
    thread.start()
    try:
        return other.receive()
    finally:
        thread.join()
        one.close()
        other.close()


@settings(deadline=None)
@given(HEADS, st.lists(st.binary(max_size=300), max_size=MOST_PARTS))
def test_a_frame_arrives_as_it_was_sent(head: Head, parts: list[bytes]) -> None:
    got, pieces = sent(head, parts)
    assert got == head
    assert [bytes(piece) for piece in pieces] == parts


def test_a_frame_larger_than_any_buffer_arrives_whole() -> None:
    large = np.arange(3 << 20, dtype=np.float32)
    _, (piece, empty) = sent({}, [large, np.empty((0, 4), np.float32)])
    np.testing.assert_array_equal(np.frombuffer(piece, np.float32), large)
    assert len(empty) == 0


def test_a_frame_that_arrives_byte_by_byte_is_read(pair: tuple[Connection, socket.socket]) -> None:
    connection, other = pair
    frame = bytes_of({"a": 1}, [b"part"])
    thread = threading.Thread(
        target=lambda: [other.send(frame[i : i + 1]) for i in range(len(frame))]
    )
    thread.start()
    head, (part,) = connection.receive()
    thread.join()
    assert (head, bytes(part)) == ({"a": 1}, b"part")


def bytes_of(head: Head, parts: Sequence[bytes]) -> bytes:
    """A frame as it goes over the wire."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with one, other:
        Connection(one).send(head, parts)
        return other.recv(1 << 20)


FRAME = bytes_of({"operation": "hello", "n": 3}, [b"four", b"", b"eight by"])


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_damaged_frame_is_refused_or_read_and_never_waits_for_more(data: st.DataObject) -> None:
    """Whatever byte is changed or cut off, and the sender ends: no hang, and no other error."""
    damaged = bytearray(FRAME)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(FRAME) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(FRAME)))
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with other:
        other.sendall(damaged[:end])
    try:
        head, _ = Connection(one).receive()
        assert isinstance(head, dict)
    except (Malformed, Closed):
        pass
    finally:
        one.close()


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (HEADER.pack(b"HTTP", VERSION, 0, 2, 8), "does not begin"),
        (HEADER.pack(MAGIC, VERSION + 1, 0, 2, 8), f"of version {VERSION + 1}"),
        (HEADER.pack(MAGIC, VERSION, 0, 2, MOST + 1), "more than a frame may hold"),
        (HEADER.pack(MAGIC, VERSION, 0, MOST_HEAD + 1, 8), "more than a frame may hold"),
        (HEADER.pack(MAGIC, VERSION, MOST_PARTS + 1, 2, 8), "more than a frame may hold"),
        (HEADER.pack(MAGIC, VERSION, 0, 2, 8) + b"{}" + bytes(7), "more follows"),
        (
            HEADER.pack(MAGIC, VERSION, 1, 2, 16) + struct.pack("<Q", 2**63) + b"{}" + bytes(6),
            "sizes",
        ),
        (HEADER.pack(MAGIC, VERSION, 0, 2, 8) + b"[]" + bytes(6), "no object"),
        (HEADER.pack(MAGIC, VERSION, 0, 2, 8) + b"{," + bytes(6), "no JSON"),
    ],
)
def test_what_is_no_frame_is_refused_with_what_it_is(
    pair: tuple[Connection, socket.socket], header: bytes, why: str
) -> None:
    connection, other = pair
    other.sendall(header)
    with pytest.raises(Malformed, match=why):
        connection.receive()


def test_what_is_too_much_for_a_frame_is_not_sent(pair: tuple[Connection, socket.socket]) -> None:
    connection, other = pair
    with pytest.raises(errors.TooLarge):
        connection.send({}, [b""] * (MOST_PARTS + 1))
    connection.send({"still": "here"})
    assert Connection(other).receive()[0] == {"still": "here"}


def test_a_wait_ends_with_what_its_idle_call_raises(pair: tuple[Connection, socket.socket]) -> None:
    connection, _ = pair

    def enough() -> None:
        raise errors.Unavailable("it is away")

    with pytest.raises(errors.Unavailable, match="away"):
        connection.receive(enough)
    with pytest.raises(errors.Unavailable, match="away"):  # nobody reads what is sent
        connection.send({}, [bytes(1 << 26)], enough)


# ---- items, results, facts, errors

ITEMS = st.builds(
    Item,
    payload=st.lists(st.integers(0, 2**31 - 1), max_size=20),
    tokens=st.integers(0, 2**31 - 1),
    truncated=st.booleans(),
    skip=st.integers(0, 9),
    prompt=st.builds(Prompt, st.text(), st.none() | st.text(), SIDES, COUNTS, COUNTS),
    side=st.sampled_from(["auto", "left", "right", "error"]),
    variant=st.text(max_size=3),
    outputs=st.sampled_from([("dense",), ("tokens",), ("dense", "sparse", "multi_vector")]),
    second=st.integers(0, 9),
    spans=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=3).map(tuple),
)  # fmt: skip


def carried(head: Head, parts: Sequence[frames.Part]) -> tuple[Head, frames.Parts]:
    """Head and parts after a journey over a socket."""
    return sent(head, parts)


@settings(deadline=None, max_examples=60)
@given(st.lists(ITEMS, max_size=6))
def test_items_arrive_as_they_were_sent(items: list[Item]) -> None:
    got = unpack_items(*carried(*pack_items(items)))
    for item, other in zip(items, got, strict=True):
        assert list(other.payload) == item.payload
        assert all(getattr(item, n) == getattr(other, n) for n in Item.__slots__ if n != "payload")


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text() | st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=5))
def test_texts_arrive_as_they_were_sent_even_half_a_surrogate_pair(
    payloads: list[str | list[int]],
) -> None:
    items = [Item(payload, 1) for payload in [*payloads, "half \ud83d"]]
    got = unpack_items(*carried(*pack_items(items)))
    assert [each.payload for each in got] == [each.payload for each in items]


def test_lengths_that_are_not_those_of_the_ids_are_refused() -> None:
    head, (lengths, ids) = pack_items([Item([1, 2, 3], 3), Item([4], 1)])
    for wrong in ([4, 1], [3, -1], [2, 1]):
        parts = [memoryview(np.array(wrong, np.int32)), memoryview(ids)]  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="lengths"):
            unpack_items(dict(head), parts)


SPARSE = st.lists(st.tuples(st.integers(0, 2**31 - 1), FLOATS), max_size=5).map(
    lambda rows: Sparse(
        np.array([i for i, _ in rows], np.int32), np.array([v for _, v in rows], np.float32)
    )
)
MATRICES = arrays.arrays(np.float32, st.tuples(st.integers(0, 4), st.just(3)), elements=FLOATS)
COUNT = 4


@settings(deadline=None, max_examples=60)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "dense": arrays.arrays(np.float32, (COUNT, 5), elements=FLOATS),
            "score": arrays.arrays(np.float32, (COUNT, 2), elements=FLOATS),
            "sparse": st.lists(st.none() | SPARSE, min_size=COUNT, max_size=COUNT),
            "multi_vector": st.lists(st.none() | MATRICES, min_size=COUNT, max_size=COUNT),
        },
    )
)
def test_results_of_every_kind_arrive_bit_for_bit(columns: dict[Output, Column]) -> None:
    got = unpack_encoded(*carried(*pack_encoded(Encoded(columns, [3, 1, 2, 9]))))
    assert got.tokens == [3, 1, 2, 9]
    assert list(got.columns) == list(columns)
    for output, column in columns.items():
        for value, other in zip(column, got.columns[output], strict=True):
            if value is None:
                assert other is None
            elif isinstance(value, Sparse):
                np.testing.assert_array_equal(other.indices, value.indices)
                np.testing.assert_array_equal(other.values, value.values)
            elif value.size:
                np.testing.assert_array_equal(other, value)
            else:
                assert len(other) == len(value)


def test_facts_arrive_as_they_were_sent() -> None:
    facts = Facts(
        8, None, "cpu", "float32", "f" * 16, outputs=("dense", "sparse"), labels=("a", "b"),
        prompts={"query": "q: "}, notes=("one", "two"), small_passes=(Small(16, "onnx", 1),),
    )  # fmt: skip
    head, _ = carried({"facts": pack_facts(facts)}, [])
    assert unpack_facts(head["facts"]) == facts


@pytest.mark.parametrize("kind", frames.KINDS.values(), ids=frames.KINDS)
def test_an_error_arrives_as_what_it_was(kind: type[errors.ServiceError]) -> None:
    error = kind("what happened")
    error.index, error.param, error.short, error.retry_after_s = 3, "input", "in short", 7.5
    head, _ = carried(error_head(error), [])
    with pytest.raises(kind) as caught:
        raise_error(head)
    assert type(caught.value) is kind
    assert vars(caught.value) == {**vars(error), **vars(caught.value)}
    assert str(caught.value) == "input 3: what happened"
    assert (caught.value.short, caught.value.retry_after_s) == ("in short", 7.5)


def test_an_error_keeps_the_retry_time_and_the_short_text_of_its_class() -> None:
    head, _ = carried(error_head(errors.ModelLoading("soon")), [])
    with pytest.raises(errors.ModelLoading) as caught:
        raise_error(head)
    assert caught.value.retry_after_s == 2.0
    head, _ = carried(error_head(errors.ModelUnavailable("a path", short=None)), [])
    with pytest.raises(errors.ModelUnavailable) as unavailable:
        raise_error(head)
    assert unavailable.value.retry_after_s is None
    assert unavailable.value.short == errors.ModelUnavailable.short


def test_a_large_frame_is_allocated_as_it_arrives(
    pair: tuple[Connection, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "EAGER", 1 << 10)
    rows = np.random.default_rng(0).random((300, 1001), np.float32)
    _, (first, second) = sent({}, [rows, b"end"])
    assert np.array_equal(np.frombuffer(first, np.float32).reshape(rows.shape), rows)
    assert bytes(second) == b"end"
    connection, bare = pair
    bare.sendall(HEADER.pack(MAGIC, VERSION, 1, 2, MOST) + bytes(5000))
    bare.shutdown(socket.SHUT_WR)
    tracemalloc.start()
    with pytest.raises(Closed):
        connection.receive()
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
