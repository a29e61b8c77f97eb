"""The first admin and the files made for it, where not everything can be written."""

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask

import accounts
from accounts import Accounts, _random_password
from config import Config, ConfigError, load_config
from sql.database import Database
from tests.accounts.conftest import SECRET, accounts_of, token_of

READ_ONLY = OSError(errno.EROFS, "Read-only file system")


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def test_the_database_and_its_folder_are_for_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0o000)
    try:
        database = Database(f"sqlite:///{tmp_path}/data/service.db")
        database.make_tables()
        with database.engine.connect().execution_options(writes=True) as connection:
            update = "UPDATE alembic_version SET version_num = '0'"
            connection.exec_driver_sql(update)
            files = list((tmp_path / "data").iterdir())
            assert {file.name[10:] for file in files} == {"", "-wal", "-shm"}
            assert {mode(file) for file in files} == {0o600}
        assert mode(tmp_path / "data") == 0o700
        database.close()
    finally:
        os.umask(before)


def test_a_database_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "service.db"
    file.touch()
    file.chmod(0o640)
    database = Database(f"sqlite:///{file}")
    database.make_tables()
    database.close()
    assert mode(file) == 0o640


def test_a_folder_that_cannot_be_written_does_not_end_the_start(
    config_of: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    made = Accounts(config_of(auth_enabled=True, jwt_secret_key=SECRET))

    def refuse(*_: object) -> int:
        raise READ_ONLY

    monkeypatch.setattr(accounts, "RETRY_S", 0.01)
    with monkeypatch.context() as patch:
        patch.setattr("accounts.os.open", refuse)
        assert made._first_admin_exists() is False and made._first_admin_exists() is False
        assert "DATA_DIR" in caplog.text and "set ADMIN_PASSWORD" in caplog.text
        assert caplog.text.count("Read-only file system") == 1, "it is told once"
        made.start()
    for thread in threading.enumerate():
        if thread.name == "first-admin":
            thread.join(30)
    assert [user.username for user in made.users.list()] == ["admin"]
    made.close()


def test_a_file_system_without_hard_links_is_enough(
    make_app: Callable[..., Flask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("accounts.os.link", refuse)
    app = make_app(admin_password=None)
    file = tmp_path / "data" / "admin-password"
    assert mode(file) == 0o600 and mode(file.parent) == 0o700
    assert token_of(app.test_client(), "admin", file.read_text())
    assert _random_password(file) == file.read_text(), "the first one counts"
    assert [user.username for user in accounts_of(app).users.list()] == ["admin"]
    assert [each.name for each in file.parent.iterdir()] == ["admin-password"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ADMIN_PASSWORD", "1234567", "8 to 1024 characters"),
        ("ADMIN_PASSWORD", "p" * 1025, "8 to 1024 characters"),
        ("ADMIN_USERNAME", "a/b", "no /"),
        ("ADMIN_USERNAME", "x" * 65, "1 to 64"),
    ],
)
def test_a_first_admin_that_cannot_be_stops_the_start(name: str, value: str, said: str) -> None:
    given = {"AUTH_ENABLED": "true", "JWT_SECRET_KEY": SECRET, name: value}
    with pytest.raises(ConfigError) as refused:
        load_config(given, Path("/nonexistent"))
    assert name in str(refused.value) and said in str(refused.value)
    assert "leave it out" in str(refused.value) and value not in str(refused.value)
    assert load_config({**given, "AUTH_ENABLED": "false"}, Path("/nonexistent"))
