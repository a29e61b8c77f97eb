"""The names of a file store: making, finding, renaming and dropping its collections.

    STORE_DIR/catalog/   which collections there are (store/catalog.py)
    STORE_DIR/c/<uuid>/  one collection (store/collection.py)
    STORE_DIR/trash/     dropped collections on their way out
    STORE_DIR/jobs/      notes (store/keyvalue.py)

`FileStore` builds on it and adds what is done with the rows.
"""

import functools
import shutil
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from errors import Busy, Conflict, NotFound
from store import validation
from store.base import (
    CollectionInfo,
    Identity,
    IfExists,
    Metric,
    VectorStore,
    successor,
)
from store.catalog import Catalog, Entry, agree, stamped
from store.collection import Collection
from store.fs import FS, failures, make_folders
from store.journal import Step, no_step
from store.keyvalue import FileNotes
from store.ledger import Options, Syncer
from store.locks import check_folder
from store.validation import Limits, being_replaced, check_uuid


class FileNames(VectorStore):
    """The half of a file store that knows names; the folder is made if it is not there."""

    def __init__(
        self,
        directory: Path,
        *,
        limits: Limits | None = None,
        options: Options | None = None,
        fs: FS | None = None,
        step: Step = no_step,
    ) -> None:
        self.directory, self.limits = Path(directory).absolute(), limits or Limits()
        self.options, self._fs, self._step = options or Options(), fs or FS(), step
        with failures(f"open {self.directory}"):
            make_folders(self._fs, self.directory)
            check_folder(self.directory)
            self._catalog = Catalog(self._fs, self.directory / "catalog", self.options)
            self._catalog.make()
            for name in ("c", "trash"):
                make_folders(self._fs, self.directory / name)
            self._empty_trash()
        self.notes = FileNotes(self.directory / "jobs")
        self._open: dict[str, Collection] = {}
        self._syncer = Syncer(self._open, self.options.sync_interval_s)

    # -- collections -----------------------------------------------------------------------------

    def create(
        self,
        name: str,
        dim: int,
        metric: Metric = "cosine",
        model: str | None = None,
        fingerprint: str | None = None,
        if_exists: IfExists = "error",
        indexed: Sequence[str] = (),
    ) -> tuple[CollectionInfo, bool]:
        """Make an empty collection; also say whether it is new."""
        validation.check_name(name)
        dim, metric = validation.check_dim(dim), validation.check_metric(metric)
        validation.check_label(model, "model")
        validation.check_label(fingerprint, "fingerprint")
        facts = dim, metric, model, fingerprint, time.time(), validation.check_indexed(indexed)
        with self._catalog.exclusive() as journal:
            wanted = Entry(uuid.uuid4().hex, *facts)
            there = None if if_exists == "error" else self._catalog.find(name)
            if there is not None:
                agree(there, wanted, name)
            else:
                self._catalog.free(name)
                with failures("make the collection"):
                    Collection.make(self._fs, self._folder(wanted.uuid), dim, metric)
                    self._fs.sync_folder(self.directory / "c")
                self._catalog.change(journal, {name: wanted})
        return self.info(name), there is None

    def collections(self) -> list[CollectionInfo]:
        """Return every collection, by name."""
        with self._catalog.current():
            entries = sorted(self._catalog.entries.items())
        found = []
        for name, entry in entries:
            try:
                found.append(self._info(name, entry))
            except NotFound:  # dropped meanwhile
                continue
        return found

    def names(self) -> list[str]:
        """Return the collections' names, whatever state their files are in."""
        with self._catalog.current():
            return sorted(self._catalog.entries)

    def identity(self, name: str) -> Identity:
        """Return which collection a name or alias means."""
        own, entry = self._find(name)
        return Identity(own, entry.uuid, entry.dim, entry.metric, entry.model, entry.fingerprint)

    def info(self, name: str) -> CollectionInfo:
        """Return what is known of one collection."""
        return self._info(*self._find(name))

    def drop(self, name: str) -> None:
        """Delete a collection and the aliases that point at it."""
        with self._catalog.exclusive() as journal:
            entry = self._catalog.own(validation.check_name(name))
            gone: dict[str, str | None] = dict.fromkeys(self._catalog.aliases_of(name))
            collection = self._collection(entry)
            trash = self.directory / "trash" / entry.uuid
            with collection.locked():
                self._catalog.change(journal, {name: None}, gone)
                with failures("drop the collection"):
                    self._fs.rename(collection.folder, trash)
        self._open.pop(entry.uuid, None)
        collection.close()
        shutil.rmtree(trash, ignore_errors=True)

    def rename(self, name: str, new_name: str) -> None:
        """Give a collection another name; aliases of the old name follow it."""
        validation.check_name(new_name)
        with self._catalog.exclusive() as journal:
            entry = self._catalog.own(validation.check_name(name))
            if name == new_name:
                return
            self._catalog.free(new_name)
            moved: dict[str, str | None] = dict.fromkeys(self._catalog.aliases_of(name), new_name)
            self._catalog.change(journal, {name: None, new_name: entry}, moved)

    def swap(self, name: str, other: str, uuid: str | None = None) -> None:
        """Exchange the names of two collections in one step."""
        with self._catalog.exclusive() as journal:
            one = self._catalog.own(validation.check_name(name))
            check_uuid(one.uuid, uuid, name)
            two = self._catalog.own(validation.check_name(other))
            self._catalog.change(journal, {name: two, other: one})

    def alias(self, alias: str, name: str) -> None:
        """Point `alias` at a collection, at once if it pointed elsewhere."""
        validation.check_name(alias, "alias")
        with self._catalog.exclusive() as journal:
            target = self._catalog.resolve(validation.check_name(name))
            if alias in self._catalog.entries:
                raise Conflict(f"a collection {alias!r} is there already")
            self._catalog.change(journal, {}, {alias: target})

    def unalias(self, alias: str) -> None:
        """Remove an alias."""
        with self._catalog.exclusive() as journal:
            if validation.check_name(alias, "alias") not in self._catalog.aliases:
                raise NotFound(f"there is no alias {alias!r}")
            self._catalog.change(journal, {}, {alias: None})

    def stamp(self, name: str, model: str, fingerprint: str | None) -> CollectionInfo:
        """Record whose vectors the collection holds, if nothing is recorded yet."""
        validation.check_label(model, "model")
        validation.check_label(fingerprint, "fingerprint")
        _, entry = self._find(name)
        if stamped(entry, name, model, fingerprint) != entry:
            with self._catalog.exclusive() as journal:
                own = self._catalog.resolve(name)
                entry = self._catalog.entries[own]
                now = stamped(entry, name, model, fingerprint)
                if now != entry:
                    self._catalog.change(journal, {own: now})
        return self.info(name)

    def orphans(self) -> list[Path]:
        """Return the folders that belong to no collection: what a kill left, or a restore fills."""
        with self._catalog.exclusive(writable=False):
            known = {entry.uuid for entry in self._catalog.entries.values()}
            return sorted(p for p in (self.directory / "c").iterdir() if p.name not in known)

    def _empty_trash(self) -> None:
        """Remove what a drop that was killed left in the trash."""
        trash = self.directory / "trash"
        if not any(trash.iterdir()):
            return
        with suppress(Busy), self._catalog.locked():  # nothing is being moved there now
            for folder in trash.glob("[0-9a-f]" * 32):  # by the name of a collection's folder
                shutil.rmtree(folder, ignore_errors=True)

    # -- finding ---------------------------------------------------------------------------------

    def _folder(self, uuid_: str) -> Path:
        return self.directory / "c" / uuid_

    def _find(self, name: str) -> tuple[str, Entry]:
        return self._catalog.look_up(validation.check_name(name))

    def _collection(self, entry: Entry) -> Collection:
        collection = self._open.get(entry.uuid)
        if collection is None:
            folder = self._folder(entry.uuid)
            made = Collection(self._fs, folder, self.options, self._step, entry.indexed)
            made.may_write = functools.partial(self._refuse_replaced, entry.uuid)
            collection = self._open.setdefault(entry.uuid, made)
        return collection

    def _refuse_replaced(self, uuid_: str) -> None:
        """Raise Conflict if what will replace a collection is being built."""
        if self._catalog.has(successor(uuid_)):
            raise being_replaced()

    def _info(self, name: str, entry: Entry) -> CollectionInfo:
        count = self._collection(entry).snapshot().count
        with self._catalog.current():
            aliases = self._catalog.aliases_of(name)
        return CollectionInfo(name=name, count=count, aliases=aliases, **asdict(entry))
