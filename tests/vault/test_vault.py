"""Keys go in, come out for the provider alone, and lie encrypted in between."""

import itertools
import logging
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from accounts.provider_keys import Vault, last_four
from accounts.sealing import Seal
from config import ConfigError, load_config
from config.vault import MAKE_ONE
from errors import Conflict, Invalid, NotFound, Unavailable
from tests.servers.postgres import Postgres
from tests.vault.conftest import OTHER, SECRET, A, B

Make = Callable[..., Vault]


def test_it_works(vault_of: Make, any_url: str) -> None:
    vault = vault_of(any_url)
    assert vault.get_key("openai") is None
    vault.store("openai", SECRET)
    assert vault.get_key("openai") == SECRET
    assert vault.get_key("cohere") is None
    state = vault.state("openai")
    assert (state.source, state.last_four, state.problem) == ("stored", SECRET[-4:], None)


def test_a_stored_key_goes_before_the_environments(vault_of: Make, any_url: str) -> None:
    vault = vault_of(any_url, openai=OTHER)
    assert (vault.get_key("openai"), vault.state("openai").source) == (OTHER, "environment")
    vault.store("openai", SECRET)
    assert (vault.get_key("openai"), vault.state("openai").source) == (SECRET, "stored")
    vault.remove("openai")
    assert (vault.get_key("openai"), vault.state("openai").source) == (OTHER, "environment")
    assert vault.state("cohere").source == "none"
    with pytest.raises(NotFound):
        vault.remove("openai")


def test_a_new_key_is_used_by_every_worker_from_the_next_request(
    vault_of: Make, any_url: str
) -> None:
    workers = [vault_of(any_url) for _ in range(3)]
    for worker, key in zip(itertools.cycle(workers), [SECRET, OTHER, SECRET, OTHER], strict=False):
        worker.store("openai", key)
        assert [each.get_key("openai") for each in workers] == [key] * 3
    workers[0].remove("openai")
    assert [each.get_key("openai") for each in workers] == [None] * 3


def files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())


def test_the_database_files_hold_no_key(vault_of: Make, url: str, tmp_path: Path) -> None:
    vault = vault_of(url)
    for key in (OTHER, SECRET):
        vault.store("openai", key)
    held = files(tmp_path)
    assert b"openai" in held  # it is there that it lies
    for key in (SECRET, OTHER):
        for part in (key, key[:-4], key[8:20]):
            assert part.encode() not in held
    assert A.encode() not in held
    with sqlite3.connect(tmp_path / "vault.db") as raw:  # the control: it would be seen
        raw.execute("UPDATE provider_keys SET secret = ?", (SECRET,))
    raw.close()
    assert SECRET.encode() in files(tmp_path)


