"""API keys: `emb_<id>_<secret>`, found by their id, compared by their secret's hash, shown once.

Belong to users, whose names are all that is known of them here.
"""

import hashlib
import hmac
import json
import math
import re
import secrets
import string
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from accounts.users import Role, Users, check_role
from errors import Conflict, Invalid, NotFound
from sql.row_cache import REMEMBER_MOST, Memo

ID = re.compile(r"emb_([A-Za-z0-9]{8})_.+", re.DOTALL)
USED_EVERY_S = 60.0  # how often a key's last use is written
KEYS_MOST = 100  # of a user's living keys, and of the dead that are still listed

TABLES = sa.MetaData()
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

    @property
    def limited(self) -> bool:
        """Whether the key may do less than its owner, now or later, or for less long."""
        weaker = self.role is not None and self.role != "admin"
        return weaker or self.collections is not None or self.expires is not None

    def alive(self, now: float) -> bool:
        """Tell whether the key may still be used."""
        return _alive(self, now)


class ApiKeys:
    """Every user's keys."""

    def __init__(self, memo: Memo, users: Users) -> None:
        self._memo = memo
        self._users = users
        self._noted: dict[str, float] = {}  # when a key's last use was last written, by its id

    def add(
        self,
        owner: str,
        label: str = "",
        role: Role | None = None,
        collections: Sequence[str] | None = None,
        expires: float | None = None,
    ) -> tuple[ApiKey, str]:
        """Make a key; return it with the full text, which is shown only now.

        `collections` are those that it is for; None is all. Raises Invalid if it is for none,
        NotFound without its owner, Conflict if they have too many.
        """
        if collections is not None and not collections:
            raise Invalid(
                "a key for no collection opens nothing: name those that it is for, or leave "
                "'collections' out (or null) for a key to all of them",
                param="collections",
            )
        if not label.isprintable():
            raise Invalid("a key's label has printable characters only", param="label")
        scope = None if collections is None else tuple(collections)
        key, text = _made(owner, label[:190], role and check_role(role), scope, expires)
        self._memo.write(lambda c: self._insert(c, key))
        return key, text

    def of(self, owner: str) -> Sequence[ApiKey]:
        """Return a user's keys, the oldest first."""
        query = sa.select(KEYS).where(KEYS.c.owner == owner).order_by(KEYS.c.created)
        rows = self._memo.read(lambda c: c.execute(query).all())
        return [key for row in rows if (key := _key(row))]

    def revoke(self, owner: str, id_: str) -> None:
        """End a key now. Raises NotFound."""
        where = sa.and_(KEYS.c.id == id_, KEYS.c.owner == owner)
        update = KEYS.update().where(where).values(revoked=time.time())
        if not self._memo.write(lambda c: c.execute(update).rowcount):
            raise NotFound(f"user {owner!r} has no key {id_[:16]!r}")

    def rotate(self, owner: str, id_: str, overlap_s: float) -> tuple[ApiKey, str]:
        """Make a like key; the old one is good for `overlap_s` more. Raises as `add` does."""

        def work(connection: sa.Connection) -> tuple[ApiKey, str]:
            self._users.lock(connection, owner)
            where = sa.and_(KEYS.c.id == id_, KEYS.c.owner == owner)
            old, now = _key(connection.execute(sa.select(KEYS).where(where)).first()), time.time()
            if old is None or not old.alive(now):
                raise NotFound(f"user {owner!r} has no living key {id_[:16]!r}")
            key, text = _made(owner, old.label, old.role, old.collections, old.expires)
            self._insert(connection, key, replaced=id_)
            ends = min(old.expires or math.inf, now + overlap_s)
            connection.execute(KEYS.update().where(where).values(expires=ends))
            return key, text

        return self._memo.write(work)

    def _insert(self, connection: sa.Connection, key: ApiKey, replaced: str = "") -> None:
        """Add a key where its owner still is and has room; forget the oldest of the dead.

        The key that is `replaced` takes no room, though it may live on for a while.
        """
        self._users.lock(connection, key.owner)
        mine = sa.select(KEYS.c.id, KEYS.c.revoked, KEYS.c.expires).where(KEYS.c.owner == key.owner)
        there = connection.execute(mine.order_by(KEYS.c.created)).all()
        dead = [row.id for row in there if not _alive(row, key.created)]
        living = {row.id for row in there} - {*dead, replaced}
        if len(living) >= KEYS_MOST:
            raise Conflict(
                f"user {key.owner!r} has {KEYS_MOST} living keys, the most there may be: revoke "
                "one first"
            )
        if forgotten := dead[:-KEYS_MOST]:
            connection.execute(KEYS.delete().where(KEYS.c.id.in_(forgotten)))
        scope = None if key.collections is None else json.dumps(key.collections)
        connection.execute(KEYS.insert().values(**{**vars(key), "collections": scope}))

    def find(self, text: str, *, fresh: bool = False) -> ApiKey | None:
        """Return the living key whose full text this is, and note that it was used.

        It is as of at most two seconds ago; `fresh` is as of now.
        """
        parts = text.split("_", 2)
        if len(parts) != 3 or parts[0] != "emb":
            return None
        query = sa.select(KEYS).where(KEYS.c.id == parts[1])
        key = self._memo.remembered(
            ("key", parts[1]), lambda c: _key(c.execute(query).first()), fresh=fresh
        )
        mine = _hash(parts[2]).encode()
        if key is None or not hmac.compare_digest(mine, key.hash.encode()):
            return None
        now = time.time()
        if not key.alive(now):
            return None
        self._note_use(key, now)
        return key

    def _note_use(self, key: ApiKey, now: float) -> None:
        """Write the last use in the background: whatever becomes of it, the key is good."""
        if now - max(key.last_used or 0.0, self._noted.get(key.id, 0.0)) < USED_EVERY_S:
            return
        if len(self._noted) >= REMEMBER_MOST:
            self._noted.clear()
        self._noted[key.id] = now
        update = KEYS.update().where(KEYS.c.id == key.id).values(last_used=now)
        self._memo.write_later(("key", key.id), lambda c: c.execute(update))


def claimed_id(text: str | None) -> str | None:
    """Return the id that a text bears if it looks like a key; whether it is one is not asked."""
    found = ID.fullmatch(text or "")
    return found[1] if found else None


def _made(
    owner: str,
    label: str,
    role: Role | None,
    collections: tuple[str, ...] | None,
    expires: float | None,
) -> tuple[ApiKey, str]:
    """Return a new key that is not kept yet, and its full text."""
    id_ = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(8))
    secret = secrets.token_urlsafe(32).replace("_", "-")
    made = ApiKey(
        id_, owner, label, _hash(secret), role, collections, time.time(), expires, None, None
    )
    return made, f"emb_{id_}_{secret}"


def _alive(key: Any, now: float) -> bool:
    return key.revoked is None and (key.expires is None or now < key.expires)


def _hash(secret: str) -> str:
    """Return the sha256 of a 256-bit secret: no slow hash is needed for what cannot be guessed."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _key(row: Any) -> ApiKey | None:
    if row is None:
        return None
    scope = json.loads(row.collections) if row.collections else None
    return ApiKey(**{**row._mapping, "collections": None if scope is None else tuple(scope)})
