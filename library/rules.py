"""What callers may not store anew, though what is there already is read and moved as it is.

Rules of the service and not of the stores: of ids that a URL cannot carry, and of metadata that no
filter can name.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from errors import Invalid
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


def _check_keys(i: int, value: object) -> None:
    if isinstance(value, Mapping):
        for key in value:
            if "." in key or key.startswith("$"):
                raise Invalid(
                    f"item {i}: the metadata key {brief(key)} could not be named in a filter, where"
                    " a dot steps into an object and $ begins an operator: use another, as "
                    f"{brief(key.replace('.', '_').lstrip('$'))}, or an object within",
                    param="metadata",
                )
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            if isinstance(each, Mapping | list):
                _check_keys(i, each)
