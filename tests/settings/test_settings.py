"""Settings on each of the three databases: what is stored, told, refused, undone."""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

import errors
from config import Config, load_config
from config.addresses import driver_url
from settings import Settings, State, open_settings
from settings.keys import KEYS
from settings.storage import Storage
from sql.database import Database
from sql.tables import HISTORY, SETTINGS
from tests.settings.conftest import Steps


@pytest.fixture
def opened(db_url: str) -> Iterator[Callable[..., Settings]]:
    """Open the settings of one database as often as there are workers."""
    found: list[Settings] = []

    def make(**config: Any) -> Settings:
        given = {"db_url": db_url, "use_db_settings": True, **config}
        found.append(open_settings(Config.model_validate(given)))
        return found[-1]

    yield make
    for settings in found:
        settings.stop()


def test_a_change_is_had_at_once_and_by_the_next_start(opened: Callable[..., Settings]) -> None:
    first = opened(max_texts=7)
    assert first.current.max_texts == 7 and first.degraded is None
    first.change({"max_texts": 9, "cors_origins": ["http://a.example"]}, "ann")
    assert first.current.max_texts == 9
    later = opened(max_texts=7)
    assert later.current.max_texts == 9 and later.current.cors_origins == ("http://a.example",)
    assert later.describe("max_texts")["source"] == "database"


def test_a_revert_brings_back_the_environment_then_the_default(
    opened: Callable[..., Settings],
) -> None:
    settings = opened(max_texts=7)
    settings.change({"max_texts": 9, "truncate": "error"}, "ann")
    settings.revert("max_texts", "ann")
    settings.revert("truncate", "ann")
    assert (settings.current.max_texts, settings.current.truncate) == (7, "auto")
    assert settings.describe("max_texts")["source"] == "environment"
    assert settings.describe("truncate")["source"] == "default"


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("max_batch_size", 0, "1 to 65536"),
        ("max_batch_size", True, "of type int"),
        ("max_batch_size", 1.5, "int"),
        ("max_texts", None, "cannot be null"),
        ("max_batch_size", [1], "1 to 65536"),
        ("normalize_embeddings", 1, "of type bool"),
        ("device", "tpu", "cpu, cuda, cuda:N, mps or auto"),
        ("dtype", "int4", "float16, or int8"),
        ("truncate", "middle", "right"),
        ("cors_origins", ["example.org"], "scheme://"),
        ("cors_origins", {"a": 1}, "Comma list"),
        ("log_level", "LOUD", "DEBUG, INFO"),
        ("model_name", "", "printable"),
        ("model_name", "a\nb", "printable"),
        ("port", 65536, "1 to 65535"),
    ],
)
def test_a_bad_value_is_refused_with_what_is_allowed(key: str, value: object, allowed: str) -> None:
    settings = Settings(Config())
    with pytest.raises(errors.Invalid) as caught:
        settings.change({"max_texts": 5, key: value}, "ann")
    assert allowed in caught.value.message and caught.value.param == key
    assert settings.state.version == 0 and settings.current.max_texts == 2048


def test_an_unknown_key_is_not_found() -> None:
    with pytest.raises(errors.NotFound, match="max_texts"):
        Settings(Config()).change({"colour": 1}, "ann")


def test_every_key_takes_back_the_value_it_shows() -> None:
    settings = Settings(Config())
    for key in KEYS:
        settings.change({key: settings.describe(key)["value"]}, "ann")


@pytest.mark.parametrize("key", KEYS)
def test_the_values_that_a_setting_tells_are_those_it_takes(key: str) -> None:
    """A person chooses among them in the console, so each must work and no other may."""
    settings = Settings(Config())
    told = settings.describe(key)
    one = (lambda value: [value]) if told["type"] == "list" else (lambda value: value)
    for value in (*(told["choices"] or ()), *(told["examples"] or ())):
        settings.change({key: one(value)}, "ann")
    step = 1 if told["type"] == "int" else 1e-6
    least, above, most = told["minimum"], told["above"], told["maximum"]
    inside = [least, most, None if above is None else above + step]
    outside: list[Any] = [None if least is None else least - step, above]
    outside += [None if most is None else most + step, told["choices"] and one("LOUD")]
    for value in inside:
        if value is not None:
            settings.change({key: value}, "ann")
    for value in outside:
        if value is not None:
            with pytest.raises(errors.Invalid):
                settings.change({key: value}, "ann")
    counts = told["type"] in ("int", "float")
    assert counts == (least is not None or above is not None)
    assert (told["unit"] is not None) == (counts and key != "port")


