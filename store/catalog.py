"""Which collections there are, under which names and aliases; a small journal of changes.

A change is one record: names and aliases with what they now stand for, None for those that go. So
several change in one step or not at all. Names never reach the file system: folders are uuids.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from errors import Conflict, NotFound
from store.base import Metric
from store.frames import HEADER, Frame, encode_record, records
from store.fs import FS, failures, make_folders
from store.journal import Journal, write_generation
from store.ledger import Ledger, Options
from store.unpickle import dumps, loads
from store.values import brief

COMPACT_BYTES = 1 << 20


@dataclass(frozen=True)
class Entry:
    """One collection's line in the catalogue."""

    uuid: str
    dim: int
    metric: Metric
    model: str | None
    fingerprint: str | None
    created: float
    indexed: tuple[str, ...] = ()  # catalogues of an older version lack it


Patch = dict[str, Entry | None]


@dataclass(frozen=True)
class Seen:
    """The names as they were at one length of one journal; its dicts never change."""

    journal: Journal
    end: int
    entries: dict[str, Entry]
    aliases: dict[str, str]

    def newest(self) -> bool:
        """Tell whether nothing has been written since."""
        return not self.journal.replaced() and self.journal.size() == self.end


class Catalog(Ledger):
    """The names, shared with every process that has the folder open."""

    def __init__(self, fs: FS, folder: Path, options: Options) -> None:
        super().__init__(fs, folder, options)
        self.entries: dict[str, Entry] = {}
        self.aliases: dict[str, str] = {}
        self._seen: Seen | None = None

    def make(self) -> None:
        """Write an empty catalogue, unless another process has."""
        make_folders(self.fs, self.folder)
        with self._flock.held(self.options.lock_timeout_s), failures("make the catalogue"):
            there = (self.folder / "MANIFEST").exists()
            # A journal without a manifest is one being made, or one whose manifest was lost.
            lost = any(j.stat().st_size > len(HEADER) for j in self.folder.glob("journal.*"))
            if not there and not lost:
                write_generation(self.fs, self.folder, {"v": 1, "gen": 0}, [])

    def load(self, journal: Journal, exclusive: bool) -> bool:
        """Start over."""
        self.entries, self.aliases = {}, {}
        for frame in journal.new_frames():
            self.apply(frame)
        return True

    def apply(self, frame: Frame) -> None:
        """Take in a change."""
        for _, pickled, _ in records(frame):
            change = loads(pickled)
            for name, entry in change["collections"].items():
                self.entries.pop(name, None)
                if entry is not None:
                    self.entries[name] = Entry(**entry)
            for alias, name in change["aliases"].items():
                self.aliases.pop(alias, None)
                if name is not None:
                    self.aliases[alias] = name

    def _catch_up(self, exclusive: bool) -> bool:
        done, seen = super()._catch_up(exclusive), self._seen
        journal = self.journal
        if journal and not (seen and seen.journal is journal and seen.end == journal.end):
            self._seen = Seen(journal, journal.end, dict(self.entries), dict(self.aliases))
        return done

    def look_up(self, name: str) -> tuple[str, Entry]:
        """Return a collection's own name and entry, by name or alias, as they are on the disk.

        Takes no lock while nothing has changed: every call on the store comes through here.
        """
        seen = self._newest()
        own = seen.aliases.get(name, name)
        if own not in seen.entries:
            raise NotFound(f"there is no collection {name!r}")
        return own, seen.entries[own]

    def has(self, name: str) -> bool:
        """Tell whether a collection of that very name is on the disk."""
        return name in self._newest().entries

    def _newest(self) -> Seen:
        seen = self._seen
        with failures("read"):
            newest = seen is not None and seen.newest()
        if not newest:
            with self.current():
                seen = self._seen
        assert seen is not None
        return seen

    def close(self) -> None:
        """Let go of the files."""
        self._seen = None
        super().close()

    def change(
        self, journal: Journal, collections: Patch, aliases: dict[str, str | None] | None = None
    ) -> None:
        """Make a change durable. Inside `exclusive`."""
        payload = _record(collections, aliases or {})
        journal.append(payload, "always", self.step)
        with self.state:
            self._catch_up(exclusive=True)
            if journal.size() > COMPACT_BYTES:
                with failures("compact the catalogue"):
                    now: Patch = dict(self.entries)
                    whole = [_record(now, dict(self.aliases))]
                    manifest = journal.manifest | {"gen": journal.generation + 1}
                    write_generation(self.fs, self.folder, manifest, whole)
                    self.fs.unlink(journal.path)

    # -- asking; inside `current` or `exclusive` -------------------------------------------------

    def resolve(self, name: str) -> str:
        """Return the collection that a name or an alias stands for."""
        target = self.aliases.get(name, name)
        if target not in self.entries:
            raise NotFound(f"there is no collection {name!r}")
        return target

    def find(self, name: str) -> Entry | None:
        """Return the collection of a name or alias, if there is one."""
        return self.entries.get(self.aliases.get(name, name))

    def own(self, name: str) -> Entry:
        """Return a collection by its own name. Raises Conflict for an alias."""
        if name in self.aliases:
            raise Conflict(f"{name!r} is an alias: name the collection itself, or unalias it")
        return self.entries[self.resolve(name)]

    def free(self, name: str) -> None:
        """Raise Conflict if a name is taken."""
        if name in self.entries:
            raise Conflict(f"a collection {name!r} is there already")
        if name in self.aliases:
            raise Conflict(f"{name!r} is an alias already")

    def aliases_of(self, name: str) -> tuple[str, ...]:
        """Return a collection's aliases, in order."""
        return tuple(sorted(alias for alias, target in self.aliases.items() if target == name))


def agree(there: Entry, wanted: Entry, name: str) -> None:
    """Raise Conflict unless a collection can stand in for the one that was asked for."""
    if (there.dim, there.metric) != (wanted.dim, wanted.metric):
        raise Conflict(
            f"collection {name!r} is there already, with dim {there.dim} and metric {there.metric}"
        )
    if wanted.indexed and set(there.indexed) != set(wanted.indexed):
        known = brief(list(there.indexed))
        raise Conflict(f"collection {name!r} is there already, with {known} as indexed fields")
    stamped(there, name, wanted.model, wanted.fingerprint)


def stamped(entry: Entry, name: str, model: str | None, fingerprint: str | None) -> Entry:
    """Return an entry with its model recorded. Raises Conflict when it is another's."""
    for what, has, wants in (
        ("model", entry.model, model),
        ("fingerprint", entry.fingerprint, fingerprint),
    ):
        if has is not None and wants is not None and has != wants:
            raise Conflict(
                f"collection {name!r} holds vectors of {what} {has!r}, not {wants!r}; "
                "make another collection, or re-embed this one"
            )
    return replace(entry, model=entry.model or model, fingerprint=entry.fingerprint or fingerprint)


def _record(collections: Patch, aliases: dict[str, Any]) -> bytes:
    entries = {name: entry and asdict(entry) for name, entry in collections.items()}
    return encode_record(dumps({"k": "names", "collections": entries, "aliases": aliases}))
