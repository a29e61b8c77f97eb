"""How a file of rows is read: what a person may choose, and what is guessed from its bytes."""

import codecs
import io
import itertools
import re
import string
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Literal

from tools.records import Record, Stop, open_text, read_cells
from tools.rows import TEXT_FIELDS, number

Kind = Literal["csv", "jsonl", "json", "txt", "parquet"]
Type = Literal["text", "number", "boolean", "date", "json"]
Encoding = Literal["utf-8", "utf-16", "utf-16-le", "utf-16-be", "windows-1252", "latin-1"]

DELIMITERS = (",", ";", "\t", "|")
SAMPLE = 256 << 10  # bytes from which the delimiter and the header are guessed
SAMPLE_ROWS = 100
HEAD = 4096
BY_ENDING: dict[str, Kind] = {
    ".csv": "csv", ".tsv": "csv", ".tab": "csv", ".txt": "txt", ".parquet": "parquet",
}  # fmt: skip
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]+)?)?( ?(Z|[+-][0-9]{2}:?[0-9]{2}))?"
_DATE = re.compile(rf"[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}([T ]{_TIME})?")
# How files begin that are no table, whatever their names end in.
SIGNS = (
    (b"PK\x03\x04", "is a ZIP archive or an Office document: unpack it, or save a sheet as CSV"),
    (b"\xd0\xcf\x11\xe0", "is an old Office document: save a sheet as CSV"),
    (b"\x1f\x8b", "is compressed: unpack it first"),
    (b"BZh", "is compressed: unpack it first"),
    (b"\xfd7zXZ", "is compressed: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed: unpack it first"),
    (b"%PDF-", "is a PDF: save its text first"),
    (b"SQLite format 3\0", "is a database: export a table as CSV"),
    (b"\xff\xfe\0\0", "is UTF-32: save it as UTF-8"),
    (b"\0\0\xfe\xff", "is UTF-32: save it as UTF-8"),
    (b"\x89PNG", "is an image"),
    (b"\xff\xd8\xff", "is an image"),
    (b"GIF8", "is an image"),
    (b"\x7fELF", "is a program"),
)
# Control characters that no text has. NUL is left to the rows, which name their line; ESC colours
# the lines of logs.
_CONTROLS = bytes({*range(1, 32), 127} - {*b"\t\n\f\r\x1b"})
MOST_CONTROLS = 0.02  # of the bytes of a text; compressed or random bytes have 0.1
_BEYOND, _LETTERS = bytes(range(128, 256)), (string.ascii_letters.encode())
_SIDE_BY_SIDE = re.compile(rb"[\x80-\xff]{2}")
UNLIKELY = 0.3  # of the letters; German has 0.02 beyond ASCII, French 0.04, Vietnamese 0.25
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_NAME = re.compile(r"[^\W\d][\w $.:/()#%&+-]{0,63}")  # what may name a lone column


@dataclass(frozen=True)
class Layout:
    """How a file is read. What is None, or has no `text`, is guessed.

    `text` are the columns whose cells, joined by a line feed, are the text. `id` is the column of
    ids, "" for none. `metadata` are the columns that are stored with it; None is all others.
    """

    kind: Kind | None = None
    encoding: Encoding | None = None
    delimiter: str | None = None
    header: bool | None = None
    text: tuple[str, ...] = ()
    id: str | None = None
    metadata: tuple[str, ...] | None = None
    types: Mapping[str, Type] = field(default_factory=dict)


