"""What the catalogue records of a collection, and what it asks of the store that has the rows."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import sqlalchemy as sa

from errors import Conflict
from store.base import Identity
from store.values import brief


@dataclass(frozen=True)
class Entry(Identity):
    """One collection as recorded."""

    created: float  # seconds since the epoch
    indexed: tuple[str, ...] = ()  # the declared fields


class Rows(Protocol):
    """What a back end does with rows when names change; all but `removed` in the transaction."""

    def make(self, connection: sa.Connection, entry: Entry) -> None:
        """Make empty rows for a new collection. Undone if the transaction fails, or swept later."""

    def remove(self, connection: sa.Connection, entry: Entry) -> None:
        """Prepare to remove the rows; the transaction may still fail, and they stay."""

    def removed(self, entry: Entry) -> None:
        """Free what is left of the rows: the collection is gone for good."""

    def without_writers(
        self, connection: sa.Connection, *entries: Entry
    ) -> AbstractContextManager[None]:
        """Wait for the writes under way, and keep others out for a block that ends after the
        transaction. Raises Busy after a while.
        """

    def count(self, connection: sa.Connection | None, entry: Entry) -> int:
        """Return how many rows there are, of files without a connection. Raises NotFound if they
        were dropped meanwhile.
        """


def agree(there: Entry, wanted: Entry) -> None:
    """Raise Conflict unless a collection can be used for the one that was asked for."""
    if (there.dim, there.metric) != (wanted.dim, wanted.metric):
        facts = f"dim {there.dim} and metric {there.metric}"
        raise Conflict(f"collection {wanted.name!r} exists already, with {facts}", param="name")
    if wanted.indexed and set(there.indexed) != set(wanted.indexed):
        facts = f"indexed fields {brief(list(there.indexed))}"
        raise Conflict(f"collection {wanted.name!r} exists already, with {facts}", param="name")
    stamped(there, wanted.model, wanted.fingerprint)


def stamped(entry: Entry, model: str | None, fingerprint: str | None) -> Entry:
    """Return an entry with its model recorded. Raises Conflict if another one is recorded."""
    for what, has, wants in (
        ("model", entry.model, model),
        ("fingerprint", entry.fingerprint, fingerprint),
    ):
        if has is not None and wants is not None and has != wants:
            raise Conflict(
                f"collection {entry.name!r} holds vectors of {what} {has!r}, not of {wants!r}; "
                "make another collection, or re-embed this one",
                param="model",
            )
    return replace(entry, model=entry.model or model, fingerprint=entry.fingerprint or fingerprint)
