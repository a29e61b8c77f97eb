"""Refuses new records with ids that a URL cannot carry, or metadata that no filter can name.

The service applies these rules and the stores do not, so older records stay readable.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from errors import Invalid
from store.filters import FIELD, FIELD_CHARS, path_of
from store.values import brief

# Clients resolve dot segments before they send a path (RFC 3986, 5.2.4; browsers those between
# backslashes, too), so that `vectors/..` would be another address. Control characters are cut out
# or refused on the way.
UNSAFE = re.compile(r"(?:^|[/\\])\.\.?(?:[/\\]|\Z)|[\x00-\x1f\x7f-\x9f]")


class Draft(NamedTuple):
    """What a caller wants to store: its vector, or a text whose vector is to be made."""

    id: str | None = None
    vector: Any = None
    text: str | None = None
    metadata: dict[str, Any] = {}  # never changed


def check_new(i: int, draft: Draft) -> None:
    """Refuse an id or a key of metadata that could not be asked for. Raises Invalid."""
    if draft.id is not None and UNSAFE.search(draft.id):
        raise Invalid(
            f"item {i}: {brief(draft.id)} cannot be an id: in a URL clients take . and .. between "
            "slashes for steps, and drop control characters; leave them out",
            param="id",
        )
    if draft.metadata:
        _check_keys(i, draft.metadata)


def _check_keys(i: int, value: object, path: str | None = "") -> None:
    """Check the keys of what lies at a path as filters name it; they name nothing in a list."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            if not key or "." in key or key[0] == "$":
                other = key.replace(".", "_").lstrip("$") or "name"
                raise Invalid(
                    f"item {i}: the metadata key {brief(key)} could not be named in a filter, where"
                    " names are not empty, a dot steps into an object and $ begins an operator: "
                    f"use another, as {brief(other)}, or an object within",
                    param="metadata",
                )
            inner = None if path is None else f"{path}.{key}" if path else key
            if inner is not None and path_of(inner) is None:
                raise Invalid(
                    f"item {i}: the metadata key {brief(key)} could not be named in a filter, where"
                    f" a field is {FIELD}, {FIELD_CHARS} characters at most: use shorter keys, or "
                    "fewer objects within each other",
                    param="metadata",
                )
            if isinstance(each, Mapping | list):
                _check_keys(i, each, inner)
    elif isinstance(value, list):
        for each in value:
            if isinstance(each, Mapping | list):
                _check_keys(i, each, None)
