"""The bytes of a journal: a header, then frames; each is there wholly or not at all.

    frame   '<4sQQII' = magic, seq, synced, length, crc32(the fields before + payload); then payload
    payload records, one after another
    record  '<IIII' = lengths of the two parts, their crc32s; a pickle; raw little-endian float32

`seq` rises by one per frame, so a stale or repeated frame is seen. `synced` is how much of the
journal was known to be on the disk when the frame was written: damage below it cannot come from a
cut of the power, damage above it can. Knows nothing of what the records mean.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from errors import Corrupt

HEADER = b"EMBJRNL1"
MAGIC = b"FRM1"
FRAME = struct.Struct("<4sQQII")
RECORD = struct.Struct("<IIII")
MAX_FRAME = 64 << 20

Reader = Callable[[int, int], bytes]  # (size, offset) -> bytes


@dataclass(frozen=True)
class Frame:
    """One frame's place and payload."""

    start: int
    seq: int
    synced: int
    payload: bytes

    @property
    def end(self) -> int:
        """Where the next frame starts."""
        return self.start + FRAME.size + len(self.payload)


def encode_record(pickled: bytes, raw: bytes = b"") -> bytes:
    """Return a record's bytes."""
    sums = zlib.crc32(pickled), zlib.crc32(raw)
    return b"".join((RECORD.pack(len(pickled), len(raw), *sums), pickled, raw))


def encode_frame(seq: int, synced: int, payload: bytes) -> bytes:
    """Return a frame's bytes."""
    head = FRAME.pack(MAGIC, seq, synced, len(payload), 0)[:-4]
    return b"".join((head, struct.pack("<I", zlib.crc32(payload, zlib.crc32(head))), payload))


def read_frame(read: Reader, start: int, seq: int | None) -> Frame | None:
    """Return the frame at `start` if it is whole, undamaged and has this `seq` (None: any)."""
    head = read(FRAME.size, start)
    if len(head) < FRAME.size:
        return None
    magic, found, synced, length, crc = FRAME.unpack(head)
    if magic != MAGIC or length > MAX_FRAME or (seq is not None and found != seq):
        return None
    payload = read(length, start + FRAME.size)
    if len(payload) < length or zlib.crc32(payload, zlib.crc32(head[:-4])) != crc:
        return None
    return Frame(start, found, synced, payload)


def find_frames(read: Reader, start: int, end: int, least_seq: int) -> Iterator[Frame]:
    """Find whole frames anywhere in damaged bytes, of a `seq` no lower than `least_seq`."""
    step, here = 1 << 20, start
    while here < end:
        block = read(min(step + len(MAGIC) - 1, end - here), here)
        skip = here + step
        for match in re.finditer(MAGIC, block):
            frame = read_frame(read, here + match.start(), None)
            if frame is not None and frame.seq >= least_seq:
                yield frame
                skip, least_seq = frame.end, frame.seq + 1
                break
        here = skip


def whole_records(read: Reader, start: int, end: int) -> list[tuple[int, int]]:
    """Return (offset, length) of the undamaged records in a damaged frame at `start`.

    Nothing where the frame's own head is damaged, and nothing behind a record's damaged lengths.
    """
    head = read(FRAME.size, start)
    if len(head) < FRAME.size or not head.startswith(MAGIC):
        return []
    found, here = [], start + FRAME.size
    while here + RECORD.size <= end:
        n_pickle, n_raw, crc_pickle, crc_raw = RECORD.unpack(read(RECORD.size, here))
        size = RECORD.size + n_pickle + n_raw
        if not n_pickle or here + size > end:
            break
        body = read(n_pickle + n_raw, here + RECORD.size)
        if (zlib.crc32(body[:n_pickle]), zlib.crc32(body[n_pickle:])) == (crc_pickle, crc_raw):
            found.append((here, size))
        here += size
    return found


def records(frame: Frame) -> Iterator[tuple[int, bytes, memoryview]]:
    """Yield each record of a frame: its offset in the file, its pickle, its raw part."""
    view, here = memoryview(frame.payload), 0
    while here < len(view):
        if here + RECORD.size > len(view):
            raise Corrupt(f"the frame at {frame.start} has a broken record")
        n_pickle, n_raw, _, _ = RECORD.unpack_from(view, here)
        body = here + RECORD.size
        end = body + n_pickle + n_raw
        if end > len(view):
            raise Corrupt(f"the frame at {frame.start} has a broken record")
        yield (
            frame.start + FRAME.size + here,
            bytes(view[body : body + n_pickle]),
            view[body + n_pickle : end],
        )
        here = end


def read_pickle(read: Reader, offset: int) -> bytes:
    """Read one record's pickle back. Raises Corrupt when its bytes have changed."""
    n_pickle, _, crc, _ = _head(read, offset)
    return _checked(read(n_pickle, offset + RECORD.size), n_pickle, crc, offset)


def read_raw(read: Reader, offset: int) -> bytes:
    """Read one record's raw part back. Raises Corrupt when its bytes have changed."""
    n_pickle, n_raw, _, crc = _head(read, offset)
    return _checked(read(n_raw, offset + RECORD.size + n_pickle), n_raw, crc, offset)


def _head(read: Reader, offset: int) -> tuple[int, int, int, int]:
    head = read(RECORD.size, offset)
    if len(head) < RECORD.size:
        raise Corrupt(f"the journal ends inside the record at {offset}")
    n_pickle, n_raw, crc_pickle, crc_raw = RECORD.unpack(head)
    if n_pickle + n_raw > MAX_FRAME:
        raise Corrupt(f"the record at {offset} of the journal has been damaged")
    return n_pickle, n_raw, crc_pickle, crc_raw


def _checked(data: bytes, size: int, crc: int, offset: int) -> bytes:
    if len(data) != size or zlib.crc32(data) != crc:
        raise Corrupt(f"the record at {offset} of the journal has been damaged; run verify")
    return data
