"""Users, their roles and their API keys, kept in SQL.

Knows no HTTP and no tokens (`tickets.py`). A key is `emb_<id>_<secret>`: found by its id, compared
by the hash of its secret, shown once. What was read is remembered for two seconds, so a revoked
key or a deleted user is refused by every worker within that time.
"""

import hashlib
import hmac
import json
import secrets
import string
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

import passwords
from db import Database
from errors import Conflict, Invalid, NotFound, Unavailable

T = TypeVar("T")
Role = Literal["admin", "user", "reader"]
ROLES: tuple[Role, ...] = ("admin", "user", "reader")

REMEMBER_S = 2.0
# With the database away, those known lately are still served for this long.
REMEMBER_AWAY_S = 60.0
REMEMBER_MOST = 10_000
USED_EVERY_S = 60.0  # how often a key's last use is written

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
KEYS = sa.Table(
    "api_keys",
    TABLES,
    sa.Column("id", sa.String(190), primary_key=True),
    sa.Column("owner", sa.String(190)),
    sa.Column("label", sa.String(190)),
    sa.Column("hash", sa.String(64)),
    sa.Column("role", sa.String(20)),
    sa.Column("collections", sa.Text),
    sa.Column("created", sa.Float(53)),
    sa.Column("expires", sa.Float(53)),
    sa.Column("revoked", sa.Float(53)),
    sa.Column("last_used", sa.Float(53)),
)


@dataclass(frozen=True)
class User:
    """A user. `token_version` rises when every token given so far shall end."""

    username: str
    role: Role
    password_hash: str
    token_version: int
    created: float


@dataclass(frozen=True)
class ApiKey:
    """A key: the role it may use at most, and the collections it is for (None: all)."""

    id: str
    owner: str
    label: str
    hash: str
    role: Role | None
    collections: tuple[str, ...] | None
    created: float
    expires: float | None
    revoked: float | None
    last_used: float | None

    def alive(self, now: float) -> bool:
        """Tell whether the key may still be used."""
        return self.revoked is None and (self.expires is None or now < self.expires)


