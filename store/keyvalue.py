"""Small texts by key beside the collections, which every process of a store sees and may claim.

The jobs of a re-embedding are such texts: they are found wherever the collections are, and outlive
the process that wrote them.
"""

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from errors import Invalid, Unavailable
from sql.database import Database
from sql.tables import NOTES

KEY = re.compile(r"[A-Za-z0-9.-]{1,100}")
_CLAIMS = 0x656D626A  # "embj", with the key's hash
_CLAIM = sa.text(f"SELECT pg_try_advisory_lock({_CLAIMS}, hashtext(:key))")
_RELEASE = sa.text(f"SELECT pg_advisory_unlock({_CLAIMS}, hashtext(:key))")


class KeyValue:
    """Texts by key. A write is whole and durable, or nothing is written."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, key: str, text: str) -> None:
        """Write a text, over the one that is there."""
        _check(key)

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(NOTES).where(NOTES.c.key == key))
            connection.execute(sa.insert(NOTES).values(key=key, body=text))

        self._database.write(work, lambda _: False)

    def replace(self, key: str, text: str) -> bool:
        """Write a text over the one that is there; return False if there is none any more."""
        update = sa.update(NOTES).where(NOTES.c.key == _check(key)).values(body=text)
        return bool(self._database.write(lambda c: c.execute(update).rowcount, lambda _: False))

    def get(self, key: str) -> str | None:
        """Return the text of a key, if there is one."""
        query = sa.select(NOTES.c.body).where(NOTES.c.key == _check(key))
        return self._database.read(lambda c: c.scalar(query))

    def all(self) -> list[str]:
        """Return every text, by key."""
        query = sa.select(NOTES.c.body).order_by(NOTES.c.key)
        return self._database.read(lambda c: list(c.scalars(query)))

    def remove(self, key: str) -> None:
        """Forget a key, if it is there."""
        delete = sa.delete(NOTES).where(NOTES.c.key == _check(key))
        self._database.write(lambda c: c.execute(delete), lambda _: False)
        if (file := self._lock_file(key)) is not None:
            file.unlink(missing_ok=True)

    @contextmanager
    def claimed(self, key: str) -> Iterator[bool]:
        """Hold a key against every other process for a block; False if another holds it.

        A holder that dies lets go: the kernel unlocks its file, PostgreSQL ends its session. A
        failover of PostgreSQL lets go too while the holder lives, so what is done under a claim
        must bear being done twice.
        """
        file = self._lock_file(_check(key))
        with self._locked(file) if file is not None else self._in_session(key) as mine:
            yield mine

    def _lock_file(self, key: str) -> Path | None:
        file = self._database.file
        return None if file is None else file.with_name("claims") / f"{key}.lock"

    @contextmanager
    def _locked(self, file: Path) -> Iterator[bool]:
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            held = file.open("a")
            file.chmod(0o600)
        except OSError as error:
            raise Unavailable(f"{file} cannot be locked: {error.strerror}") from error
        with held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    @contextmanager
    def _in_session(self, key: str) -> Iterator[bool]:
        with self._database.upkeep() as connection:
            mine = bool(connection.scalar(_CLAIM, {"key": key}))
            try:
                yield mine
            finally:  # at once: the server notices a closed connection some time later
                if mine:
                    with suppress(SQLAlchemyError):
                        connection.scalar(_RELEASE, {"key": key})


def _check(key: str) -> str:
    """Return a key if it is one. Raises Invalid."""
    if not KEY.fullmatch(key):
        raise Invalid(f"{ascii(key)[:60]} is no key: 1 to 100 of A-Z a-z 0-9 . -")
    return key
