"""What is said to be a whole request, beside gunicorn's parser: it must ask for no byte more."""

import contextlib

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import ParseException
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import Unreader
from hypothesis import example, given, settings
from hypothesis import strategies as st

from server.connection import GATHERED_BODY, RequestBuffer

HEAD = b"POST /embed HTTP/1.1\r\nHost: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET / HTTP/1.1\r\n\r\n"


class Only(Unreader):
    """Gives what has come, and no more."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.unread(data)

    def chunk(self, size_hint: int | None = None) -> bytes:
        raise AssertionError("the parser waits for more than what was said to be whole")


def look(data: bytes, pieces: int = 1) -> RequestBuffer:
    """Receive some bytes, so many at a time, until the request is ready."""
    incoming = RequestBuffer()
    for at in range(0, len(data), pieces):
        incoming.data += data[at : at + pieces]
        if not incoming.is_blank() and incoming.is_ready(GATHERED_BODY):
            break
    return incoming


def read_by_gunicorn(data: bytes) -> None:
    parser = RequestParser(Config(), [], ("127.0.0.1", 1))
    parser.unreader = Only(data)
    with contextlib.suppress(ParseException, StopIteration):
        next(parser).body.read()


SIZES = st.sampled_from(
    [b"0", b"1", b"3", b"d", b"0" * 16 + b"3", b"0" * 8000 + b"1", b"-1", b"", b"zz", b"+3", b"3 "]
)
EXTENSIONS = st.sampled_from(
    [b"", b";a", b" ;a=b", b';a="x;y"', b";" + b"a" * 4200, b";" + b"a" * 9000, b";\x00", b";a\n"]
)
ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\n", b"", b"\r"])
CHUNKS = st.tuples(SIZES, EXTENSIONS, ENDS, st.sampled_from([b"", b"a", b"abc", b"\r\n"]), ENDS)
LINES = st.sampled_from(
    [b"Content-Length: 3", b"content-length:3 ", b"Content-Length: 0x3", b"Content-Length: +3",
     b"Content-Length: 3, 3", b"Content-Length:", b" Content-Length: 3", b"Content-Length : 3",
     b"Content_Length: 3", b"X: y\rContent-Length: 3", b"Transfer-Encoding: chunked",
     b"transfer-encoding:\tchunked", b"Transfer-Encoding: gzip, chunked", b"X-Other: 1",
     b"Transfer-Encoding:\r\n chunked", b"Transfer-Encoding: chunked\x0b", b"Content-Length-X: 3",
     b"Expect: 100-continue", b"Expect: 100-Continue ", b"Upgrade: h2c", b"Connection: Upgrade"]
)  # fmt: skip
ENDINGS = [b"\r\n", b"0\r\n\r\n", b"0\r\nX-Trailer: 1\r\n\r\n", b"0\r\n", b"0\r\nX: 1", NEXT]


@given(
    lines=st.lists(LINES, max_size=3), chunks=st.lists(CHUNKS, max_size=4),
    ending=st.sampled_from(ENDINGS), pieces=st.integers(1, 60),
    first=st.sampled_from([HEAD, b"\r\n\r\n" + HEAD, HEAD.replace(b"/1.1", b"/1.0")]),
)  # fmt: skip
@example([], [(b"0" * 16 + b"d", b"", b"\r\n", b"", b"")], b"", 60, CHUNKED[:-2])
@example([], [(b"d", b";" + b"a" * 4200, b"", b"", b"")], b"", 60, CHUNKED[:-2])
@settings(max_examples=300, deadline=None)
def test_the_parser_waits_for_nothing_where_a_body_is_said_to_be_here(
    lines, chunks, ending, pieces, first
) -> None:
    head = first + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    data = head + b"".join(map(b"".join, chunks)) + ending
    incoming = look(data, pieces)
    if incoming.complete:
        read_by_gunicorn(bytes(incoming.data))


@pytest.mark.parametrize(
    "line", [b"0000000000000000d\r\n", b"d;" + b"a" * 4200, b"d;" + b"a" * 9000, b"zz\r\n"]
)
def test_a_chunk_that_is_not_plain_counts_as_one_that_a_thread_waits_for(line) -> None:
    incoming = look(CHUNKED + line, 100)
    assert not incoming.complete


def test_empty_lines_before_a_request_are_no_part_of_it() -> None:
    for data in (b"\r\n", b"\r", b"\r\n\r\n\r"):
        assert look(data).target == b"" and look(data).is_blank()
    assert look(b"\r\n\r\n" + NEXT).target == b"/"
    assert look(b"\r\n" * 9 + CHUNKED + b"0\r\n\r\n", 1).complete
