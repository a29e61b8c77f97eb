"""Users and their roles, kept in SQL.

Knows no HTTP, no keys (`apikeys.py`) and no tokens (`tickets.py`).
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from accounts import passwords
from config.access import NAME_RULE, is_username
from errors import Conflict, Invalid, NotFound
from sql.row_cache import Memo

Role = Literal["admin", "user", "reader"]
ROLES: tuple[Role, ...] = ("admin", "user", "reader")
USERS_MOST = 10_000  # one list of them has 1 MB
FIRST_VERSIONS = 2**30  # from here a database's 32-bit number can rise as often again

TABLES = sa.MetaData()
USERS = sa.Table(
    "users",
    TABLES,
    sa.Column("username", sa.String(190), primary_key=True),
    sa.Column("role", sa.String(20)),
    sa.Column("password_hash", sa.String(255)),
    sa.Column("token_version", sa.Integer),
    sa.Column("created", sa.Float(53)),
)


@dataclass(frozen=True)
class User:
    """A user. `token_version` rises when every token given so far shall end.

    It starts at random: no token of a user who was deleted fits one who is made by that name.
    """

    username: str
    role: Role
    password_hash: str
    token_version: int
    created: float


class Users:
    """The users of the database."""

    def __init__(self, memo: Memo) -> None:
        self._memo = memo

    def add(self, username: str, password: str, role: Role) -> User:
        """Make a user. Raises Conflict if the name is taken, Invalid for what is not allowed."""
        _check_name(username)
        passwords.check_new(password)
        hashed, version = passwords.hash_password(password), 1 + secrets.randbelow(FIRST_VERSIONS)
        user = User(username, check_role(role), hashed, version, time.time())

        def work(connection: sa.Connection) -> None:
            there = connection.scalar(sa.select(sa.func.count()).select_from(USERS)) or 0
            if there >= USERS_MOST:
                raise Conflict(f"there are {USERS_MOST} users, the most there may be: delete some")
            connection.execute(USERS.insert().values(**vars(user)))

        try:
            self._memo.write(work)
        except IntegrityError:
            raise Conflict(f"user {username!r} is there already", param="username") from None
        return user

    def get(self, username: str, *, fresh: bool = False) -> User | None:
        """Return a user, as of at most two seconds ago; `fresh` is as of now."""
        return self._memo.remembered(("user", username), lambda c: _named(c, username), fresh=fresh)

    def require(self, username: str) -> User:
        """Return a user. Raises NotFound."""
        user = self.get(username)
        if user is None:
            raise NotFound(f"no user {username[:64]!r}")
        return user

    def list(self) -> Sequence[User]:
        """Return every user by name."""
        query = sa.select(USERS).order_by(USERS.c.username)
        rows = self._memo.read(lambda c: c.execute(query).all())
        return [user for row in rows if (user := _user(row))]

    def remove(self, username: str) -> None:
        """Delete a user with all keys. Raises NotFound; Conflict for the last admin."""

        def work(connection: sa.Connection) -> None:
            self.lock(connection, username)
            self._keep_an_admin(connection, username)
            connection.execute(USERS.delete().where(USERS.c.username == username))

        self._memo.write(work)

    def lock(self, connection: sa.Connection, username: str) -> User:
        """Return a user and keep them as they are until the transaction ends. Raises NotFound."""
        user = _named(connection, username, lock=True)
        if user is None:
            raise NotFound(f"no user {username[:64]!r}")
        return user

    def change(
        self, username: str, password: str | None, role: Role | None, known: User | None = None
    ) -> None:
        """Set a password or a role; either ends every token given so far.

        `known` is who was seen to be the user: raises Conflict if they changed since.
        """
        values: dict[str, Any] = {"token_version": USERS.c.token_version + 1}
        if password is not None:
            passwords.check_new(password)
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

        self._memo.write(work)

    def login(self, username: str, password: str) -> User | None:
        """Return the user whose name and password these are; unknown names take as long."""
        user = self._memo.read(lambda c: _named(c, username)) if is_username(username) else None
        if not passwords.verify(password, user.password_hash if user else None):
            return None
        if user and passwords.outdated(user.password_hash):
            new = {"password_hash": passwords.hash_password(password)}
            # Only the hash that was checked is replaced: the password may have been changed since,
            # or the user deleted and another one made under the name.
            where = sa.and_(
                USERS.c.username == username, USERS.c.password_hash == user.password_hash
            )
            self._memo.write(lambda c: c.execute(USERS.update().where(where).values(**new)))
        return user

    def _keep_an_admin(self, connection: sa.Connection, username: str) -> None:
        query = sa.select(USERS.c.username).where(USERS.c.role == "admin").with_for_update()
        if list(connection.scalars(query)) == [username]:
            raise Conflict(f"{username!r} is the last admin; make another one first")


def _user(row: Any) -> User | None:
    return None if row is None else User(**row._mapping)


def _named(connection: sa.Connection, username: str, *, lock: bool = False) -> User | None:
    """Return the user of exactly this name: MySQL and MariaDB find `admin` for `admin ` too."""
    query = sa.select(USERS).where(USERS.c.username == username)
    user = _user(connection.execute(query.with_for_update() if lock else query).first())
    return user if user and user.username == username else None


def _check_name(username: str) -> None:
    if not is_username(username):
        raise Invalid(f"a username has {NAME_RULE}", param="username")


def check_role(role: str) -> Role:
    """Return a role if it is one. Raises Invalid."""
    for known in ROLES:
        if role == known:
            return known
    raise Invalid(f"unknown role; known are {', '.join(ROLES)}", param="role")
