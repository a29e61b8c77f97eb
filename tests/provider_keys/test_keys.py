"""Keys go in, come out for the provider alone, and lie encrypted in between."""

import itertools
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from accounts.provider_keys import ProviderKeys, Seal, last_four
from config import ConfigError, load_config
from config.models import MAKE_FERNET_KEY
from errors import Conflict, Invalid, NotFound, Unavailable
from tests.provider_keys.conftest import OTHER, SECRET, A, B
from tests.servers.postgres import Postgres

Make = Callable[..., ProviderKeys]


def test_it_works(keys_of: Make, any_url: str) -> None:
    keys = keys_of(any_url)
    assert keys.get_key("openai") is None
    keys.store("openai", SECRET)
    assert keys.get_key("openai") == SECRET
    assert keys.get_key("cohere") is None
    state = keys.state("openai")
    assert (state.source, state.last_four, state.problem) == ("stored", SECRET[-4:], None)


def test_a_stored_key_goes_before_the_environments(keys_of: Make, any_url: str) -> None:
    keys = keys_of(any_url, openai=OTHER)
    assert (keys.get_key("openai"), keys.state("openai").source) == (OTHER, "environment")
    keys.store("openai", SECRET)
    assert (keys.get_key("openai"), keys.state("openai").source) == (SECRET, "stored")
    keys.remove("openai")
    assert (keys.get_key("openai"), keys.state("openai").source) == (OTHER, "environment")
    assert keys.state("cohere").source == "none"
    with pytest.raises(NotFound):
        keys.remove("openai")


def test_a_new_key_is_used_by_every_worker_from_the_next_request(
    keys_of: Make, any_url: str
) -> None:
    workers = [keys_of(any_url) for _ in range(3)]
    for worker, key in zip(itertools.cycle(workers), [SECRET, OTHER, SECRET, OTHER], strict=False):
        worker.store("openai", key)
        assert [each.get_key("openai") for each in workers] == [key] * 3
    workers[0].remove("openai")
    assert [each.get_key("openai") for each in workers] == [None] * 3


def files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())


def test_the_database_files_hold_no_key(keys_of: Make, url: str, tmp_path: Path) -> None:
    keys = keys_of(url)
    for key in (OTHER, SECRET):
        keys.store("openai", key)
    held = files(tmp_path)
    assert b"openai" in held  # it is there that it lies
    for key in (SECRET, OTHER):
        for part in (key, key[:-4], key[8:20]):
            assert part.encode() not in held
    assert A.encode() not in held
    raw = apsw.Connection(str(tmp_path / "keys.db"))  # the control: it would be seen
    raw.execute("UPDATE provider_keys SET secret = ?", (SECRET,))
    raw.close()
    assert SECRET.encode() in files(tmp_path)


