"""FileStore: collections in files of this machine, for any number of threads and processes.

    STORE_DIR/catalog.db         names, aliases, models, declared fields, notes (store/catalog.py)
    STORE_DIR/c/<uuid>/          one collection (store/collection.py)
    STORE_DIR/trash/             what a drop has yet to delete

Checks what it is given, finds the collection, and leaves the work to the parts it is made of.
"""

import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from errors import Invalid, ServiceError
from sql.database import Database, PoolOptions
from sql.tables import ALIASES, COLLECTIONS, NOTES
from store import backup, repair, validation
from store.base import (
    DEFAULT_PARTS,
    PARTS,
    BackupInfo,
    CollectionInfo,
    Found,
    Hit,
    Item,
    Mode,
    Page,
    Part,
    Progress,
    Record,
    Report,
    Written,
)
from store.budget import UNBOUNDED, Budget
from store.catalog import Catalog, schema
from store.catalog_store import CatalogStore
from store.collection import Collection
from store.entry import Entry
from store.filters import parse
from store.keyvalue import KeyValue
from store.local_disk import check_folder, failures, make_folders, size_of
from store.matrix import directions
from store.open_collections import OpenCollections, delete
from store.record_file import Options, Step, no_step
from store.records import damaged, sqlite_version
from store.search import approximate, candidates, settle, slack
from store.validation import Limits
from store.writes import Write, put

log = logging.getLogger("store")

UUID = re.compile(r"[0-9a-f]{32}")

F = TypeVar("F", bound=Callable[..., Any])
LOOKS = 5  # at a name that keeps moving


def _again(call: F) -> F:
    """Return `call`, which looks its name up again if the collection has gone meanwhile."""

    @wraps(call)
    def again(store: "FileStore", name: str, *args: Any, **named: Any) -> Any:
        for _ in range(LOOKS - 1):
            known = store.catalog.recall(name)
            try:
                return call(store, name, *args, **named)
            except ServiceError:
                if store.catalog.look_up(name) == known:
                    raise
        return call(store, name, *args, **named)

    return cast(F, again)


