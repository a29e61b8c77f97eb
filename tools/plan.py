"""Which rows of a file are sent, under which ids, and which are left out."""

import hashlib
import re
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from tools.records import Stop
from tools.rows import MOST_ID, UNSAFE, Refused, Row, Source

_DIGITS = 20  # at most, of a row's number, and a dash


class Plan:
    """The rows to send, in input order. Reads the whole file once. Raises Stop."""

    def __init__(self, source: Source, prefix: str | None, skip: bool) -> None:
        self.source = source
        self.skip = skip  # leave unusable rows out; otherwise the first one ends the run
        self._prefix = prefix  # of the ids of rows without one, where rows are stored
        self.earlier: set[int] = set()  # rows whose id occurs again later, by index
        self.refused = 0  # unusable rows
        self.count = 0
        self.digest = self._survey()

    def rows(self) -> Iterator[Row]:
        """Yield the rows; of rows with equal ids, the last."""
        return (row for row in self._named(lambda out: None) if row.index not in self.earlier)

    def left_out(self, reasons: dict[int, str]) -> Iterator[Refused]:
        """Yield, in input order, the unusable rows and those in `reasons`, each with its reason."""
        found: list[Refused] = []
        for row in self._named(found.append):
            yield from found
            found.clear()
            if row.index in reasons:
                content = {"id": row.id, "text": row.text, **row.metadata}
                yield Refused(row.index, row.line, reasons[row.index], content)
        yield from found

    def _named(self, refused: Callable[[Refused], object]) -> Iterator[Row]:
        for row in self.source.rows(refused):
            nameless = self._prefix is not None and row.id is None
            yield replace(row, id=f"{self._prefix}-{row.index}") if nameless else row

    def _survey(self) -> str:
        """Count the rows, find those whose id occurs again, and return a digest of all."""
        digest, keys, indexes = hashlib.blake2b(digest_size=16), bytearray(), array("q")

        def note(out: Refused) -> None:
            if not self.skip:
                raise self.source.stop(out)
            self.refused += 1

        for row in self._named(note):
            more = f" {row.metadata!r}" if row.metadata else ""
            if row.index != self.count:  # rows before it are left out
                more += f" {row.index}"
            digest.update(f"{row.id!r} {row.text}{more}\n".encode())
            if self._prefix is not None:
                keys += hashlib.blake2b(str(row.id).encode(), digest_size=16).digest()
                indexes.append(row.index)
            self.count += 1
        if keys:
            _, last = np.unique(np.frombuffer(keys, "S16")[::-1], return_index=True)
            kept = len(indexes) - 1 - last
            self.earlier = set(np.delete(np.frombuffer(indexes, np.int64), kept).tolist())
        self.count -= len(self.earlier)
        return digest.hexdigest()


def checked_prefix(prefix: str) -> str:
    """Return the prefix of stored ids. Raises Stop if such ids could not be stored."""
    half = any("\ud800" <= char <= "\udfff" for char in prefix)  # also of bytes that are no UTF-8
    if half or UNSAFE.search(f"{prefix}-0") or len(prefix) > MOST_ID - _DIGITS:
        raise Stop(
            f"--prefix {ascii(prefix)[:100]}: ids cannot begin so; give UTF-8 of at most "
            f"{MOST_ID - _DIGITS} characters, no control character, and no '.' or '..' between "
            "slashes"
        )
    return prefix


def prefix_of(source: Path) -> str:
    """Return the prefix of ids for rows without one: stable for this file, unique to it."""
    place = hashlib.blake2b(str(source.resolve()).encode(errors="surrogatepass"), digest_size=4)
    stem = re.sub("[\\x00-\\x1f\\x7f-\\x9f\ud800-\udfff\\\\]", "-", source.stem)  # as ids have none
    return f"{stem}-{place.hexdigest()}"
