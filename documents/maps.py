"""The map of a collection: its records as points, near each other if they mean the same.

A page first draws the principal components, then lays the points out again by their neighbours
(UMAP), which it computes itself: the server gives it neighbours, never vectors. What belongs
together has one `state`, which changes when the records do.
"""

import hashlib
import json
import math
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from documents import clusters
from documents.map_files import STATE, MapFiles
from documents.neighbours import Neighbours, directions, nearest
from documents.projection import project
from errors import Busy, Conflict, Invalid
from store import Record, VectorStore
from store.base import Part
from store.budget import UNBOUNDED, Budget

Points = NDArray[np.float32]
# Points of a map, each with an index of two bytes, and numbers of their vectors, which take 4 bytes
# each and twice that for a while.
MOST, NUMBERS_MOST = 50_000, 64_000_000
PAGE, NUMBERS = 100, 1_000_000  # records, and numbers, that are read at once
RECIPE = 1  # another one makes kept maps be made again
PART = 16_384  # points whose neighbours are in one reply, so that a page can show how far it is
# One map at a time, as the memory above says. So many others wait so long, each on one of the
# service's threads.
TURN_S, STEP_S, WAITING_MOST = 5.0, 0.1, 2
SMALL = 200_000  # numbers of a map that does not wait: it takes a few MB and 0.1 s
NEAR, AMONG = 5, 200  # a record beyond the map lies between so many of its nearest, of so many
_turn, _waiting = threading.Lock(), threading.Semaphore(WAITING_MOST)


@dataclass(frozen=True)
class Picture:
    """The records of a map, and a point from -1 to 1 for each, (n, 2).

    `laid_out` says that neighbours stay near; else the points are principal components, and
    `explained` is the share of all variance that each axis shows. `total` counts all records.
    """

    state: str
    ids: list[str]
    points: Points
    laid_out: bool
    explained: tuple[float, float]
    total: int


@dataclass(frozen=True)
class Placed:
    """A record, and the indices and weights, of sum 1, of the points of the map it lies between."""

    record: Record
    near: list[int]
    weights: list[float]