class Users:
    """The users and keys of a database, whose tables are made when first needed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], tuple[float, Any]] = {}
        self._ready = False

    # -- users -----------------------------------------------------------------------------------

    def add(self, username: str, password: str, role: Role) -> User:
        """Make a user. Raises Conflict if the name is taken, Invalid for what is not allowed."""
        _check_name(username)
        passwords.check_new(password)
        user = User(username, _check_role(role), passwords.hash_password(password), 1, time.time())
        try:
            self._write(lambda c: c.execute(USERS.insert().values(**vars(user))))
        except IntegrityError:
            raise Conflict(f"user {username!r} is there already", param="username") from None
        return user

    def get(self, username: str) -> User | None:
        """Return a user, as of at most two seconds ago."""
        query = sa.select(USERS).where(USERS.c.username == username)
        return self._remembered(("user", username), lambda c: _user(c.execute(query).first()))

    def require(self, username: str) -> User:
        """Return a user. Raises NotFound."""
        user = self.get(username)
        if user is None:
            raise NotFound(f"no user {username[:64]!r}")
        return user

    def list(self) -> Sequence[User]:
        """Return every user by name."""
        query = sa.select(USERS).order_by(USERS.c.username)
        rows = self._read(lambda c: c.execute(query).all())
        return [user for row in rows if (user := _user(row))]

    def remove(self, username: str) -> None:
        """Delete a user with all keys. Raises NotFound; Conflict for the last admin."""

        def work(connection: sa.Connection) -> None:
            self._keep_an_admin(connection, username)
            connection.execute(KEYS.delete().where(KEYS.c.owner == username))
            if not connection.execute(USERS.delete().where(USERS.c.username == username)).rowcount:
                raise NotFound(f"no user {username[:64]!r}")

        self._write(work)

    def change(self, username: str, password: str | None, role: Role | None) -> None:
        """Set a password, which ends every token given so far, or a role."""
        values: dict[str, Any] = {"token_version": USERS.c.token_version + 1}
        if password is not None:
            passwords.check_new(password)
            values["password_hash"] = passwords.hash_password(password)
        if role is not None:
            values["role"] = _check_role(role)

        def work(connection: sa.Connection) -> None:
            if role is not None and role != "admin":
                self._keep_an_admin(connection, username)
            where = USERS.c.username == username
            if not connection.execute(USERS.update().where(where).values(**values)).rowcount:
                raise NotFound(f"no user {username[:64]!r}")

        self._write(work)

    def login(self, username: str, password: str) -> User | None:
        """Return the user whose name and password these are; unknown names take as long."""
        query = sa.select(USERS).where(USERS.c.username == username)
        user = self._read(lambda c: _user(c.execute(query).first()))
        if not passwords.verify(password, user.password_hash if user else None):
            return None
        if user and passwords.outdated(user.password_hash):
            new = {"password_hash": passwords.hash_password(password)}
            where = USERS.c.username == username
            self._write(lambda c: c.execute(USERS.update().where(where).values(**new)))
        return user

    def _keep_an_admin(self, connection: sa.Connection, username: str) -> None:
        query = sa.select(USERS.c.username).where(USERS.c.role == "admin").with_for_update()
        if list(connection.scalars(query)) == [username]:
            raise Conflict(f"{username!r} is the last admin; make another one first")

    # -- keys ------------------------------------------------------------------------------------

    def add_key(
        self,
        owner: str,
        label: str = "",
        role: Role | None = None,
        collections: Sequence[str] | None = None,
        expires: float | None = None,
    ) -> tuple[ApiKey, str]:
        """Make a key; return it with the full text, which is shown only now."""
        self.require(owner)
        id_ = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(8))
        secret = secrets.token_urlsafe(32).replace("_", "-")
        key = ApiKey(
            id_, owner, label[:190], _hash(secret), role and _check_role(role),
            None if collections is None else tuple(collections), time.time(), expires, None, None,
        )  # fmt: skip
        row = {**vars(key), "collections": json.dumps(collections) if collections else None}
        self._write(lambda c: c.execute(KEYS.insert().values(**row)))
        return key, f"emb_{id_}_{secret}"

    def keys(self, owner: str) -> Sequence[ApiKey]:
        """Return a user's keys, the oldest first."""
        query = sa.select(KEYS).where(KEYS.c.owner == owner).order_by(KEYS.c.created)
        rows = self._read(lambda c: c.execute(query).all())
        return [key for row in rows if (key := _key(row))]

    def revoke(self, owner: str, id_: str) -> None:
        """End a key now. Raises NotFound."""
        self._set_key(owner, id_, {"revoked": time.time()})

    def rotate(self, owner: str, id_: str, overlap_s: float) -> tuple[ApiKey, str]:
        """Make a like key; the old one is good for `overlap_s` more. Raises NotFound."""
        old = next((key for key in self.keys(owner) if key.id == id_), None)
        now = time.time()
        if old is None or not old.alive(now):
            raise NotFound(f"user {owner!r} has no living key {id_[:16]!r}")
        made = self.add_key(owner, old.label, old.role, old.collections, old.expires)
        ends = now + overlap_s if old.expires is None else min(old.expires, now + overlap_s)
        self._set_key(owner, id_, {"expires": ends})
        return made

    def find_key(self, text: str) -> ApiKey | None:
        """Return the living key whose full text this is, and note that it was used."""
        parts = text.split("_", 2)
        if len(parts) != 3 or parts[0] != "emb":
            return None
        query = sa.select(KEYS).where(KEYS.c.id == parts[1])
        key = self._remembered(("key", parts[1]), lambda c: _key(c.execute(query).first()))
        mine = _hash(parts[2]).encode()
        if key is None or not hmac.compare_digest(mine, key.hash.encode()):
            return None
        now = time.time()
        if not key.alive(now):
            return None
        self._note_use(key, now)
        return key

    def _note_use(self, key: ApiKey, now: float) -> None:
        if key.last_used is not None and now - key.last_used < USED_EVERY_S:
            return
        try:
            self._set_key(key.owner, key.id, {"last_used": now})
        except Unavailable:
            pass  # a use that is not noted is no reason to refuse it

    def _set_key(self, owner: str, id_: str, values: dict[str, Any]) -> None:
        where = sa.and_(KEYS.c.id == id_, KEYS.c.owner == owner)
        if not self._write(
            lambda c: c.execute(KEYS.update().where(where).values(**values)).rowcount
        ):
            raise NotFound(f"user {owner!r} has no key {id_[:16]!r}")

    # -- reaching the database -------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the tables if they are not there. Raises Unavailable."""
        if not self._ready:
            self._database.migrate()
            self._ready = True

    def _read(self, work: Callable[[sa.Connection], T]) -> T:
        self.prepare()
        return self._database.read(work)

    def _write(self, work: Callable[[sa.Connection], T]) -> T:
        self.prepare()
        try:
            return self._database.write(work)
        finally:
            with self._lock:
                self._known.clear()

    def _remembered(self, what: tuple[str, str], work: Callable[[sa.Connection], T]) -> T:
        now = time.monotonic()
        at, value = self._known.get(what, (-1e9, None))
        if now - at < REMEMBER_S:
            return value  # type: ignore[no-any-return]
        try:
            fresh = self._read(work)
        except Unavailable:
            if value is not None and now - at < REMEMBER_AWAY_S:
                return value  # type: ignore[no-any-return]
            raise
        with self._lock:
            if len(self._known) >= REMEMBER_MOST:
                self._known.clear()
            self._known[what] = (now, fresh)
        return fresh


def _hash(secret: str) -> str:
    """Return the sha256 of a 256-bit secret: no slow hash is needed for what cannot be guessed."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _user(row: Any) -> User | None:
    return None if row is None else User(**row._mapping)


def _key(row: Any) -> ApiKey | None:
    if row is None:
        return None
    scope = json.loads(row.collections) if row.collections else None
    return ApiKey(**{**row._mapping, "collections": None if scope is None else tuple(scope)})


def _check_name(username: str) -> None:
    if not 1 <= len(username) <= 64 or not username.isprintable() or "/" in username:
        raise Invalid("a username has 1 to 64 printable characters and no /", param="username")


def _check_role(role: str) -> Role:
    for known in ROLES:
        if role == known:
            return known
    raise Invalid(f"unknown role; known are {', '.join(ROLES)}", param="role")
