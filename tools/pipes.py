"""Standard input and output in place of files, which `-` means."""

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.records import Stop

STANDARD = Path("-")
NAME = "standard-input"  # what files that are made of it begin with, in the working folder
PIECE = 1 << 20


@dataclass(frozen=True)
class Pipes:
    """The files that are read and written in place of standard input and output."""

    source: Path
    name: Path  # what the source is called in messages, and what is beside it
    output: Path | None
    rejects: Path | None  # where rows are left that a run with standard output leaves out
    digest: str  # of what came from standard input, 8 hex digits; else ""


@contextmanager
def opened(source: Path, output: Path | None, kind: str | None) -> Iterator[Pipes]:
    """Give files for a block. What came from standard input is read whole before that.

    What was written for standard output is printed where the block ends well.
    """
    if STANDARD not in (source, output):
        yield Pipes(source, source, output, None, "")
        return
    with tempfile.TemporaryDirectory(prefix="embedding-service-") as folder:
        name, digest = source, ""
        if source == STANDARD:
            source, digest = _taken(Path(folder), kind)
            name = Path(source.name)
        made, rejects = output, None
        if output == STANDARD:
            made, rejects = Path(folder, "output.jsonl"), Path(f"{name.name}.rejects.jsonl")
        try:
            yield Pipes(source, name, made, rejects, digest)
        except Stop as exc:
            raise Stop(str(exc).replace(str(source), "standard input")) from None
        if output == STANDARD and made and made.exists():
            with made.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()


def _taken(folder: Path, kind: str | None) -> tuple[Path, str]:
    """Return a file of what comes from standard input, and its digest.

    It is JSON lines if it begins with a brace, else a text a line.
    """
    if sys.stdin.isatty():
        print("a text a line; Ctrl-D ends", file=sys.stderr)
    stream = sys.stdin.buffer
    piece = stream.read(PIECE)
    guessed = "jsonl" if piece.lstrip()[:1] == b"{" else "txt"
    path, digest = folder / f"{NAME}.{kind or guessed}", hashlib.blake2b(digest_size=4)
    with path.open("wb") as file:
        while piece:
            digest.update(piece)
            file.write(piece)
            piece = stream.read(PIECE)
    return path, digest.hexdigest()
