"""The catalogue of names: random changes against a dict, and look-ups that are never stale."""

import itertools
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from errors import Busy, Conflict, NotFound, ServiceError
from sql.database import Database, PoolOptions
from store import Item, Written
from store.catalog import Catalog, Entry, schema
from store.file import FileStore
from tests.servers.postgres import Postgres

TARGETS, MOVES, READERS = 7, 150, 4


class Names:
    """Rows of no collection: what the catalogue asked of them."""

    def __init__(self) -> None:
        self.live: set[str] = set()

    def make(self, connection: sa.Connection, entry: Entry) -> None:
        self.live.add(entry.uuid)

    def remove(self, connection: sa.Connection, entry: Entry) -> None:
        assert entry.uuid in self.live

    def removed(self, entry: Entry) -> None:
        self.live.discard(entry.uuid)

    @contextmanager
    def without_writers(self, connection: sa.Connection, *entries: Entry) -> Iterator[None]:
        assert {entry.uuid for entry in entries} <= self.live
        yield

    def count(self, connection: sa.Connection | None, entry: Entry) -> int:
        return 0


def opened(url: str, rows: Names | None = None, most: int | None = None) -> Catalog:
    return Catalog(Database(url, schema()), rows or Names(), most)


class Model:
    """What a catalogue is, as two dicts."""

    def __init__(self) -> None:
        self.collections: dict[str, int] = {}
        self.aliases: dict[str, str] = {}
        self.numbers = itertools.count()

    def meant(self, name: str) -> str:
        name = self.aliases.get(name, name)
        if name not in self.collections:
            raise NotFound(name)
        return name

    def own(self, name: str) -> int:
        if name in self.aliases:
            raise Conflict(name)
        return self.collections[self.meant(name)]

    def free(self, name: str) -> None:
        if name in self.collections or name in self.aliases:
            raise Conflict(name)

    def create(self, name: str) -> None:
        self.free(name)
        self.collections[name] = next(self.numbers)

    def drop(self, name: str) -> None:
        self.own(name)
        del self.collections[name]
        self.aliases = {a: to for a, to in self.aliases.items() if to != name}

    def rename(self, name: str, new: str) -> None:
        self.own(name)
        if name != new:
            self.free(new)
            self.collections[new] = self.collections.pop(name)
            self.aliases = {a: new if to == name else to for a, to in self.aliases.items()}

    def swap(self, name: str, other: str) -> None:
        one, two = self.own(name), self.own(other)
        self.collections[name], self.collections[other] = two, one

    def alias(self, alias: str, name: str) -> None:
        meant = self.meant(name)
        if alias in self.collections:
            raise Conflict(alias)
        self.aliases[alias] = meant

    def unalias(self, alias: str) -> None:
        if alias not in self.aliases:
            raise NotFound(alias)
        del self.aliases[alias]


ANY = st.sampled_from(["a", "b", "c", "x"])