def settled(path: Path, name: str, layout: Layout) -> Layout:
    """Return a layout whose kind, encoding, delimiter and header are known. Raises Stop.

    `name` is what the file was called, whose ending says what it is.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        raise Stop("is empty")
    kind = layout.kind or _kind(head, name)
    if kind == "parquet":
        return replace(layout, kind=kind)
    for sign, what in SIGNS:
        if head.startswith(sign):
            raise Stop(what)
    encoding = layout.encoding or _encoding(path, head)
    layout = replace(layout, kind=kind, encoding=encoding)
    if kind not in ("csv", None):
        return layout
    with open_text(path, "", encoding) as text:
        sample = text.read(SAMPLE)
    delimiter = layout.delimiter
    if delimiter is None:
        tabs = Path(name).suffix.lower() in (".tsv", ".tab")
        delimiter = _delimiter(sample, DELIMITERS[2:] + DELIMITERS[:2] if tabs else DELIMITERS)
    if kind is None and delimiter is None:  # an unknown ending, and nothing that parts cells
        return replace(layout, kind="txt")
    delimiter = delimiter or DELIMITERS[0]
    header = layout.header
    if header is None:
        first = next((row for row in _rows(sample, delimiter) if any(row.content)), None)
        # A broken first row is no row to store either.
        header = first is not None and (bool(first.problem) or _is_header(first.content))
    return replace(layout, kind="csv", delimiter=delimiter, header=header)


def _kind(head: bytes, name: str) -> Kind | None:
    if head.startswith(b"PAR1"):
        return "parquet"
    ending = Path(name).suffix.lower()
    if ending in BY_ENDING:
        return BY_ENDING[ending]
    first = head.removeprefix(codecs.BOM_UTF8).lstrip(b"\xff\xfe\0 \t\r\n")
    begins = first[:1]
    # An object of which the first line has but a brace goes on in the lines after it.
    if begins == b"[" or first.partition(b"\n")[0].strip(b"\0\r\t ") == b"{":
        return "json"
    return "jsonl" if begins == b"{" or ending in (".json", ".jsonl", ".ndjson") else None


def _encoding(path: Path, head: bytes) -> Encoding:
    """Guess an encoding from all of a file, since the first letter beyond ASCII may come late."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    even, odd = head[::2].count(0), head[1::2].count(0)
    if (even + odd) * 4 > len(head):
        if max(even, odd) < 4 * min(even, odd):
            raise Stop("holds NUL bytes: it is no text")
        return "utf-16-le" if odd > even else "utf-16-be"
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    beyond = wrong = controls = size = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            size += len(piece)
            controls += len(piece) - len(piece.translate(None, _CONTROLS))
            text = decoder.decode(piece)
            if not text.isascii():
                beyond += len(text) - len(text.encode("ascii", "ignore"))
                wrong += len(_NOT_UTF8.findall(text))
    if controls > max(2, size * MOST_CONTROLS):
        raise Stop("holds control characters: it is no text")
    # Damaged letters of a file of UTF-8 are few beside its others; in Windows-1252 hardly any
    # letters happen to be UTF-8.
    return "utf-8" if beyond - wrong >= wrong else "windows-1252"


def unlikely(path: Path) -> bool:
    """Return whether a file that is no UTF-8 looks like none of Windows-1252 either.

    Of that, letters beyond ASCII are few and mostly stand alone. Other code pages have whole words
    of such bytes.
    """
    beyond = letters = pairs = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            beyond += len(piece) - len(piece.translate(None, _BEYOND))
            letters += len(piece) - len(piece.translate(None, _LETTERS))
            pairs += len(_SIDE_BY_SIDE.findall(piece))
    return beyond > UNLIKELY * (beyond + letters) or 2 * pairs > max(4, beyond * 0.6)


def is_date(text: str) -> bool:
    """Return whether a text is a day of the calendar, perhaps with a time."""
    if not _DATE.fullmatch(text):
        return False
    try:
        date.fromisoformat(text[:10])
    except ValueError:
        return False
    return True


def _rows(sample: str, delimiter: str) -> list[Record]:
    """Return the first rows of a text; its last line may be cut."""
    whole = sample if len(sample) < SAMPLE else sample[: sample.rfind("\n") + 1]
    rows = read_cells(io.StringIO(whole, newline=""), delimiter)
    return list(itertools.islice(rows, SAMPLE_ROWS))


def _delimiter(sample: str, among: tuple[str, ...]) -> str | None:
    """Return what parts the cells: most rows, the first one too, then have as many cells."""
    best, cells = None, 1
    for delimiter in among:
        rows = [row.content for row in _rows(sample, delimiter) if not row.problem]
        widths = [len(cells) for cells in rows if any(cells)]
        if not widths:
            continue
        width, times = Counter(widths).most_common(1)[0]
        if widths[0] == width > cells and times >= 0.6 * len(widths):
            best, cells = delimiter, width
    return best


def _is_header(cells: list[str]) -> bool:
    """Return whether a row has names and no values."""
    names = [cell.strip() for cell in cells]
    filled = [name for name in names if name]
    if any(name.lower() in (*TEXT_FIELDS, "id") for name in filled):
        return True
    if len(names) == 1:
        return bool(_NAME.fullmatch(names[0])) and len(names[0].split()) < 4
    plain = all(number(name) is None and not is_date(name) for name in filled)
    short = all(len(name) <= 64 and "\n" not in name for name in filled)
    return plain and short and len(set(filled)) == len(filled) > len(names) / 2
