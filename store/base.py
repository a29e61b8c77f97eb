"""What every vector store promises: the operations, their arguments and their results.

Named collections of (id, vector, text, metadata), searched exactly by similarity. `FileStore` keeps
them in files of this machine, `PostgresStore` in PostgreSQL; both pass the contract in
`tests/store/contract.py`.

Errors, all from `errors.py`: NotFound (no such collection, alias, or id to update), Conflict (it
exists, or holds vectors of another model), DimensionMismatch, Invalid (the message names the item),
BadRequest (a filter that cannot be read), TooLarge, Full, Busy, Unavailable, Corrupt and those of a
`Budget`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from store.budget import UNBOUNDED, Budget
from store.keyvalue import KeyValue

Vectors = npt.NDArray[np.float32]  # (n, d), or (d,) for one
Metric = Literal["cosine", "dot"]
Mode = Literal["upsert", "insert", "update"]
IfExists = Literal["error", "ok"]
Part = Literal["vector", "text", "metadata"]
Progress = Callable[[int, int], None]  # (done, total); a total of 0 is unknown

METRICS: tuple[Metric, ...] = ("cosine", "dot")
MODES: tuple[Mode, ...] = ("upsert", "insert", "update")
PARTS: tuple[Part, ...] = ("vector", "text", "metadata")
DEFAULT_PARTS: tuple[Part, ...] = ("text", "metadata")
SUCCESSOR = "reembed."  # prefix of the names of collections that will replace others


def successor(uuid: str) -> str:
    """Return the name of the collection that will replace another one."""
    return SUCCESSOR + uuid


@dataclass(frozen=True)
class Item:
    """One record to write. One with the same id is replaced whole, never merged."""

    id: str
    vector: npt.ArrayLike  # (d,) finite numbers, kept as float32
    text: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)  # a JSON object


@dataclass(frozen=True)
class Record:
    """One stored record with the parts that were asked for; the others are None."""

    id: str
    vector: Vectors | None = None  # (d,) bit-exact as it was sent, never normalised
    text: str | None = None
    metadata: dict[str, Any] | None = None


@dataclass(frozen=True)
class Hit(Record):
    """A record found by search. Cosine: score in [-1, 1]; dot: the inner product."""

    score: float = 0.0


@dataclass(frozen=True)
class Found:
    """The result of a search: a list of hits for each query, best first."""

    hits: list[list[Hit]]
    exact: bool = True  # False when an approximate index was used


@dataclass(frozen=True)
class Written:
    """How many records an upsert inserted and updated."""

    inserted: int
    updated: int


@dataclass(frozen=True)
class Page:
    """One page of a scroll, ordered by id. `next_cursor` is None on the last one."""

    records: list[Record]
    next_cursor: str | None


@dataclass(frozen=True)
class Identity:
    """A collection and the model of its vectors. `uuid` stays through renames."""

    name: str
    uuid: str
    dim: int
    metric: Metric
    model: str | None
    fingerprint: str | None


@dataclass(frozen=True)
class CollectionInfo(Identity):
    """A collection with its rows counted."""

    count: int
    created: float  # seconds since the epoch
    aliases: tuple[str, ...] = ()
    indexed: tuple[str, ...] = ()  # fields declared when it was created
    damage: str | None = None  # why its rows, 0 here, cannot be counted; in a list of all


@dataclass(frozen=True)
class Report:
    """What `verify`, `compact` or `repair` found and did."""

    ok: bool
    rows: int  # live rows
    problems: tuple[str, ...] = ()  # what is wrong, or was repaired
    freed_bytes: int = 0


@dataclass(frozen=True)
class BackupInfo:
    """A backup that was made."""

    path: Path
    name: str
    rows: int
    bytes: int


class VectorStore(ABC):
    """Named collections of vectors. Every method may be called from any thread and process.

    `name` is a collection or an alias everywhere but in `rename`, `swap` and `drop`. A call is
    atomic: it is done wholly or not at all, also where its budget ends it, and is durable when it
    returns. While there is a `successor(uuid)`, writes to that uuid raise Conflict.
    """

    notes: KeyValue  # of jobs

    @property
    def problem(self) -> str | None:
        """Why nothing can be read or written now, if a call has found so, or None."""
        return None

    # -- collections -----------------------------------------------------------------------------

    @abstractmethod
    def create(
        self, name: str, dim: int, metric: Metric = "cosine", model: str | None = None,
        fingerprint: str | None = None, if_exists: IfExists = "error", indexed: Sequence[str] = (),
    ) -> tuple[CollectionInfo, bool]:  # fmt: skip
        """Make an empty collection; also return whether it is new.

        `indexed` has the fields to prepare for filters, as filters name them. With `if_exists="ok"`
        a collection that agrees in all that both sides name is returned as it is. Raises Conflict.
        """

    @abstractmethod
    def collections(self) -> list[CollectionInfo]:
        """Return every collection, by name."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return every collection's name, in order; no collection is opened."""

    @abstractmethod
    def identity(self, name: str) -> Identity:
        """Return which collection a name or alias means; no rows are counted."""

    @abstractmethod
    def info(self, name: str) -> CollectionInfo:
        """Return one collection, its rows counted."""

    @abstractmethod
    def drop(self, name: str) -> None:
        """Delete a collection and the aliases that point at it. Raises Conflict for an alias."""

    @abstractmethod
    def rename(self, name: str, new_name: str) -> None:
        """Give a collection another name; aliases of the old name follow it."""

    @abstractmethod
    def swap(self, name: str, other: str, uuid: str | None = None) -> None:
        """Exchange the names of two collections in one step. Aliases keep pointing at the names.

        Raises Conflict unless `name` means the collection `uuid`, where that is given.
        """

    @abstractmethod
    def alias(self, alias: str, name: str) -> None:
        """Point `alias` at a collection, at once if it pointed elsewhere.

        Raises Conflict when a collection has that name; an alias of an alias points at its target.
        """

    @abstractmethod
    def unalias(self, alias: str) -> None:
        """Remove an alias."""

    @abstractmethod
    def stamp(self, name: str, model: str, fingerprint: str | None) -> CollectionInfo:
        """Record the model of a collection's vectors, if none is recorded yet.

        Raises Conflict if another model or fingerprint is recorded. A missing fingerprint, on
        either side, agrees with any; one that is given fills a missing one.
        """

    # -- writing ---------------------------------------------------------------------------------

    @abstractmethod
    def upsert(
        self, name: str, items: Sequence[Item], mode: Mode = "upsert", uuid: str | None = None
    ) -> Written:
        """Write items, all or none; an id twice in one call is Invalid. `uuid` is as in `swap`.

        `insert` raises Conflict if an id exists, `update` raises NotFound if one does not.
        """

    @abstractmethod
    def delete(
        self, name: str, ids: Sequence[str] | None = None, filter: object = None,
        budget: Budget = UNBOUNDED,
    ) -> int:  # fmt: skip
        """Delete by ids or by filter (exactly one of them); return how many were deleted."""

    @abstractmethod
    def wait_for_writers(self, name: str) -> None:
        """Return once every write that began before has ended. Raises Busy after a while."""

    # -- reading ---------------------------------------------------------------------------------

    @abstractmethod
    def get(
        self, name: str, ids: Sequence[str], include: Sequence[Part] = PARTS,
        budget: Budget = UNBOUNDED,
    ) -> list[Record]:  # fmt: skip
        """Return the records of `ids` that exist, each once, in the order of `ids`."""

    @abstractmethod
    def search(
        self, name: str, vectors: npt.ArrayLike, k: int = 10, *, filter: object = None,
        min_score: float | None = None, exact: bool = False, without: str | None = None,
        offset: int = 0, include: Sequence[Part] = DEFAULT_PARTS, budget: Budget = UNBOUNDED,
    ) -> Found:  # fmt: skip
        """Return the `k` best records for each of `vectors` (q, d), after skipping `offset`.

        By score, then id; never fewer than `k` if so many match. `exact` uses no approximate index;
        `without` is an id to leave out.
        """

    @abstractmethod
    def scroll(
        self, name: str, cursor: str | None = None, limit: int = 100, filter: object = None,
        include: Sequence[Part] = PARTS, budget: Budget = UNBOUNDED,
    ) -> Page:  # fmt: skip
        """Return the next `limit` records by id; fewer, but at least one, if the budget ends."""

    @abstractmethod
    def count(self, name: str, filter: object = None, budget: Budget = UNBOUNDED) -> int:
        """Return how many records match."""

    @abstractmethod
    def sample(
        self, name: str, most: int, budget: Budget = UNBOUNDED, filter: object = None
    ) -> list[str]:
        """Return up to `most` ids that match, in order: a random choice that stays with them."""

    @abstractmethod
    def version(self, name: str, budget: Budget = UNBOUNDED) -> str:
        """Return a text that changes with every write to a collection's records."""

    # -- keeping ---------------------------------------------------------------------------------

    @abstractmethod
    def backup(self, name: str, to: Path) -> BackupInfo:
        """Write a consistent copy into the new folder `to` while writes go on."""

    @abstractmethod
    def restore(
        self, source: Path, name: str | None = None, progress: Progress | None = None
    ) -> CollectionInfo:
        """Make a new collection from a backup, which is checked and not trusted."""

    @abstractmethod
    def verify(self, name: str, progress: Progress | None = None) -> Report:
        """Check everything stored of a collection and change nothing."""

    @abstractmethod
    def compact(self, name: str, progress: Progress | None = None) -> Report:
        """Free the space of what was deleted or replaced."""

    @abstractmethod
    def stats(self, name: str | None = None) -> dict[str, Any]:
        """Return figures for operators, of one collection or of the whole store (JSON-ready)."""

    @abstractmethod
    def close(self) -> None:
        """Close files, threads and connections. Every acknowledged write is durable."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