class Changes(RuleBasedStateMachine):
    """Each change is made to both; both refuse the same, and then mean the same."""

    url: str
    changed: Callable[[Catalog], None] = lambda catalog: None

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.model = Names(), Model()
        self.catalogs = [opened(self.url, self.rows) for _ in range(2)]
        for name in self.catalogs[0].names():
            self.rows.live.add(self.catalogs[0].look_up(name).uuid)
            self.catalogs[0].drop(name)
        self.uuids: dict[int, str] = {}
        self.turns = itertools.cycle(self.catalogs)  # what one changes the other sees

    def teardown(self) -> None:
        for catalog in self.catalogs:
            catalog.close()

    def same(self, operation: str, *names: str) -> None:
        outcomes: list[Any] = []
        extra = (3,) if operation == "create" else ()
        for side, more in ((self.model, ()), (next(self.turns), extra)):
            try:
                getattr(side, operation)(*names, *more)
                outcomes.append(None)
            except ServiceError as error:
                outcomes.append(type(error))
        assert outcomes[0] == outcomes[1]

    @rule(name=ANY)
    def create(self, name: str) -> None:
        self.same("create", name)
        if name in self.model.collections:
            number, uuid = self.model.collections[name], self.catalogs[0].look_up(name).uuid
            assert self.uuids.setdefault(number, uuid) == uuid

    @rule(name=ANY)
    def drop(self, name: str) -> None:
        self.same("drop", name)

    @rule(name=ANY, new=ANY)
    def rename(self, name: str, new: str) -> None:
        self.same("rename", name, new)

    @rule(name=ANY, other=ANY)
    def swap(self, name: str, other: str) -> None:
        self.same("swap", name, other)

    @rule(alias=ANY, name=ANY)
    def alias(self, alias: str, name: str) -> None:
        self.same("alias", alias, name)

    @rule(alias=ANY)
    def unalias(self, alias: str) -> None:
        self.same("unalias", alias)

    @invariant()
    def they_mean_the_same(self) -> None:
        model = self.model
        for catalog in self.catalogs:
            for name in ("a", "b", "c", "x"):
                try:
                    expected = self.uuids[model.collections[model.meant(name)]]
                except NotFound:
                    assert catalog.writable(name) == (None, False)
                    with pytest.raises(NotFound):
                        catalog.look_up(name)
                else:
                    assert catalog.writable(name) == (expected, False)
                    assert catalog.look_up(name).uuid == expected
        found = self.catalogs[0].collections()
        assert [info.name for info in found] == self.catalogs[1].names()
        assert {info.name: set(info.aliases) for info in found} == {
            name: {a for a, to in model.aliases.items() if to == name} for name in model.collections
        }
        assert self.catalogs[0].uuids() == self.rows.live


@pytest.fixture(params=["files", "postgres"])
def url(request: pytest.FixtureRequest, memory_path: Path) -> str:
    if request.param == "files":
        return f"sqlite:///{memory_path}/catalog.db"
    return request.getfixturevalue("postgres").database()


def run(
    url: str, machine: type[Changes], examples: int, phases: Sequence[Phase] = tuple(Phase)
) -> None:
    test = type("ChangesThere", (machine,), {"url": url}).TestCase
    test.settings = settings(
        max_examples=examples, stateful_step_count=15, deadline=None,
        suppress_health_check=list(HealthCheck), database=None, phases=phases,
    )  # fmt: skip
    test("runTest").debug()


def test_random_changes_agree_with_a_dict(url: str) -> None:
    run(url, Changes, 15 if url.startswith("sqlite") else 5)


def test_the_comparison_can_fail(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: an alias that stays when it is removed."""
    monkeypatch.setattr(Catalog, "unalias", lambda self, alias: None)
    with pytest.raises(AssertionError):
        run(f"sqlite:///{memory_path}/catalog.db", Changes, 50, [Phase.generate])


def looked_up_wrongly(url: str) -> list[str]:
    """Move an alias and swap two names while threads look both up; return what was stale.

    After `done` changes were answered and with `begun` begun, a reader may see the state after any
    number between the two, and no other. Half of the readers have the catalogue open themselves.
    """
    rows = Names()
    mine, other = opened(url, rows), opened(url, rows)
    for i in range(TARGETS):
        mine.create(f"c{i}", 3)
    pair = [mine.create(name, 3)[0].uuid for name in ("x", "y")]
    mine.alias("now", "c0")
    begun = done = 0
    wrong: list[str] = []
    start = threading.Barrier(READERS + 1)

    def read(catalog: Catalog) -> None:
        start.wait()
        while done < MOVES and not wrong:
            for name in ("now", "x"):
                least = done
                entry = catalog.look_up(name)
                states = range(least, begun + 1)
                right = (
                    entry.name in [f"c{state % TARGETS}" for state in states]
                    if name == "now"
                    else entry.uuid in [pair[state % 2] for state in states]
                )
                if not right:
                    wrong.append(f"{name} is {entry} after {least} to {states.stop - 1}")

    threads = [threading.Thread(target=read, args=((mine, other)[i % 2],)) for i in range(READERS)]
    for thread in threads:
        thread.start()
    start.wait()
    for move in range(1, MOVES + 1):
        begun = move
        (mine, other)[move % 3 == 0].alias("now", f"c{move % TARGETS}")
        (mine, other)[move % 2].swap("x", "y")
        done = move
    for thread in threads:
        thread.join()
    mine.close()
    other.close()
    return wrong


def test_a_name_is_never_looked_up_as_it_was_before(memory_path: Path) -> None:
    assert looked_up_wrongly(f"sqlite:///{memory_path}/catalog.db") == []


def test_it_is_where_the_file_is_not_looked_at(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control for the test above."""
    monkeypatch.setattr(Database, "version", lambda self: (1, 1))
    assert looked_up_wrongly(f"sqlite:///{memory_path}/catalog.db") != []


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = opened(f"sqlite:///{tmp_path}/catalog.db", most=3)
    yield made
    made.close()


def test_so_many_collections_and_no_more(catalog: Catalog) -> None:
    for name in "abc":
        catalog.create(name, 3)
    with pytest.raises(Conflict, match="MAX_COLLECTIONS"):
        catalog.create("d", 3)
    catalog.drop("a")
    catalog.create("d", 3)


def test_a_change_that_fails_leaves_the_names_as_they_were(catalog: Catalog) -> None:
    made, _ = catalog.create("a", 3)

    def refuse(*_: object) -> None:
        raise OSError("no room")

    for operation in ("make", "remove"):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError):
            patch.setattr(catalog.rows, operation, refuse)
            catalog.create("b", 3) if operation == "make" else catalog.drop("a")
        assert catalog.names() == ["a"] and catalog.look_up("a").uuid == made.uuid


