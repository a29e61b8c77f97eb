"""Reads the small JSON files of a model's folder, and words its refusals.

Owns what a file that is missing, damaged or of another shape means. Knows nothing of models.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import ModelUnavailable

LONGEST = 240  # characters of a refusal: it is one line of a log and of a page
Json = dict[str, Any]


@dataclass(frozen=True)
class Folder:
    """A model's folder, with the name that the operator knows the model by."""

    path: Path
    name: str

    def refusal(self, what: str) -> ModelUnavailable:
        """Return the error that says in one line what the model is."""
        line = "".join(c if c.isprintable() else "?" for c in " ".join(what.split()))
        room = max(40, LONGEST - len(line))  # the end of a long path is what tells models apart
        name = self.name if len(self.name) <= room else f"…{self.name[1 - room :]}"
        return ModelUnavailable(f"{name!r} {line}"[: LONGEST + 8])

    def has(self, pattern: str, within: str = "") -> bool:
        """Tell whether something of this name is in a module's folder; `*` is anything."""
        return any((self.path / within).glob(pattern))

    def object(self, file: str) -> Json:
        """Return what a JSON file holds, or {} without it. Raises ModelUnavailable if damaged."""
        found = self.value(file)
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise self.refusal(f"is damaged: {file} holds no JSON object")
        return found

    def value(self, file: str) -> Any:
        """Return what a JSON file holds, or None without it. Raises ModelUnavailable if damaged."""
        path = self.path / file
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text("utf-8"))
        except (ValueError, RecursionError, OSError) as exc:
            why = f"line {exc.lineno}" if isinstance(exc, json.JSONDecodeError) else "not JSON"
            raise self.refusal(f"is damaged: {file} cannot be read ({why})") from exc


def names(value: Any) -> list[str]:
    """Return the texts of a JSON value that should be a list of texts, or one text."""
    return [item for item in (value if isinstance(value, list) else [value]) if type(item) is str]


def inside(file: str, folder: str) -> str:
    """Return a file's path within a module's folder; "" is the model's own folder."""
    return f"{folder}/{file}" if folder else file


def short(text: Any) -> str:
    """Return a foreign text cut to what a line has room for."""
    words = " ".join(str(text).split())
    return words if len(words) <= 60 else f"{words[:59]}…"