@pytest.mark.fault("Providers")
def test_no_log_and_no_repr_holds_a_key(
    vault_of: Make, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A provider's key is stored -> no message and no log holds it."""
    with caplog.at_level(logging.DEBUG):
        vault = vault_of(url, "no Fernet key but one of more than 32 bytes")
        vault.store("openai", SECRET)
        vault.get_key("openai")
        for bad in ("", " ", "a b", "schlüssel", "x" * 5000, "a\nb"):
            with pytest.raises(Invalid) as caught:
                vault.store("openai", bad)
            assert not bad.strip() or bad not in str(caught.value)
    told = caplog.text + repr(vault) + repr(vault.state("openai")) + repr(vars(vault._seal))
    for secret in (SECRET, "no Fernet key but one of more than 32 bytes"):
        assert secret not in told


def test_blanks_around_a_key_do_not_count(vault_of: Make, url: str) -> None:
    vault = vault_of(url)
    vault.store("openai", f" {SECRET}\n")
    assert vault.get_key("openai") == SECRET


@pytest.mark.parametrize(("key", "told"), [("short", None), ("x" * 15, None), (SECRET, "QWER")])
def test_a_short_keys_last_characters_are_not_told(key: str, told: str | None) -> None:
    assert last_four(key) == told


# -- the keys that encrypt -------------------------------------------------------------------------


@pytest.mark.fault("Providers")
def test_rotation_encrypts_anew_at_the_start(vault_of: Make, any_url: str) -> None:
    """`ENCRYPTION_KEY` has a new key before the old one -> stored keys are encrypted again at the
    start.
    """
    vault_of(any_url, A).store("openai", SECRET)
    vault_of(any_url, f"{B}, {A}")
    only_b = vault_of(any_url, B)
    assert only_b.get_key("openai") == SECRET
    assert vault_of(any_url, A).state("openai").problem is not None


def test_without_the_start_in_between_the_old_key_is_still_needed(vault_of: Make, url: str) -> None:
    """The control of the rotation."""
    vault_of(url, A).store("openai", SECRET)
    assert vault_of(url, B).get_key("openai") is None


def test_many_workers_may_rotate_at_once(vault_of: Make, any_url: str) -> None:
    first = vault_of(any_url, A)
    for name in ("openai", "cohere", "azure"):
        first.store(name, f"{SECRET}-{name}")
    start, failures = threading.Barrier(4), []

    def work() -> None:
        start.wait()
        try:
            vault_of(any_url, f"{B},{A}")
        except Exception as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for name in ("openai", "cohere", "azure"):
        assert vault_of(any_url, B).get_key(name) == f"{SECRET}-{name}"


def test_many_workers_may_store_at_once(vault_of: Make, any_url: str) -> None:
    vaults = [vault_of(any_url) for _ in range(4)]
    start, failures = threading.Barrier(4), []

    def work(vault: Vault, key: str) -> None:
        start.wait()
        try:
            vault.store("openai", key)
        except Exception as exc:
            failures.append(exc)

    keys = [f"{SECRET}{i}" for i in range(4)]
    threads = [threading.Thread(target=work, args=pair) for pair in zip(vaults, keys, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len({vault.get_key("openai") for vault in vaults} & set(keys)) == 1


@pytest.mark.fault("Providers")
def test_a_lost_key_is_told_and_mended_by_storing_anew(
    vault_of: Make, any_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """`ENCRYPTION_KEY` is lost -> the service starts; the provider's key is said to be unreadable
    until it is stored again.
    """
    vault_of(any_url, A).store("openai", SECRET)
    later = vault_of(any_url, B, openai=OTHER)
    assert "the stored key of openai cannot be decrypted" in caplog.text
    state = later.state("openai")
    assert state.problem is not None and "ENCRYPTION_KEY" in state.problem
    assert (later.get_key("openai"), state.source) == (OTHER, "environment")
    later.store("openai", SECRET)
    assert later.get_key("openai") == SECRET
    assert later.state("openai").problem is None


def test_the_encryption_key_taken_away_is_told_too(vault_of: Make, url: str) -> None:
    vault_of(url, A).store("openai", SECRET)
    without = vault_of(url, None)
    assert without.get_key("openai") is None
    assert without.state("openai").problem is not None
    without.remove("openai")
    assert without.state("openai").problem is None


def test_without_an_encryption_key_a_key_is_refused_with_what_makes_one(
    vault_of: Make, url: str
) -> None:
    with pytest.raises(Conflict) as caught:
        vault_of(url, None).store("openai", SECRET)
    assert caught.value.message.endswith(MAKE_ONE)
    command = MAKE_ONE.replace("python ", f"{sys.executable} ")
    made = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    vault = vault_of(url, made.stdout.strip())
    vault.store("openai", SECRET)
    assert vault.get_key("openai") == SECRET


def test_any_string_makes_a_key_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    sealed = Seal(["a string"]).close("openai", SECRET)
    assert "no Fernet key" in caplog.text
    assert Seal(["a string"]).open("openai", sealed) == SECRET
    assert Seal(["another"]).open("openai", sealed) is None
    caplog.clear()
    Seal([A])
    assert not caplog.text


def test_what_was_sealed_by_an_earlier_version_opens() -> None:
    """Kept from the first version: the derivation and the form may never change."""
    assert Seal(["a string"]).open("openai", EARLIER) == "sk-kept"


EARLIER = (
    "gAAAAABrAOkDJToe3Sn3lY4k-43VnbQ9Ywahn9Vzde4ROkBpMmAFksDv6ILRxxzXlcThLKd01OrhkN6a"
    "EfJOUqm9NwqUB3C3lYoM05Vm_Gxu-S8_FS4eO6o="
)


def test_a_secret_moved_to_another_row_does_not_open() -> None:
    seal = Seal([A])
    assert seal.open("cohere", seal.close("openai", SECRET)) is None


@pytest.mark.parametrize("damaged", ["", "x", "gAAAA", SECRET, "ü", "[]"])
def test_a_damaged_secret_does_not_open(damaged: str) -> None:
    assert Seal([A]).open("openai", damaged) is None


GUESSED = ("x", "31-bytes-are-not-enough-for-thi", "your-encryption-key-goes-here-please-now",
           f"{A},your-old-key", f"x,{A}", f"{A},,y")  # fmt: skip


@pytest.mark.fault("Providers")
@pytest.mark.parametrize("key", [*GUESSED])
@pytest.mark.parametrize("signs_in", [True, False])
def test_an_encryption_key_that_can_be_guessed_stops_the_start(key: str, signs_in: bool) -> None:
    """An `ENCRYPTION_KEY` of one character, or an example's, also among others -> the start ends
    and says what to do.
    """
    auth = {"AUTH_ENABLED": "true", "JWT_SECRET_KEY": "k" * 40} if signs_in else {}
    with pytest.raises(ConfigError, match="ENCRYPTION_KEY must have at least 32 bytes") as caught:
        load_config({**auth, "ENCRYPTION_KEY": key}, Path("/nonexistent"))
    assert "make one with" in str(caught.value).lower()
    assert len(key) < 5 or key not in str(caught.value)
    load_config({**auth, "ENCRYPTION_KEY": f"{A}, {B}"}, Path("/nonexistent"))


# -- the database away -----------------------------------------------------------------------------


def test_with_the_database_away_the_last_known_key_serves(
    vault_of: Make, postgres: Postgres
) -> None:
    with Postgres() as server:
        vault = vault_of(server.database(), openai=OTHER)
        vault._guard._pause_s = 0.05
        vault.store("openai", SECRET)
        server.kill()
        for _ in range(5):
            assert vault.get_key("openai") == SECRET
        with pytest.raises(Unavailable):
            vault.store("openai", OTHER)
        assert vault.state("openai").problem == "the database failed (Unavailable)"
        server.start()
        end = time.monotonic() + 30
        while vault.state("openai").problem is not None:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert vault.get_key("openai") == SECRET
        vault.close()


def test_a_database_that_hangs_is_waited_for_once(vault_of: Make, postgres: Postgres) -> None:
    with Postgres() as server:
        vault = vault_of(server.database())
        vault._guard._pause_s = 60
        vault.store("openai", SECRET)
        server.pause()
        assert vault.get_key("openai") == SECRET
        tried: list[object] = []
        vault._read = tried.append  # type: ignore[assignment]
        for _ in range(100):
            assert vault.get_key("openai") == SECRET
        assert not tried
        server.resume()
        vault.close()


@pytest.mark.fault("The SQL database")
def test_the_service_starts_without_its_database(vault_of: Make) -> None:
    """The database is down at the start -> the service starts, and `degraded` says so."""
    vault = vault_of("postgresql://nobody@127.0.0.1:1/none", openai=OTHER)
    assert vault.get_key("openai") == OTHER
    assert vault.state("openai").problem == "the database failed (Unavailable)"


def test_no_file_is_made_for_nothing(vault_of: Make, url: str, tmp_path: Path) -> None:
    assert vault_of(url, None, openai=OTHER).get_key("openai") == OTHER
    assert not list(tmp_path.iterdir())
