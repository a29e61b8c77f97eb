"""FileStore: collections in files of this machine, for any number of threads and processes.

Checks what it is given, finds the collection, and leaves the work to the parts it is made of:
`names` (which collections), `collection` (journal, rows, matrix), `search`, `postings`, `backup`.
"""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from errors import Invalid, NotFound
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
from store.catalog import Entry
from store.filters import parse
from store.fs import failures, size_of
from store.matrix import directions
from store.names import FileNames
from store.search import approximate, candidates, settle, slack
from store.writes import Write, put


class FileStore(FileNames):
    """Collections kept in a folder; open it in as many processes as you like."""

    # -- writing ---------------------------------------------------------------------------------

    def upsert(
        self, name: str, items: Sequence[Item], mode: Mode = "upsert", uuid: str | None = None
    ) -> Written:
        """Write items, all or none."""
        _, entry = self._find(name)
        validation.check_uuid(entry.uuid, uuid, name)
        mode = validation.check_mode(mode)
        rows = validation.check_items(items, entry.dim, entry.metric, self.limits)
        write = put(rows, directions(rows.vectors, entry.metric), mode)
        result = self._write(entry, write)
        assert isinstance(result, Written)
        return result

    def delete(
        self, name: str, ids: Sequence[str] | None = None, filter: object = None,
        budget: Budget = UNBOUNDED,
    ) -> int:  # fmt: skip
        """Delete by ids or by filter; return how many were there."""
        _, entry = self._find(name)
        if (ids is None) == (filter is None):
            raise Invalid("delete takes either ids or a filter", param="ids")
        if ids is not None:
            write = Write(ids=validation.check_ids(ids, self.limits))
        else:
            write = Write(filter=parse(filter), by_filter=True, budget=budget)
            # Decided before others are kept from writing, who then wait for what is new alone.
            self._collection(entry).snapshot(write.filter, budget)
        result = self._write(entry, write)
        assert isinstance(result, int)
        return result

    def wait_for_writers(self, name: str) -> None:
        """Return once every write that began before has ended."""
        _, entry = self._find(name)
        with self._collection(entry).locked():
            pass

    def _write(self, entry: Entry, write: Write) -> Written | int:
        if self.options.fsync == "interval":
            self._syncer.start()
        return self._collection(entry).write(write)

    # -- reading ---------------------------------------------------------------------------------

    def get(
        self, name: str, ids: Sequence[str], include: Sequence[Part] = PARTS,
        budget: Budget = UNBOUNDED,
    ) -> list[Record]:  # fmt: skip
        """Return the records of `ids` that exist, each once, in the order asked."""
        _, entry = self._find(name)
        parts = validation.check_parts(include)
        wanted = validation.check_ids(ids, self.limits)
        snapshot, rows = self._collection(entry).rows_of(list(dict.fromkeys(wanted)), budget)
        found: dict[int, Record] = {}
        with failures("read"):
            for row, record in zip(
                sorted(rows), snapshot.records(sorted(rows), parts), strict=True
            ):
                budget.spend(record)
                found[row] = record
        return [found[row] for row in rows]

    def search(
        self,
        name: str,
        vectors: npt.ArrayLike,
        k: int = 10,
        *,
        filter: object = None,
        min_score: float | None = None,
        offset: int = 0,
        exact: bool = False,
        include: Sequence[Part] = DEFAULT_PARTS,
        without: str | None = None,
        budget: Budget = UNBOUNDED,
    ) -> Found:
        """Return the `k` best records for each of `vectors` (q, d), after skipping `offset`."""
        _, entry = self._find(name)
        k, offset = validation.check_window(k, offset, min_score, self.limits)
        parts, tree = validation.check_parts(include), parse(filter)
        checked = validation.check_queries(vectors, entry.dim, entry.metric, self.limits)
        validation.check_reads(len(checked), k, offset, self.limits)
        queries = directions(checked, entry.metric)
        collection = self._collection(entry)
        shot = collection.snapshot(tree, budget, without)
        margin = slack(queries, collection.norm_bound(shot, budget))
        asked = queries, offset + k, shot.allowed
        graph = None if exact else collection.graph(shot)
        near = None
        if graph is not None:
            near = approximate(graph, shot.matrix, *asked, shot.count, margin, budget)
        per_query = candidates(shot.matrix, *asked, margin, budget) if near is None else near
        hits, read = [], {}  # a row that several queries find is read once
        with failures("read"):
            for query, rows in zip(queries, per_query, strict=True):
                ids, metric = shot.table.ids, entry.metric
                best = settle(shot.matrix, rows, query, ids, metric, offset, k, min_score, budget)
                new = sorted(row for row, _ in best if row not in read)
                for row, record in zip(new, shot.records(new, parts), strict=True):
                    budget.spend(record)
                    read[row] = record
                for row in {row for row, _ in best}.difference(new):
                    budget.spend(read[row])
                hits.append([Hit(**vars(read[row]), score=score) for row, score in best])
        return Found(hits, exact=near is None)

    def scroll(
        self,
        name: str,
        cursor: str | None = None,
        limit: int = 100,
        filter: object = None,
        include: Sequence[Part] = PARTS,
        budget: Budget = UNBOUNDED,
    ) -> Page:
        """Return the next `limit` records by id, after `cursor`."""
        _, entry = self._find(name)
        cursor, limit = validation.check_page(cursor, limit, self.limits)
        parts, tree = validation.check_parts(include), parse(filter)
        snapshot, rows, more = self._collection(entry).rows_after(cursor, limit, tree, budget)
        found: list[Record] = []
        with failures("read"):
            for record in snapshot.records(rows, parts):
                if not budget.fits(record) and found:
                    return Page(found, found[-1].id)
                found.append(record)
        return Page(found, found[-1].id if more else None)

    def count(self, name: str, filter: object = None, budget: Budget = UNBOUNDED) -> int:
        """Return how many records match."""
        _, entry = self._find(name)
        return self._collection(entry).snapshot(parse(filter), budget).count

    def sample(self, name: str, most: int, budget: Budget = UNBOUNDED) -> list[str]:
        """Return up to `most` ids, in order: a random choice that stays while the rows do."""
        _, entry = self._find(name)
        shot = self._collection(entry).snapshot(None, budget)
        live = shot.rows()
        lots = np.random.default_rng(0).random(len(shot.matrix))[live]  # a row keeps its own
        return sorted(shot.table.ids[row] for row in live[lots.argsort()[:most]].tolist())

    # -- keeping ---------------------------------------------------------------------------------

    def backup(self, name: str, to: Path) -> BackupInfo:
        """Write a consistent copy into the new folder `to` while writes go on."""
        own, entry = self._find(name)
        facts = asdict(entry) | {"name": own, "indexed": list(entry.indexed)}
        rows, size = backup.back_up(self._collection(entry), Path(to).absolute(), facts)
        return BackupInfo(Path(to).absolute(), own, rows, size)

    def restore(
        self, source: Path, name: str | None = None, progress: Progress | None = None
    ) -> CollectionInfo:
        """Make a new collection from a backup, which is checked and never trusted."""
        note = backup.read_note(Path(source))
        target = validation.check_name(name or note["name"])
        with self._catalog.current():
            self._catalog.free(target)
        entry = backup.entry_of(note)
        folder = self._folder(entry.uuid)
        try:
            restored = backup.Restored(self._fs, folder, entry, self.options, self.limits)
            restored.fill(Path(source), note, progress)
            with self._catalog.exclusive() as names:
                self._catalog.free(target)
                self._catalog.change(names, {target: entry})
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return self.info(target)

    def verify(self, name: str, progress: Progress | None = None) -> Report:
        """Check everything stored of a collection; change nothing."""
        _, entry = self._find(name)
        rows, problems = repair.verify(self._collection(entry), progress)
        return Report(not problems, rows, tuple(problems))

    def unread(self, name: str) -> str | None:
        """Return why not all of a collection can be read, if so; a glance, not a check."""
        _, entry = self._find(name)
        return repair.problem(self._collection(entry))

    def repair(self, name: str) -> Report:
        """Save what is undamaged, into a new journal; keep the old one beside it."""
        _, entry = self._find(name)
        collection = self._collection(entry)
        stand_in = {"v": 1, "dim": entry.dim, "metric": entry.metric, "boot": ""}
        done = repair.salvage(collection, stand_in)
        wrong = repair.mend(collection)
        if wrong:
            done.append(f"{wrong} rows of the matrix were written anew")
        return Report(True, self.count(name), tuple(done))

    def repair_catalog(self) -> list[str]:
        """Save what is undamaged of the catalogue; return what was done, and what lies idle."""
        done = repair.salvage(self._catalog, {"v": 1, "boot": ""})
        return done + [
            f"{folder} ({size_of(folder):,} bytes) belongs to no collection: a create, drop or "
            "restore was killed there; remove it, unless a restore is under way"
            for folder in self.orphans()
        ]

    def compact(self, name: str, progress: Progress | None = None) -> Report:
        """Give back the space of what was deleted or replaced."""
        _, entry = self._find(name)
        collection = self._collection(entry)
        with collection.exclusive() as journal:
            freed = collection.compact(journal)
            rows = len(collection.table.row_of)
        return Report(True, rows, (), freed)

    def stats(self, name: str | None = None) -> dict[str, Any]:
        """Return figures for operators (JSON-ready)."""
        if name is not None:
            _, entry = self._find(name)
            return self._collection(entry).figures()
        facts: dict[str, Any] = {"directory": str(self.directory), "fsync": self.options.fsync}
        facts |= {"backend": "file", "collections": len(self.names())}
        with failures("measure its folder"):
            free = shutil.disk_usage(self.directory).free
            return facts | {"bytes": size_of(self.directory), "free_bytes": free}

    def close(self) -> None:
        """Bring everything to the disk and let go of the files."""
        self._syncer.stop()
        for collection in list(self._open.values()):
            with suppress(NotFound):  # dropped meanwhile
                collection.sync()
            collection.close()
        self._catalog.close()
