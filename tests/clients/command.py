"""Runs `embed_file.py` in this process: what it returns, what it says, what it leaves."""

import contextlib
import io
import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import embed_file


@dataclass
class Done:
    """How a run ended."""

    code: int
    said: str


def embed(url: str, *words: object) -> Done:
    """Run the command without its progress bar. A traceback fails the test."""
    before = signal.getsignal(signal.SIGTERM)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            embed_file.main([*map(str, words), "--quiet", "--url", url])
    except SystemExit as exc:
        code = int(exc.code or 0)
    finally:
        signal.signal(signal.SIGTERM, before)
    return Done(code, said.getvalue())


def rejects(path: Path) -> list[tuple[int, str]]:
    """Return line and reason of what a run has left out."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    return [(line["line"], line["reason"]) for line in lines]