class FileStore(CatalogStore):
    """Collections kept in a folder, which is made if it is missing; any process may open it too."""

    def __init__(
        self,
        directory: Path,
        *,
        limits: Limits | None = None,
        options: Options | None = None,
        max_collections: int | None = None,
        step: Step = no_step,
    ) -> None:
        self.directory, self.limits = Path(directory).absolute(), limits or Limits()
        log.info("the store is %s, kept by SQLite %s", self.directory, sqlite_version())
        self.options = options or Options()
        with failures(f"open {self.directory}"):
            make_folders(self.directory)
            check_folder(self.directory)
            for name in ("c", "trash"):
                make_folders(self.directory / name)
        self.files = OpenCollections(self.directory, self.options, step)
        self._max_collections = max_collections
        self._open_catalog()
        with failures(f"open {self.directory}"):  # what a drop that was killed has left
            names = {path.name.split(".")[0] for path in (self.directory / "trash").iterdir()}
            left = set(filter(UUID.fullmatch, names))  # other files there are not ours
            for uuid in left - self.catalog.uuids() if left else ():
                delete(self.directory, uuid)

    def _open_catalog(self) -> None:
        self._database = Database(
            f"sqlite:///{self.directory / 'catalog.db'}",
            schema(),
            PoolOptions(patience_s=self.options.lock_timeout_s),
        )
        self.catalog = Catalog(self._database, self.files, self._max_collections)
        self.files.writable = self.catalog.writable
        self.notes = KeyValue(self._database)

    @contextmanager
    def _collection(
        self, name: str, entry: Entry | None = None
    ) -> Iterator[tuple[Entry, Collection]]:
        entry = entry or self.catalog.look_up(name)
        with self.files.using(entry) as collection, failures("read"):
            yield entry, collection

    # -- writing ---------------------------------------------------------------------------------

    def upsert(
        self, name: str, items: Sequence[Item], mode: Mode = "upsert", uuid: str | None = None
    ) -> Written:
        """Write items, all or none."""
        # A write looks its name up before it commits, so what was found last will do until then.
        known = self.catalog.recall(name)
        try:
            return self._upsert(known, name, items, mode, uuid)
        except ServiceError:
            now = self.catalog.look_up(name)
            if now == known:
                raise
        return self._upsert(now, name, items, mode, uuid)

    def _upsert(
        self, known: Entry, name: str, items: Sequence[Item], mode: Mode, uuid: str | None
    ) -> Written:
        with self._collection(name, known) as (entry, collection):
            validation.check_uuid(entry.uuid, uuid, name)
            mode = validation.check_mode(mode)
            rows = validation.check_items(items, entry.dim, entry.metric, self.limits)
            self.files.sync_now_and_then()
            result = collection.write(put(name, rows, directions(rows.vectors, entry.metric), mode))
            assert isinstance(result, Written)
            return result

    @_again
    def delete(
        self, name: str, ids: Sequence[str] | None = None, filter: object = None,
        budget: Budget = UNBOUNDED,
    ) -> int:  # fmt: skip
        """Delete by ids or by filter; return how many were there."""
        with self._collection(name) as (_, collection):
            if (ids is None) == (filter is None):
                raise Invalid("delete takes either ids or a filter", param="ids")
            if ids is not None:
                write = Write(name, validation.check_ids(ids, self.limits))
            else:
                tree = parse(filter)
                write = Write(name, filter=tree, by_filter=True, budget=budget)
                # Read before others are kept from writing, who then wait for what is new alone.
                with collection.snapshot(tree, budget):
                    pass
            self.files.sync_now_and_then()
            result = collection.write(write)
            assert isinstance(result, int)
            return result

    # -- reading ---------------------------------------------------------------------------------

    @_again
    def get(
        self, name: str, ids: Sequence[str], include: Sequence[Part] = PARTS,
        budget: Budget = UNBOUNDED,
    ) -> list[Record]:  # fmt: skip
        """Return the records of `ids` that exist, each once, in the order asked."""
        found = []
        with self._collection(name) as (_, collection):
            parts = validation.check_parts(include)
            wanted = validation.check_ids(ids, self.limits)
            with collection.current(budget) as shot:
                for record in shot.named(list(dict.fromkeys(wanted)), parts, budget):
                    budget.spend(record)
                    found.append(record)
        return found

    @_again
    def search(
        self, name: str, vectors: npt.ArrayLike, k: int = 10, *, filter: object = None,
        min_score: float | None = None, exact: bool = False, without: str | None = None,
        offset: int = 0, include: Sequence[Part] = DEFAULT_PARTS, budget: Budget = UNBOUNDED,
    ) -> Found:  # fmt: skip
        """Return the `k` best records for each of `vectors` (q, d), after skipping `offset`."""
        k, offset = validation.check_window(k, offset, min_score, self.limits)
        parts, tree = validation.check_parts(include), parse(filter)
        hits: list[list[Hit]] = []
        read: dict[int, Record] = {}  # a record that several queries find is read once
        with (
            self._collection(name) as (entry, collection),
            collection.snapshot(tree, budget, without) as shot,
        ):
            shot.check_rows()
            checked = validation.check_queries(vectors, entry.dim, entry.metric, self.limits)
            validation.check_reads(len(checked), k, offset, self.limits)
            queries = directions(checked, entry.metric)
            margin = slack(queries, collection.derived.norm_bound(shot, budget))
            asked, near = (queries, offset + k, shot.allowed), None
            if not exact and (graph := collection.graph(shot)):
                near = approximate(graph, shot.matrix, *asked, shot.count, margin, budget)
            per_query = candidates(shot.matrix, *asked, margin, budget) if near is None else near
            for query, places in zip(queries, per_query, strict=True):
                best = settle(
                    shot.matrix, places, query, shot.ids, entry.metric, offset, k, min_score, budget
                )
                new = sorted(place for place, _ in best if place not in read)
                for place, record in shot.records(new, parts, budget):
                    budget.spend(record)
                    read[place] = record
                for place in {place for place, _ in best}.difference(new):
                    budget.spend(read[place])
                hits.append([Hit(**vars(read[place]), score=score) for place, score in best])
        return Found(hits, exact=near is None)

    @_again
    def scroll(
        self, name: str, cursor: str | None = None, limit: int = 100, filter: object = None,
        include: Sequence[Part] = PARTS, budget: Budget = UNBOUNDED,
    ) -> Page:  # fmt: skip
        """Return the next `limit` records by id, after `cursor`."""
        cursor, limit = validation.check_page(cursor, limit, self.limits)
        parts, tree = validation.check_parts(include), parse(filter)
        found: list[Record] = []
        with self._collection(name) as (_, collection), collection.snapshot(tree, budget) as shot:
            ids = shot.after(cursor, limit + 1, budget)
            for record in shot.named(ids[:limit], parts, budget):
                if not budget.fits(record) and found:
                    return Page(found, found[-1].id)
                found.append(record)
            if len(found) < len(ids[:limit]):
                raise damaged(next(iter(set(ids) - {each.id for each in found})), shot.file)
        return Page(found, found[-1].id if len(ids) > limit else None)

    @_again
    def count(self, name: str, filter: object = None, budget: Budget = UNBOUNDED) -> int:
        """Return how many records match."""
        tree = parse(filter)
        with self._collection(name) as (_, collection), collection.snapshot(tree, budget) as shot:
            return shot.count

    @_again
    def sample(
        self, name: str, most: int, budget: Budget = UNBOUNDED, filter: object = None
    ) -> list[str]:
        """Return up to `most` ids that match: a random choice that stays while the rows do."""
        tree = parse(filter)
        with self._collection(name) as (_, collection), collection.snapshot(tree, budget) as shot:
            live = shot.places()
            lots = np.random.default_rng(0).random(len(shot.matrix))[live]  # a row keeps its own
            return sorted(shot.ids(live[lots.argsort()[:most]]))

    @_again
    def version(self, name: str, budget: Budget = UNBOUNDED) -> str:
        """Return a text that changes with every write: rows are only added, or die."""
        with self._collection(name) as (entry, collection), collection.current(budget) as shot:
            return f"{entry.uuid} {shot.generation} {len(shot.matrix)} {shot.count}"

    # -- keeping ---------------------------------------------------------------------------------

    def backup(self, name: str, to: Path) -> BackupInfo:
        """Write a consistent copy into the new folder `to` while writes go on."""
        with self._collection(name) as (entry, collection):
            return backup.back_up(collection, Path(to).absolute(), entry)

    def restore(
        self, source: Path, name: str | None = None, progress: Progress | None = None
    ) -> CollectionInfo:
        """Make a new collection from a backup, which is checked and never trusted."""
        note = backup.read_note(Path(source))
        target = validation.check_name(name or note["name"])
        self.catalog.free(target)
        entry = backup.entry_of(note, target)
        folder = self.files.path(entry.uuid)
        try:
            backup.restore(Path(source), note, folder, entry, self.limits, progress)
            self.catalog.add(entry)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return self.info(target)

    @_again
    def verify(self, name: str, progress: Progress | None = None) -> Report:
        """Check everything stored of a collection; change nothing."""
        with self._collection(name) as (entry, collection):
            rows, problems = repair.verify(collection, entry.dim, progress)
        return Report(not problems, rows, tuple(problems))

    def repair(self, name: str) -> Report:
        """Save what is undamaged into new files; keep the damaged ones in STORE_DIR/damaged."""
        return repair.repair(self.catalog, self.files, name)

    def repair_catalog(self) -> list[str]:
        """Make a damaged catalogue again from what can be read of it and from the collections.

        Stop the service first. Return what was wrong and done, and which folders have no name.
        """
        file = self.directory / "catalog.db"
        problems = repair.problems_of(file)
        if problems:
            entries, aliases, notes = (
                repair.readable(file, table) for table in (COLLECTIONS, ALIASES, NOTES)
            )
            kept = self.directory / "damaged" / f"catalog.{time.time_ns()}"
            self.catalog.close()
            with failures("keep the damaged catalogue"):
                make_folders(kept)
                for path in self.directory.glob("catalog.db*"):
                    path.rename(kept / path.name)
            self._open_catalog()
            for row in entries:
                with suppress(ServiceError):
                    self.catalog.add(Entry(**row | {"indexed": tuple(row["indexed"])}))
            for folder in self.orphans():
                state = repair.state_of(folder / "records.db")
                if state and state.uuid == folder.name:
                    name, facts = f"recovered.{folder.name}", (state.uuid, state.dim, state.metric)
                    self.catalog.add(Entry(name, *facts, None, None, time.time()))
                    problems.append(f"collection {name} has lost its name and model")
            for row in aliases:
                with suppress(ServiceError):
                    self.catalog.alias(row["name"], row["target"])
            for row in notes:
                self.notes.put(row["key"], row["body"])
            problems.append(f"the damaged catalogue is in {kept}")
        return problems + [
            f"{folder} ({size_of(folder):,} bytes) belongs to no collection: a create, drop or "
            "restore was killed there; remove it, unless a restore is under way"
            for folder in self.orphans()
        ]

    def orphans(self) -> list[Path]:
        """Return the folders of no collection: a killed create or restore left them, or a restore
        is filling them.
        """
        known = self.catalog.uuids()
        return sorted(p for p in (self.directory / "c").iterdir() if p.name not in known)

    def compact(self, name: str, progress: Progress | None = None) -> Report:
        """Give back the space of what was deleted or replaced."""
        with self._collection(name) as (_, collection):
            freed = collection.compact()
            freed += collection.records.shrink()
        return Report(True, self.count(name), (), freed)

    def stats(self, name: str | None = None) -> dict[str, Any]:
        """Return figures for operators (JSON-ready)."""
        if name is not None:
            with self._collection(name) as (_, collection):
                return collection.figures()
        with failures("measure its folder"):
            return {
                "directory": str(self.directory), "fsync": self.options.fsync, "backend": "file",
                "sqlite": sqlite_version(), "collections": len(self.names()),
                "bytes": size_of(self.directory),
                "free_bytes": shutil.disk_usage(self.directory).free,
            }  # fmt: skip

    def close(self) -> None:
        """Bring everything to the disk and close the files."""
        self.files.close()
        self.catalog.close()