@pytest.mark.fault("Providers")
def test_no_log_and_no_repr_holds_a_key(
    keys_of: Make, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A provider's key is stored -> no message and no log holds it."""
    with caplog.at_level(logging.DEBUG):
        keys = keys_of(url, "no Fernet key but one of more than 32 bytes")
        keys.store("openai", SECRET)
        keys.get_key("openai")
        for bad in ("", " ", "a b", "schlüssel", "x" * 5000, "a\nb"):
            with pytest.raises(Invalid) as caught:
                keys.store("openai", bad)
            assert not bad.strip() or bad not in str(caught.value)
    told = caplog.text + repr(keys) + repr(keys.state("openai")) + repr(vars(keys._seal))
    for secret in (SECRET, "no Fernet key but one of more than 32 bytes"):
        assert secret not in told


def test_blanks_around_a_key_do_not_count(keys_of: Make, url: str) -> None:
    keys = keys_of(url)
    keys.store("openai", f" {SECRET}\n")
    assert keys.get_key("openai") == SECRET


@pytest.mark.parametrize(("key", "told"), [("short", None), ("x" * 15, None), (SECRET, "QWER")])
def test_a_short_keys_last_characters_are_not_told(key: str, told: str | None) -> None:
    assert last_four(key) == told


# -- the keys that encrypt -------------------------------------------------------------------------


@pytest.mark.fault("Providers")
def test_rotation_encrypts_anew_at_the_start(keys_of: Make, any_url: str) -> None:
    """`ENCRYPTION_KEY` has a new key before the old one -> stored keys are encrypted again at the
    start.
    """
    keys_of(any_url, A).store("openai", SECRET)
    keys_of(any_url, f"{B}, {A}")
    only_b = keys_of(any_url, B)
    assert only_b.get_key("openai") == SECRET
    assert keys_of(any_url, A).state("openai").problem is not None


def test_without_the_start_in_between_the_old_key_is_still_needed(keys_of: Make, url: str) -> None:
    """The control of the rotation."""
    keys_of(url, A).store("openai", SECRET)
    assert keys_of(url, B).get_key("openai") is None


def test_many_workers_may_rotate_at_once(keys_of: Make, any_url: str) -> None:
    first = keys_of(any_url, A)
    for name in ("openai", "cohere", "azure"):
        first.store(name, f"{SECRET}-{name}")
    start, failures = threading.Barrier(4), []

    def work() -> None:
        start.wait()
        try:
            keys_of(any_url, f"{B},{A}")
        except Exception as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for name in ("openai", "cohere", "azure"):
        assert keys_of(any_url, B).get_key(name) == f"{SECRET}-{name}"


def test_many_workers_may_store_at_once(keys_of: Make, any_url: str) -> None:
    vaults = [keys_of(any_url) for _ in range(4)]
    start, failures = threading.Barrier(4), []

    def work(keys: ProviderKeys, key: str) -> None:
        start.wait()
        try:
            keys.store("openai", key)
        except Exception as exc:
            failures.append(exc)

    keys = [f"{SECRET}{i}" for i in range(4)]
    threads = [threading.Thread(target=work, args=pair) for pair in zip(vaults, keys, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len({keys.get_key("openai") for keys in vaults} & set(keys)) == 1


@pytest.mark.fault("Providers")
def test_a_lost_key_is_told_and_mended_by_storing_anew(
    keys_of: Make, any_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """`ENCRYPTION_KEY` is lost -> the service starts; the provider's key is reported as unreadable
    until it is stored again.
    """
    keys_of(any_url, A).store("openai", SECRET)
    later = keys_of(any_url, B, openai=OTHER)
    assert "the stored key of openai cannot be decrypted" in caplog.text
    state = later.state("openai")
    assert state.problem is not None and "ENCRYPTION_KEY" in state.problem
    assert (later.get_key("openai"), state.source) == (OTHER, "environment")
    later.store("openai", SECRET)
    assert later.get_key("openai") == SECRET
    assert later.state("openai").problem is None


def test_the_encryption_key_taken_away_is_told_too(keys_of: Make, url: str) -> None:
    keys_of(url, A).store("openai", SECRET)
    without = keys_of(url, None)
    assert without.get_key("openai") is None
    assert without.state("openai").problem is not None
    without.remove("openai")
    assert without.state("openai").problem is None


def test_without_an_encryption_key_a_key_is_refused_with_what_makes_one(
    keys_of: Make, url: str
) -> None:
    with pytest.raises(Conflict) as caught:
        keys_of(url, None).store("openai", SECRET)
    assert caught.value.message.endswith(MAKE_FERNET_KEY)
    command = MAKE_FERNET_KEY.replace("python ", f"{sys.executable} ")
    made = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    keys = keys_of(url, made.stdout.strip())
    keys.store("openai", SECRET)
    assert keys.get_key("openai") == SECRET


def test_any_string_makes_a_key_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    sealed = Seal(["a string"]).encrypt("openai", SECRET)
    assert "no Fernet key" in caplog.text
    assert Seal(["a string"]).decrypt("openai", sealed) == SECRET
    assert Seal(["another"]).decrypt("openai", sealed) is None
    caplog.clear()
    Seal([A])
    assert not caplog.text


def test_what_was_sealed_by_an_earlier_version_opens() -> None:
    """Kept from the first version: the derivation and the form may never change."""
    assert Seal(["a string"]).decrypt("openai", EARLIER) == "sk-kept"


EARLIER = (
    "gAAAAABrAOkDJToe3Sn3lY4k-43VnbQ9Ywahn9Vzde4ROkBpMmAFksDv6ILRxxzXlcThLKd01OrhkN6a"
    "EfJOUqm9NwqUB3C3lYoM05Vm_Gxu-S8_FS4eO6o="
)


def test_a_secret_moved_to_another_row_does_not_open() -> None:
    seal = Seal([A])
    assert seal.decrypt("cohere", seal.encrypt("openai", SECRET)) is None


@pytest.mark.parametrize("damaged", ["", "x", "gAAAA", SECRET, "ü", "[]"])
def test_a_damaged_secret_does_not_open(damaged: str) -> None:
    assert Seal([A]).decrypt("openai", damaged) is None


GUESSED = ("x", "31-bytes-are-not-enough-for-thi", "your-encryption-key-goes-here-please-now",
           f"{A},your-old-key", f"x,{A}", f"{A},,y")  # fmt: skip


@pytest.mark.fault("Providers")
@pytest.mark.parametrize("key", [*GUESSED])
@pytest.mark.parametrize("signs_in", [True, False])
def test_an_encryption_key_that_can_be_guessed_stops_the_start(key: str, signs_in: bool) -> None:
    """An `ENCRYPTION_KEY` of one character, or an example's, also in a list -> the start ends and
    says what to do.
    """
    auth = {"AUTH_ENABLED": "true", "JWT_SECRET_KEY": "k" * 40} if signs_in else {}
    with pytest.raises(ConfigError, match="ENCRYPTION_KEY must have at least 32 bytes") as caught:
        load_config({**auth, "ENCRYPTION_KEY": key}, Path("/nonexistent"))
    assert "make one with" in str(caught.value).lower()
    assert len(key) < 5 or key not in str(caught.value)
    load_config({**auth, "ENCRYPTION_KEY": f"{A}, {B}"}, Path("/nonexistent"))


# -- the database away -----------------------------------------------------------------------------


def test_with_the_database_away_the_last_known_key_serves(
    keys_of: Make, postgres: Postgres
) -> None:
    with Postgres() as server:
        keys = keys_of(server.database(), openai=OTHER)
        keys._database.breaker.pauses = (0.05,)
        keys.store("openai", SECRET)
        server.kill()
        for _ in range(5):
            assert keys.get_key("openai") == SECRET
        with pytest.raises(Unavailable):
            keys.store("openai", OTHER)
        assert keys.state("openai").problem == "the SQL database failed (Unavailable)"
        server.start()
        end = time.monotonic() + 90
        while keys.state("openai").problem is not None:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert keys.get_key("openai") == SECRET
        keys.close()


def test_a_database_that_hangs_is_waited_for_once(keys_of: Make, postgres: Postgres) -> None:
    with Postgres() as server:
        keys = keys_of(server.database())
        keys._database.breaker.pauses = (60,)
        keys.store("openai", SECRET)
        server.pause()
        assert keys.get_key("openai") == SECRET
        tried: list[object] = []
        keys._database.read = tried.append  # type: ignore[method-assign,assignment]
        for _ in range(100):
            assert keys.get_key("openai") == SECRET
        assert not tried
        server.resume()
        keys.close()


@pytest.mark.fault("The SQL database")
def test_the_service_starts_without_its_database(keys_of: Make) -> None:
    """The database is down at the start -> the service starts, and `degraded` says so."""
    keys = keys_of("postgresql://nobody@127.0.0.1:1/none", openai=OTHER)
    assert keys.get_key("openai") == OTHER
    assert keys.state("openai").problem == "the SQL database failed (Unavailable)"


def test_no_file_is_made_for_nothing(keys_of: Make, url: str, tmp_path: Path) -> None:
    assert keys_of(url, None, openai=OTHER).get_key("openai") == OTHER
    assert not list(tmp_path.iterdir())