def test_history_and_rollback(opened: Callable[..., Settings]) -> None:
    settings = opened()
    settings.change({"max_texts": 1}, "ann")
    settings.change({"max_texts": 2, "truncate": "left"}, "bob", "bulk")
    settings.revert("truncate", "cy")
    entries = [(c.version, c.who, c.action) for c in settings.history(10)]
    assert entries == [(3, "cy", "revert"), (2, "bob", "bulk"), (1, "ann", "set")]
    assert settings.history(10)[1].changes == {
        "max_texts": ("1", "2"),
        "truncate": (None, '"left"'),
    }
    settings.rollback(None, "dee")
    assert settings.current.truncate == "left"
    settings.rollback(1, "dee")
    assert (settings.current.max_texts, settings.current.truncate) == (1, "auto")
    settings.rollback(0, "dee")
    assert settings.state.stored == {}
    for impossible in (-1, settings.state.version, 99):
        with pytest.raises(errors.Invalid):
            settings.rollback(impossible, "dee")


def test_what_needs_a_restart_waits_for_it(opened: Callable[..., Settings]) -> None:
    settings = opened(port=8001)
    settings.change({"port": 9000}, "ann")
    row = settings.describe("port")
    assert (row["value"], row["restart_required"]) == (9000, True)
    assert settings.current.port == 8001
    after = opened(port=8001)
    assert after.current.port == 9000 and not after.describe("port")["restart_required"]