def test_one_name_is_read_after_a_change_not_all_of_them(tmp_path: Path) -> None:
    """Of many collections only those that are asked for are read again."""
    url = f"sqlite:///{tmp_path}/catalog.db"
    catalog, reads = opened(url), list[str]()
    for i in range(5):
        catalog.create(f"c{i}", 3)
    database = catalog._database

    @sa.event.listens_for(database.engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, *_: object) -> None:
        reads.append(statement)

    for _ in range(10):
        catalog.look_up("c1")
    assert len(reads) == 2  # BEGIN and one row
    catalog.alias("x", "c2")
    del reads[:]
    for _ in range(10):
        assert catalog.look_up("x").name == "c2"
    assert len(reads) == 2
    catalog.close()


def test_a_stopped_change_means_busy_and_delays_no_look_up(tmp_path: Path) -> None:
    """Another process holds the file in the middle of a change."""
    url = f"sqlite:///{tmp_path}/catalog.db"
    first = opened(url)
    first.create("a", 3)
    catalog = Catalog(Database(url, schema(), PoolOptions(patience_s=0.2)), Names())
    with first._database.engine.connect() as holder:
        driver: Any = holder.connection.driver_connection
        driver.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        assert catalog.look_up("a").dim == 3 and catalog.info("a").count == 0
        assert time.monotonic() - began < 0.2
        with pytest.raises(Busy):
            catalog.create("b", 3)
        driver.execute("ROLLBACK")
    assert catalog.look_up("a").dim == 3
    first.close()
    catalog.close()


# -- names and files -------------------------------------------------------------------------------


def item(id_: str) -> list[Item]:
    return [Item(id_, np.ones(3, np.float32))]


@pytest.mark.parametrize("change", ["swap", "rename", "alias", "drop"])
def test_no_write_is_acknowledged_into_what_its_name_no_longer_means(
    tmp_path: Path, change: str
) -> None:
    """A writer begins once the change has waited for those before it, and is slow to commit."""
    with FileStore(tmp_path) as store:
        old, _ = store.create("a", 3)
        store.create("b", 3)
        store.alias("x", "a")
        name = "x" if change == "alias" else "a"
        changes, answered = threading.Event(), threading.Event()
        outcome: list[Any] = []

        def write() -> None:
            changes.wait(10)
            try:
                outcome.append(store.upsert(name, item("w")))
            except ServiceError as error:
                outcome.append(error)

        def slow(connection: Any, cursor: Any, statement: str, *_: object) -> None:
            if statement.startswith(("UPDATE", "DELETE")) and not changes.is_set():
                changes.set()
                time.sleep(0.3)  # the writer is at it

        with store.files.using(store.catalog.look_up("a")) as collection:
            check = collection.may_write

            def late(name: str) -> None:
                check(name)
                answered.wait(3)

            collection.may_write = late
        sa.event.listen(store._database.engine, "before_cursor_execute", slow)
        writer = threading.Thread(target=write)
        writer.start()
        if change == "drop":
            store.drop("a")
        elif change == "alias":
            store.alias("x", "b")
        else:
            getattr(store, change)("a", "b" if change == "swap" else "c")
        answered.set()
        writer.join()
        assert changes.is_set()
        if change in ("drop", "rename"):
            assert isinstance(outcome[0], NotFound | Conflict)
            return
        assert outcome == [Written(1, 0)]
        assert [r.id for r in store.get(name, ["w"])] == ["w"]
        assert store.identity(name).uuid != old.uuid


