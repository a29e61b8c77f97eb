"""What has come of a request: where its head and body end, before a thread has to do with it.

Only what is plain is understood here. The rest is for gunicorn's parser, in a thread that may wait
for the client: so what is said to be whole must be whole for the parser too.
"""

import re

HEAD_MOST = 64 * 1024  # bytes of a request's line and headers
# A body up to this size is read before a thread has to do with it. As `routes.table.SMALL`.
BODY_WAITED_FOR = 64 * 1024
BODY_GATHERED = 1 << 20  # or up to this one, while there is room
CHUNK_LINE_MOST = 8190  # as gunicorn

_FRAMING = re.compile(rb"\r\n(?:content-length|transfer-encoding|expect)[^\r\n]*", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*", re.IGNORECASE)
_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")
_BLANK_LINES = re.compile(rb"(?:\r\n)+")
_CHUNK = re.compile(rb"([0-9a-fA-F]+)[ \t]*(?:;[^\r\n]*)?\r\n")


class Incoming:
    """The bytes of a request, and what is known of it."""

    def __init__(self) -> None:
        self.received = bytearray()
        self._begin()

    def _begin(self) -> None:
        self._searched = self._chunks_at = 0
        self._body_at: int | None = None
        self._length: int | None = None
        self._last_chunk = False
        self.method = self.target = b""
        self.large = False  # whether a thread has to wait for its body
        self.body_came = False  # whether the body is here, read or not
        self.expects = False  # whether the client waits to be told to send its body

    def is_blank(self) -> bool:
        """Leave out empty lines before a request, and tell whether nothing has come but those."""
        if blank := _BLANK_LINES.match(self.received):
            del self.received[: blank.end()]
        return not self.received or self.received == b"\r"

    def is_ready(self, most: int) -> bool:
        """Tell whether a thread can have it: whole, wrong, or with a body over so many bytes."""
        data = self.received
        if self._body_at is None:
            at = data.find(b"\r\n\r\n", max(0, self._searched - 3))
            if at < 0:
                wrong = _BARE_LINE_FEED.search(data, self._searched)
                self._searched = len(data)
                return wrong is not None or len(data) > HEAD_MOST
            self._read_head(bytes(data[: at + 4]))
        assert self._body_at is not None
        most = BODY_WAITED_FOR if self.expects else most  # it may be refused unsent
        size = len(data) - self._body_at
        if self._length is not None:
            self.body_came = size >= self._length
            self.large |= not self.body_came and self._length > most
        elif not self.large:
            self.body_came = self._chunks_came(data)
            self.large |= not self.body_came and size > most
        return self.body_came or self.large

    def _read_head(self, head: bytes) -> None:
        """Note how long the body is. What is not plain is left to gunicorn's parser at once."""
        self._body_at = self._chunks_at = len(head)
        self.method, self.target = (*head.split(None, 2), b"", b"")[:2]
        every = _FRAMING.findall(head)
        framing = [line for line in every if not _EXPECT.fullmatch(line)]
        self.expects = len(framing) < len(every) and head.split(b"\r\n")[0].endswith(b" HTTP/1.1")
        if not framing:
            self._length = 0
        elif len(framing) == 1 and (found := _LENGTH.fullmatch(framing[0])):
            self._length = int(found[1])
        else:
            self.large = len(framing) > 1 or _CHUNKED.fullmatch(framing[0]) is None
        self.large |= _BARE_LINE_FEED.search(head) is not None

    def _chunks_came(self, data: bytearray) -> bool:
        """Tell whether the last chunk is there. What is not plain is left to gunicorn's parser."""
        while not self._last_chunk:
            chunk = _CHUNK.match(data, self._chunks_at)
            if chunk is None:
                line = data.find(b"\r\n", self._chunks_at)
                self.large = line >= 0 or len(data) - self._chunks_at > CHUNK_LINE_MOST
                return False
            size = int(chunk[1], 16)
            self._last_chunk = size == 0
            self._chunks_at = chunk.end() + (size + 2 if size else 0)
        return data.find(b"\r\n\r\n", self._chunks_at - 2) >= 0
