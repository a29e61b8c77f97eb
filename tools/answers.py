"""How commands answer: tables or JSON on standard output, one line of error, an exit code."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from tools.records import Stop

Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


def printable(text: str) -> str:
    """Return a text as one line that no terminal takes for a command."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


@contextmanager
def told(as_json: bool, name: str = "error") -> Iterator[None]:
    """End the command with 1 where the block stops, and say why in one line."""
    try:
        yield
    except (Stop, OSError, MemoryError) as exc:
        reason = str(exc) or "there is too little memory for this"
        print(f"{name}: {printable(reason)}", file=sys.stderr)
        if as_json:
            print(json.dumps({"error": reason}))
        raise typer.Exit(1) from None


def say(data: Any, text: str, as_json: bool) -> None:
    """Print an answer."""
    print(json.dumps(data, ensure_ascii=False) if as_json else text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a table: columns as wide as they need, the last one of any width."""
    lines = [[printable(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths[-1] = 0
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