@pytest.mark.fault("Models and devices")
def test_of_two_changes_at_once_one_wins(opened: Callable[..., Settings]) -> None:
    """Two changes of settings at once -> one is made, the other is 409.

    Both have read the same version when they write.
    """
    workers = [opened(), opened()]
    both = threading.Barrier(2, timeout=30)

    def meet(old: State, new: State) -> Steps:
        both.wait()
        return Steps()

    results: list[object] = []

    def change(settings: Settings, value: int) -> None:
        settings.bind(meet)
        try:
            results.append(settings.change({"max_texts": value}, "ann").version)
        except errors.Conflict:
            results.append("conflict")

    threads = [threading.Thread(target=change, args=(w, i)) for i, w in enumerate(workers, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(map(str, results)) == ["1", "conflict"]
    assert len(opened().history(9)) == 1


def test_a_second_change_in_the_same_worker_is_a_conflict() -> None:
    settings = Settings(Config())

    def again(old: State, new: State) -> Steps:
        with pytest.raises(errors.Conflict, match="already"):
            settings.change({"max_texts": 4}, "bob")
        return Steps()

    settings.bind(again)
    settings.change({"max_texts": 3}, "ann")
    assert settings.current.max_texts == 3


@pytest.mark.fault("Models and devices")
def test_what_cannot_be_applied_is_not_stored(opened: Callable[..., Settings]) -> None:
    """A settings change to a model that does not load -> refused with a reason, not stored."""
    settings = opened()

    def refuse(old: State, new: State) -> Steps:
        raise errors.Invalid("no such model")

    settings.bind(refuse)
    with pytest.raises(errors.Invalid):
        settings.change({"model_name": "no/such"}, "ann")
    assert opened().state.version == 0 and settings.current.model is None


def test_what_cannot_be_stored_is_not_applied(opened: Callable[..., Settings]) -> None:
    settings, other, steps = opened(), opened(), Steps()

    def prepare(old: State, new: State) -> Steps:
        other.change({"max_texts": 8}, "bob")  # takes the version first
        return steps

    settings.bind(prepare)
    with pytest.raises(errors.Conflict):
        settings.change({"max_texts": 9}, "ann")
    assert steps.taken == ["abort"] and settings.current.max_texts == 2048
    settings.bind(lambda old, new: steps)
    settings.change({"max_texts": 9}, "ann")
    assert steps.taken == ["abort", "commit"] and settings.current.max_texts == 9


@pytest.mark.fault("The SQL database")
def test_illegal_rows_are_ignored_with_a_line_in_the_log(
    opened: Callable[..., Settings], db_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A row holds an illegal setting -> ignored, with a line in the log."""
    opened().change({"max_texts": 5}, "ann")
    database = Database(db_url)
    rows = [("max_batch_size", "0"), ("device", "{bad"), ("colour", '"red"'), ("Port", "1")]
    database.write(
        lambda c: c.execute(SETTINGS.insert(), [{"key": k, "value": v} for k, v in rows])
    )
    database.close()
    with caplog.at_level(logging.WARNING):
        settings = opened()
    assert settings.current.max_texts == 5 and settings.current.max_batch_size is None
    for key, _ in rows:
        assert f"'{key}' is ignored" in caplog.text
    settings.change({"max_batch_size": 6}, "ann")
    assert opened().current.max_batch_size == 6


def test_many_workers_may_make_the_tables_at_once(db_url: str) -> None:
    storages = [Storage(Database(db_url)) for _ in range(4)]
    ready = threading.Barrier(4, timeout=30)
    versions: list[int] = []

    def look(storage: Storage) -> None:
        ready.wait()
        versions.append(storage.version())
        storage.close()

    threads = [threading.Thread(target=look, args=(storage,)) for storage in storages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert versions == [0] * 4


def test_memory_and_sql_store_alike(db_url: str) -> None:
    for storage in (Storage(), Storage(Database(db_url))):
        storage.write(0, {"a": (None, "1"), "b": (None, "2")}, "ann", "bulk")
        storage.write(1, {"a": ("1", None), "b": ("2", "3")}, "bob", "set")
        assert storage.read() == (2, {"b": "3"})
        assert [c.version for c in storage.history(1)] == [2]
        assert [c.version for c in storage.history(9, after=1)] == [2]
        with pytest.raises(errors.Conflict):
            storage.write(1, {"a": (None, "1")}, "cy", "set")
        storage.close()


def test_without_sql_several_workers_refuse_changes() -> None:
    with pytest.raises(errors.Conflict, match="EMBEDDING_USE_DB_SETTINGS=true"):
        Settings(Config(max_workers=2)).change({"max_texts": 3}, "ann")


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("mysql+aiomysql://u:p%40ss@h/d", "mysql+pymysql"),
        ("mariadb://u:p%40ss@h/d", "mysql+pymysql"),
        ("postgresql+asyncpg://u:p%40ss@h/d", "postgresql+psycopg"),
        ("postgres://u:p%40ss@h/d", "postgresql+psycopg"),
        ("sqlite+aiosqlite:///x.db", "sqlite"),
    ],
)
def test_asynchronous_drivers_mean_those_we_have(given: str, driver: str) -> None:
    url = driver_url(given)
    assert url.drivername == driver and url.password in ("p@ss", None)


@pytest.mark.parametrize("given", ["oracle://u:secret@h/d", "secret"])
def test_a_url_that_is_no_use_is_refused_without_its_password(given: str) -> None:
    with pytest.raises(SystemExit) as caught:
        load_config({"EMBEDDING_DB_URL": given})
    assert "EMBEDDING_DB_URL" in str(caught.value) and "secret" not in str(caught.value)


def test_the_tables_hold_json(opened: Callable[..., Settings], db_url: str) -> None:
    opened().change({"model_name": "向量 '; DROP TABLE settings; --"}, "änn")
    database = Database(db_url)
    row = database.read(lambda c: c.execute(sa.select(HISTORY)).one())
    database.close()
    assert json.loads(row.changes)["model_name"][1] and row.who == "änn"
