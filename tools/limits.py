"""What the service stores of one row, checked before anything is sent.

So a file is refused where it is read, and of rows with equal ids the last is one that is stored.
The limits are those of store/values.py and documents/rules.py; the console has them too
(static/js/rows.js).
"""

import json
import re
from collections.abc import Iterable
from typing import Any

MOST_ID = 512  # characters
MOST_TEXT = 1 << 20  # bytes
MOST_METADATA = 64 << 10  # bytes of JSON
MOST_KEYS = 1000  # of one object
MOST_DEPTH = 32
MOST_INT = 2**63 - 1
# What clients resolve in a path, or drop.
UNSAFE = re.compile(r"(?:^|[/\\])\.\.?(?:[/\\]|\Z)|[\x00-\x1f\x7f-\x9f]")

NAMABLE = re.compile(r"[^.$][^.]{0,511}", re.DOTALL)


class Unfit(Exception):
    """A row cannot be taken; the message goes on after "line 7"."""


def check_stored(id_: str | None, text: str, metadata: dict[str, Any]) -> None:
    """Refuse a row that the service would not store. Raises Unfit."""
    if id_ is not None and (len(id_) > MOST_ID or UNSAFE.search(id_)):
        raise Unfit(
            f"has an id that cannot be stored: give at most {MOST_ID} characters, no control "
            "character, and no '.' or '..' as all of it or between slashes"
        )
    if len(text) * 4 > MOST_TEXT and len(text.encode()) > MOST_TEXT:
        raise Unfit(f"has a text that is longer than {MOST_TEXT} bytes: split it")
    if metadata:
        _check_value(metadata, 1)
        size = len(json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode())
        if size > MOST_METADATA:
            raise Unfit(f"has metadata of {size} bytes; at most {MOST_METADATA}: take fields out")


def unnamable(names: Iterable[str]) -> str | None:
    """Return the first name of a field that no filter could name, if there is one."""
    return next((name for name in names if not NAMABLE.fullmatch(name)), None)


def first_twice(names: Iterable[str]) -> str | None:
    """Return the first name that comes again, if there is one."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _check_value(value: Any, depth: int) -> None:
    if isinstance(value, int) and abs(value) > MOST_INT:
        raise Unfit("has a whole number beyond 64 bits: write it as a string")
    if not isinstance(value, dict | list):
        return
    if depth > MOST_DEPTH:
        raise Unfit(f"is nested deeper than {MOST_DEPTH} levels: flatten it")
    if isinstance(value, dict):
        if len(value) > MOST_KEYS:
            raise Unfit(f"has an object of over {MOST_KEYS} keys: take fields out")
        if (name := unnamable(value)) is not None:
            raise Unfit(
                f"names a field {name[:100]!r}, which no filter could: take out its dots, and a $ "
                "at its start; a name is not empty, and has at most 512 characters"
            )
    for part in value.values() if isinstance(value, dict) else value:
        _check_value(part, depth + 1)