def test_a_reader_looks_a_name_up_again_where_its_collection_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look-up and the opening another process replaces the collection."""
    with FileStore(tmp_path) as mine, FileStore(tmp_path) as other:
        mine.create("a", 3)
        using = mine.files.using
        replaced = 0

        def late(entry: Entry) -> Any:
            nonlocal replaced
            if replaced < 2:
                replaced += 1
                other.create("b", 3)
                other.upsert("b", item(f"i{replaced}"))
                other.swap("a", "b")
                other.drop("b")
                mine.files.close()  # what is open may be read to the end
            return using(entry)

        monkeypatch.setattr(mine.files, "using", late)
        query = np.ones((1, 3), np.float32)
        reads: list[Callable[[], list[str]]] = [
            lambda: [hit.id for hit in mine.search("a", query).hits[0]],
            lambda: [record.id for record in mine.scroll("a").records],
            lambda: [record.id for record in mine.get("a", ["i2"])],
            lambda: ["i2"] * mine.info("a").count,
        ]
        for read in reads:
            replaced = 0
            assert read() == ["i2"] and replaced == 2
        other.drop("a")
        with pytest.raises(NotFound, match="no collection 'a'"):
            mine.count("a")


def test_a_create_that_cannot_be_committed_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalogue's log reaches the limit on the size of files at the commit."""
    with FileStore(tmp_path) as store:
        for i in range(30):
            store.alias(f"x{i}", store.create("a", 3, if_exists="ok")[0].name)
        limits, made = resource.getrlimit(resource.RLIMIT_FSIZE), list[Path]()
        make = store.files.make

        def note(connection: sa.Connection, entry: Entry) -> None:
            make(connection, entry)
            made.extend((tmp_path / "c").iterdir())
            size = (tmp_path / "catalog.db-wal").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))

        monkeypatch.setattr(store.files, "make", note)
        try:
            with pytest.raises(ServiceError) as refused:
                store.create("b", 3)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert refused.value.code in ("store_full", "full", "unavailable")
        assert len(made) == 2 and len(list((tmp_path / "c").iterdir())) == 1
        monkeypatch.undo()
        assert store.names() == ["a"] and store.create("b", 3)[1]


def test_a_collection_whose_folder_is_gone_can_be_dropped(tmp_path: Path) -> None:
    with FileStore(tmp_path) as store:
        for name in ("a", "b"):
            store.create(name, 3)
            store.upsert(name, item("i"))
        shutil.rmtree(tmp_path / "c" / store.identity("a").uuid)
    with FileStore(tmp_path) as store:
        store.alias("x", "a")
        store.drop("a")
        assert store.names() == ["b"] and [each.name for each in store.collections()] == ["b"]


def test_a_description_is_read_again_only_after_a_change(tmp_path: Path) -> None:
    with FileStore(tmp_path) as store:
        store.create("a", 3)
        reads: list[str] = []

        @sa.event.listens_for(store._database.engine, "before_cursor_execute")
        def note(connection: Any, cursor: Any, statement: str, *_: object) -> None:
            reads.append(statement)

        assert store.info("a").count == 0
        del reads[:]
        store.upsert("a", item("i"))
        assert store.info("a").count == 1 and store.collections()[0].count == 1
        del reads[:]
        assert store.info("a").aliases == store.collections()[0].aliases == () and not reads
        store.alias("x", "a")
        assert store.info("a").aliases == store.collections()[0].aliases == ("x",)


def test_on_postgresql_names_are_looked_up_in_the_database(postgres: Postgres) -> None:
    assert looked_up_wrongly(postgres.database()) == []
