"""Users and their roles, in SQL, and what each role may do."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from accounts import passwords
from config.access import NAME_RULE, is_username
from errors import Conflict, Invalid, NotFound
from sql.errors import Violation
from sql.row_cache import RowCache
from sql.tables import USERS

Role = Literal["reader", "user", "admin"]
ROLES: tuple[Role, ...] = ("reader", "user", "admin")  # the weakest first

# The kind of a route: public, the metrics, embedding, reading or changing collections,
# administration.
Access = Literal["public", "metrics", "embed", "read", "write", "admin"]
_READER = frozenset({"public", "metrics", "embed", "read"})
_USER = _READER | {"write"}
ALLOWED: dict[str, frozenset[str]] = {
    "reader": _READER,
    "user": _USER,
    "anonymous": _USER,  # only while AUTH_ENABLED is false
    "admin": _USER | {"admin"},
}
USERS_MOST = 10_000  # a list of them has 1 MB
FIRST_VERSIONS = 2**30  # leaves half of a 32-bit number for changes


@dataclass(frozen=True)
class User:
    """A user. A change of `token_version` ends every access token issued so far.

    It starts at random, so no token of a deleted user fits a new one with the same name.
    """

    username: str
    role: Role
    password_hash: str
    token_version: int
    created: float


class Users:
    """The users of the database."""

    def __init__(self, rows: RowCache) -> None:
        self._rows = rows

    def add(self, username: str, password: str, role: Role) -> User:
        """Create a user. Raises Conflict if the name exists, Invalid for a bad value."""
        if not is_username(username):
            raise Invalid(f"a username has {NAME_RULE}", param="username")
        hashed, version = passwords.hash_password(password), 1 + secrets.randbelow(FIRST_VERSIONS)
        user = User(username, check_role(role), hashed, version, time.time())

        def work(connection: sa.Connection) -> None:
            there = connection.scalar(sa.select(sa.func.count()).select_from(USERS)) or 0
            if there >= USERS_MOST:
                raise Conflict(
                    f"there are already {USERS_MOST} users, the limit: delete some first"
                )
            connection.execute(USERS.insert().values(**vars(user)))

        try:
            self._rows.write(work)
        except Violation:
            raise Conflict(f"user {username!r} already exists", param="username") from None
        return user

    def get(self, username: str, *, fresh: bool = False) -> User | None:
        """Return a user or None, as of at most two seconds ago; with `fresh` as of now."""
        return self._rows.get(("user", username), lambda c: _named(c, username), fresh=fresh)

    def require(self, username: str) -> User:
        """Return a user. Raises NotFound."""
        user = self.get(username)
        if user is None:
            raise NotFound(f"unknown user {username[:64]!r}")
        return user

    def list(self) -> Sequence[User]:
        """Return every user, sorted by name."""
        query = sa.select(USERS).order_by(USERS.c.username)
        rows = self._rows.read(lambda c: c.execute(query).all())
        return [User(**row._mapping) for row in rows]

    def remove(self, username: str) -> None:
        """Delete a user with all keys. Raises NotFound, Conflict for the last admin."""

        def work(connection: sa.Connection) -> None:
            self.lock(connection, username)
            self._keep_an_admin(connection, username)
            connection.execute(USERS.delete().where(USERS.c.username == username))

        self._rows.write(work)

    def lock(self, connection: sa.Connection, username: str) -> User:
        """Return a user, locked until the transaction ends. Raises NotFound."""
        user = _named(connection, username, lock=True)
        if user is None:
            raise NotFound(f"unknown user {username[:64]!r}")
        return user

    def change(
        self, username: str, password: str | None, role: Role | None, known: User | None = None
    ) -> None:
        """Set a password or a role; either ends every token issued so far.

        Raises Invalid, NotFound, Conflict for the last admin, and Conflict if the user has changed
        since `known` was read.
        """
        values: dict[str, Any] = {"token_version": USERS.c.token_version + 1}
        if password is not None:
            values["password_hash"] = passwords.hash_password(password)
        if role is not None:
            values["role"] = check_role(role)

        def work(connection: sa.Connection) -> None:
            user = self.lock(connection, username)
            if known is not None and user.token_version != known.token_version:
                raise Conflict(f"user {username!r} was changed meanwhile; sign in and try again")
            if role is not None and role != "admin":
                self._keep_an_admin(connection, username)
            connection.execute(USERS.update().where(USERS.c.username == username).values(**values))

        self._rows.write(work)

    def login(self, username: str, password: str) -> User | None:
        """Return the user with this name and password, or None; unknown names take as long."""
        user = self._rows.read(lambda c: _named(c, username)) if is_username(username) else None
        if not passwords.verify(password, user.password_hash if user else None):
            return None
        if user and passwords.outdated(user.password_hash):
            new = {"password_hash": passwords.hash_password(password)}
            # Only the hash that was checked is replaced: the password may have changed since, or
            # the user may have been deleted and created again.
            where = sa.and_(
                USERS.c.username == username, USERS.c.password_hash == user.password_hash
            )
            self._rows.write(lambda c: c.execute(USERS.update().where(where).values(**new)))
        return user

    def _keep_an_admin(self, connection: sa.Connection, username: str) -> None:
        query = sa.select(USERS.c.username).where(USERS.c.role == "admin").with_for_update()
        if list(connection.scalars(query)) == [username]:
            raise Conflict(f"{username!r} is the last admin; create another one first")


def _named(connection: sa.Connection, username: str, *, lock: bool = False) -> User | None:
    """Return the user of exactly this name: MySQL and MariaDB also find `admin` for `admin `."""
    query = sa.select(USERS).where(USERS.c.username == username)
    row = connection.execute(query.with_for_update() if lock else query).first()
    return User(**row._mapping) if row and row.username == username else None


def check_role(role: str) -> Role:
    """Return a role, checked. Raises Invalid."""
    for known in ROLES:
        if role == known:
            return known
    raise Invalid(f"unknown role; known are {', '.join(ROLES)}", param="role")