class Maps:
    """The maps of a store's collections; what takes long is kept in `folder`.

    Every call raises NotFound, Busy and what a budget raises; those that are given a `state` raise
    Conflict if it is no state of the collection, or too old.
    """

    def __init__(self, store: VectorStore, folder: Path) -> None:
        self._store, self._files = store, MapFiles(folder)

    def picture(self, name: str, budget: Budget = UNBOUNDED) -> Picture:
        """Return the map of a collection, of `MOST` records by chance if it has more."""
        state = self._now(name, budget)
        return self._kept(state) or self._make(name, state, budget)

    def groups(self, name: str, state: str, budget: Budget = UNBOUNDED) -> tuple[list[str], Any]:
        """Return the names of the groups that lie together, and the group of each point (n,)."""
        picture = self._picture(name, state, budget)
        found = self._files.load(state, "groups")
        if found is None:
            with self._vectors(name, picture, budget) as vectors:
                rows = directions(vectors)
                of = clusters.group(rows, self._near(state, rows, budget), budget)
            read = clusters.members(of)
            ids = [picture.ids[at] for at in read.tolist()]
            read_now = self._read(name, ids, ["text"], budget)
            texts = {each.id: (each.text or "")[: clusters.CHARACTERS] for each in read_now}
            named = clusters.names([texts.get(id_, "") for id_ in ids], of[read].tolist())
            found = {"of": of, "names": _packed(named)}
            self._files.save(state, "groups", found)
        return _unpacked(found["names"]), found["of"]

    def neighbours(
        self, name: str, state: str, start: int, most: int, budget: Budget = UNBOUNDED
    ) -> tuple[int, Neighbours]:
        """Return how many points there are, and the neighbours of some from `start` on."""
        picture = self._picture(name, state, budget)
        n, part = len(picture.ids), f"neighbours.{start}"
        if start and start >= n:
            raise Invalid(f"start: the map has {n} points", param="start")
        found = None if start % PART else self._files.load(state, part)
        if found is not None and len(found["indices"]) <= most:
            return n, Neighbours(start, found["indices"], found["distances"])
        with self._vectors(name, picture, budget) as vectors:
            some = nearest(directions(vectors), start, min(most, PART), budget)
        if not start % PART and len(some.indices) == min(PART, n - start):  # few files can be made
            self._files.save(state, part, {"indices": some.indices, "distances": some.distances})
        return n, some

    def _near(self, state: str, rows: Points, budget: Budget) -> NDArray[np.uint32]:
        """Return the neighbours of all points (n, k); those that are not kept are found now."""
        parts = []
        for start in range(0, len(rows), PART):
            kept = self._files.load(state, f"neighbours.{start}")
            parts.append((kept or vars(nearest(rows, start, PART, budget)))["indices"])
        return np.concatenate(parts) if parts else np.empty((0, 0), np.uint32)

    def metadata(
        self, name: str, state: str, budget: Budget = UNBOUNDED, most: int = MOST
    ) -> Iterator[dict[str, Any]]:
        """Yield the metadata of each point, or of `most` by chance; {} for what was deleted."""
        ids = self._picture(name, state, budget).ids
        if len(ids) > most:
            ids = random.Random(0).sample(ids, most)
        for start in range(0, len(ids), PAGE):
            some = ids[start : start + PAGE]
            found = {record.id: record for record in self._read(name, some, ["metadata"], budget)}
            for id_ in some:
                yield (found[id_].metadata or {}) if id_ in found else {}

    def lay_out(self, name: str, state: str, points: Points, budget: Budget = UNBOUNDED) -> None:
        """Keep where the points lie by their neighbours, for all who look next.

        Raises Invalid, and Conflict for the state before a change even while it is kept.
        """
        if state != self._now(name, budget):
            raise _changed(name)
        n = len(self._picture(name, state, budget).ids)
        if points.shape != (n, 2):
            raise Invalid(f"points: the map has {n}, of two numbers each", param="points")
        if not (np.abs(points) <= 1).all():  # nor NaN
            raise Invalid("points: each number is from -1 to 1", param="points")
        shown = self._files.load(state, "points")
        told_apart = _places(points if shown is None else shown["points"])
        # Half, as neighbours that differ little may come to lie in one place.
        if (there := _places(points)) < min(told_apart, max(2, told_apart / 2)):
            raise Invalid(
                f"points: they lie in {there} places, where the principal components tell "
                f"{told_apart} apart",
                param="points",
            )
        self._files.save(state, "layout", {"points": points.astype(np.float32)})

    def place(
        self, name: str, state: str, ids: Sequence[str], budget: Budget = UNBOUNDED
    ) -> list[Placed]:
        """Return where the existing records of `ids` lie: at their points, or between the nearest.

        A record beyond the map whose nearest are all beyond it too lies nowhere, and is left out.
        """
        picture = self._picture(name, state, budget)
        at = {id_: place for place, id_ in enumerate(picture.ids)}
        wanted = list(dict.fromkeys(ids))
        records = self._store.get(name, wanted, ["text"], budget)
        beyond = [record.id for record in records if record.id not in at]
        between = self._between(name, beyond, at, budget) if beyond else {}
        placed = []
        for record in records:
            if (own := at.get(record.id)) is not None:
                placed.append(Placed(record, [own], [1.0]))
            elif near := between.get(record.id):
                placed.append(Placed(record, *near))
        return placed

    def forget(self, uuid: str) -> None:
        """Remove what is kept of a collection, which is being deleted."""
        self._files.forget(uuid)

    # ---- which state

    def _now(self, name: str, budget: Budget) -> str:
        version = self._store.version(name, budget)
        mark = hashlib.sha256(f"{RECIPE} {MOST} {NUMBERS_MOST} {version}".encode()).hexdigest()
        return f"{self._store.identity(name).uuid}-{mark[:16]}"

    def _picture(self, name: str, state: str, budget: Budget) -> Picture:
        """Return the map that a page has. Raises Conflict if it is not kept and not made again."""
        found = STATE.fullmatch(state)
        if found and found[1] == self._store.identity(name).uuid:
            if kept := self._kept(state):
                return kept
            if state == self._now(name, budget):
                return self._make(name, state, budget)
        raise _changed(name)

    def _kept(self, state: str) -> Picture | None:
        found = self._files.load(state, "points")
        if found is None:
            return None
        layout = self._files.load(state, "layout")
        points = found["points"] if layout is None else layout["points"]
        first, second = found["explained"].tolist()
        total, ids = int(found["total"]), _unpacked(found["ids"])
        return Picture(state, ids, points, layout is not None, (first, second), total)

    def _make(self, name: str, state: str, budget: Budget) -> Picture:
        dim, total = self._store.identity(name).dim, self._store.count(name, budget=budget)
        most = max(1, min(MOST, NUMBERS_MOST // dim))
        with _one_at_a_time(min(most, total) * dim, budget):
            ids, vectors = self._all(name, self._store.sample(name, most, budget), budget)
            plane = project(vectors, budget)
        points = {"points": plane.points, "explained": np.array(plane.explained),
                  "total": np.array(total), "ids": _packed(ids)}  # fmt: skip
        self._files.save(state, "points", points)
        return Picture(state, ids, plane.points, False, plane.explained, total)

    # ---- reading

    @contextmanager
    def _vectors(self, name: str, picture: Picture, budget: Budget) -> Iterator[Points]:
        """Give the vectors of a map's points (n, d), to be changed at will. One at a time."""
        numbers = len(picture.ids) * self._store.identity(name).dim
        with _one_at_a_time(numbers, budget):
            ids, vectors = self._all(name, picture.ids, budget)
            if len(ids) < len(picture.ids):
                raise _changed(name)
            yield vectors

    def _all(self, name: str, ids: Sequence[str], budget: Budget) -> tuple[list[str], Points]:
        """Return those of the ids that exist, and their vectors (n, d)."""
        found: list[str] = []
        vectors = np.empty((len(ids), self._store.identity(name).dim), np.float32)
        for record in self._read(name, ids, ["vector"], budget):
            vectors[len(found)] = record.vector
            found.append(record.id)
        return found, vectors[: len(found)]

    def _read(
        self, name: str, ids: Sequence[str], include: Sequence[Part], budget: Budget
    ) -> Iterator[Record]:
        """Yield the existing records, some at a time. They are not replied, so not metered."""
        step = min(PAGE, max(1, NUMBERS // self._store.identity(name).dim))
        for start in range(0, len(ids), step):
            budget.check()
            some = ids[start : start + step]
            yield from self._store.get(name, some, include, budget.unmetered())

    def _between(
        self, name: str, ids: Sequence[str], at: dict[str, int], budget: Budget
    ) -> dict[str, tuple[list[int], list[float]]]:
        """Return the nearest points of the map to each record, with weights."""
        records = list(self._read(name, ids, ["vector"], budget))
        if not records:
            return {}
        vectors = np.stack([np.asarray(record.vector) for record in records])
        found = self._store.search(name, vectors, AMONG, include=(), budget=budget.unmetered()).hits
        between = {}
        for record, hits in zip(records, found, strict=True):
            near = [(at[hit.id], hit.score) for hit in hits if hit.id in at][:NEAR]
            weights = [math.exp(4 * (score - near[0][1])) for _, score in near]
            if near:
                between[record.id] = [i for i, _ in near], [w / sum(weights) for w in weights]
        return between


def _changed(name: str) -> Conflict:
    return Conflict(f"collection {name!r} has changed: read its map again", param="state")


def _places(points: Points) -> int:
    """Return in how many places points (n, 2) lie, as far apart as a reply tells them."""
    return len(np.unique(points.round(4), axis=0))


@contextmanager
def _one_at_a_time(numbers: int, budget: Budget) -> Iterator[None]:
    budget.check()
    if numbers <= SMALL:
        yield
        return
    if not (_turn.acquire(blocking=False) or _waited(budget)):
        raise Busy("another map is being made: ask again", retry_after_s=2)
    try:
        yield
    finally:
        _turn.release()


def _waited(budget: Budget) -> bool:
    """Wait for the turn, unless enough others do; return whether it came."""
    if not _waiting.acquire(blocking=False):
        return False
    try:
        end = time.monotonic() + TURN_S
        while time.monotonic() < end:
            budget.check()
            if _turn.acquire(timeout=STEP_S):
                return True
        return False
    finally:
        _waiting.release()


def _packed(texts: Sequence[str]) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(texts).encode(), np.uint8)


def _unpacked(packed: NDArray[Any]) -> list[str]:
    found: list[str] = json.loads(packed.tobytes())
    return found
