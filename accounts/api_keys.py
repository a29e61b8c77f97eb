"""API keys: `emb_<id>_<secret>`, found by id and compared by the hash of the secret.

The full text is shown once, when a key is created.
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
from config.serving import Lane
from errors import Conflict, Invalid, NotFound
from sql.row_cache import ROWS_MOST, RowCache
from sql.tables import API_KEYS as KEYS

TEXT = re.compile(r"emb_([A-Za-z0-9]{8})_(.+)", re.DOTALL)
USED_EVERY_S = 60.0  # between writes of a key's last use
KEYS_MOST = 100  # active keys of a user, and ended ones that are still listed


@dataclass(frozen=True)
class ApiKey:
    """A key. `role` is the highest it may use; `collections` are those it is for, None for all.

    `priority` is the lane of its requests: it is held to bulk, or they are interactive unless they
    say otherwise; None leaves it to them. Times are in seconds since the epoch.
    """

    id: str
    owner: str
    label: str
    hash: str
    role: Role | None
    collections: tuple[str, ...] | None
    priority: Lane | None
    created: float
    expires: float | None
    revoked: float | None
    last_used: float | None

    @property
    def limited(self) -> bool:
        """Whether the key may do less than its owner, now or later, or expires."""
        weaker = self.role is not None and self.role != "admin"
        held = self.collections is not None or self.priority == "bulk"
        return weaker or held or self.expires is not None

    def alive(self, now: float) -> bool:
        """Whether the key may still be used."""
        return _alive(self, now)


class ApiKeys:
    """The API keys of all users."""

    def __init__(self, rows: RowCache, users: Users) -> None:
        self._rows = rows
        self._users = users
        self._noted: dict[str, float] = {}  # when the last use of a key was written, by its id

    def add(
        self,
        owner: str,
        label: str = "",
        role: Role | None = None,
        collections: Sequence[str] | None = None,
        expires: float | None = None,
        priority: Lane | None = None,
    ) -> tuple[ApiKey, str]:
        """Create a key; return it with its full text, which is not stored.

        `collections` are those that it is for; None means all. Raises Invalid for an empty list,
        NotFound for an unknown owner, Conflict for an owner with too many keys.
        """
        if collections is not None and not collections:
            raise Invalid(
                "an API key needs at least one collection; leave 'collections' out, or set it to "
                "null, for a key to all of them",
                param="collections",
            )
        if not label.isprintable():
            raise Invalid("the label of a key may have only printable characters", param="label")
        scope = None if collections is None else tuple(collections)
        key, text = _made(owner, label[:190], role and check_role(role), scope, expires, priority)
        self._rows.write(lambda c: self._insert(c, key))
        return key, text

    def of(self, owner: str) -> Sequence[ApiKey]:
        """Return the keys of a user, the oldest first."""
        query = sa.select(KEYS).where(KEYS.c.owner == owner).order_by(KEYS.c.created)
        rows = self._rows.read(lambda c: c.execute(query).all())
        return [key for row in rows if (key := _key(row))]

    def revoke(self, owner: str, id_: str) -> None:
        """Revoke a key at once. Raises NotFound."""
        where = sa.and_(KEYS.c.id == id_, KEYS.c.owner == owner)
        update = KEYS.update().where(where).values(revoked=time.time())
        if not self._rows.write(lambda c: c.execute(update).rowcount):
            raise NotFound(f"user {owner!r} has no key {id_[:16]!r}")

    def rotate(self, owner: str, id_: str, overlap_s: float) -> tuple[ApiKey, str]:
        """Create the successor of a key, which is valid for `overlap_s` more. Raises as `add`."""

        def work(connection: sa.Connection) -> tuple[ApiKey, str]:
            self._users.lock(connection, owner)
            where = sa.and_(KEYS.c.id == id_, KEYS.c.owner == owner)
            old, now = _key(connection.execute(sa.select(KEYS).where(where)).first()), time.time()
            if old is None or not old.alive(now):
                raise NotFound(f"user {owner!r} has no active key {id_[:16]!r}")
            key, text = _made(
                owner, old.label, old.role, old.collections, old.expires, old.priority
            )
            self._insert(connection, key, replaced=id_)
            ends = min(old.expires or math.inf, now + overlap_s)
            connection.execute(KEYS.update().where(where).values(expires=ends))
            return key, text

        return self._rows.write(work)

    def _insert(self, connection: sa.Connection, key: ApiKey, replaced: str = "") -> None:
        """Insert a key if its owner exists and has room; delete the oldest ended keys.

        The key that is `replaced` does not count, though it may stay valid for a while.
        """
        self._users.lock(connection, key.owner)
        mine = sa.select(KEYS.c.id, KEYS.c.revoked, KEYS.c.expires).where(KEYS.c.owner == key.owner)
        there = connection.execute(mine.order_by(KEYS.c.created)).all()
        dead = [row.id for row in there if not _alive(row, key.created)]
        living = {row.id for row in there} - {*dead, replaced}
        if len(living) >= KEYS_MOST:
            raise Conflict(
                f"user {key.owner!r} already has {KEYS_MOST} active keys, the limit: revoke one "
                "first"
            )
        if forgotten := dead[:-KEYS_MOST]:
            connection.execute(KEYS.delete().where(KEYS.c.id.in_(forgotten)))
        scope = None if key.collections is None else json.dumps(key.collections)
        connection.execute(KEYS.insert().values(**{**vars(key), "collections": scope}))

    def find(self, text: str, *, fresh: bool = False) -> ApiKey | None:
        """Return the active key with this full text, or None, and note its use.

        The key is as of at most two seconds ago; with `fresh` as of now.
        """
        if (found := TEXT.fullmatch(text)) is None:
            return None
        key, mine = self._active(found[1], fresh), _hash(found[2]).encode()
        if key is None or not hmac.compare_digest(mine, key.hash.encode()):
            return None
        self._note_use(key)
        return key

    def in_session(self, id_: str, *, fresh: bool = False) -> ApiKey | None:
        """Return the active key with this id, for a token that was issued for it, as `find`."""
        if key := self._active(id_, fresh):
            self._note_use(key)
        return key

    def _active(self, id_: str, fresh: bool) -> ApiKey | None:
        query = sa.select(KEYS).where(KEYS.c.id == id_)
        key = self._rows.get(("key", id_), lambda c: _key(c.execute(query).first()), fresh=fresh)
        return key if key and key.alive(time.time()) else None

    def _note_use(self, key: ApiKey) -> None:
        """Write the last use in the background: the key is valid even if that fails."""
        now = time.time()
        if now - max(key.last_used or 0.0, self._noted.get(key.id, 0.0)) < USED_EVERY_S:
            return
        if len(self._noted) >= ROWS_MOST:
            self._noted.clear()
        self._noted[key.id] = now
        update = KEYS.update().where(KEYS.c.id == key.id).values(last_used=now)
        self._rows.write_later(("key", key.id), lambda c: c.execute(update))


def claimed_id(text: str | None) -> str | None:
    """Return the id in a text that looks like a key, or None; the key may not exist."""
    found = TEXT.fullmatch(text or "")
    return found[1] if found else None


def _made(
    owner: str,
    label: str,
    role: Role | None,
    collections: tuple[str, ...] | None,
    expires: float | None,
    priority: Lane | None,
) -> tuple[ApiKey, str]:
    """Return a new key, which is not stored yet, and its full text."""
    id_ = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(8))
    secret = secrets.token_urlsafe(32).replace("_", "-")
    made = ApiKey(
        id_, owner, label, _hash(secret), role, collections, priority, time.time(), expires, None,
        None,
    )  # fmt: skip
    return made, f"emb_{id_}_{secret}"


def _hash(secret: str) -> str:
    """Return the SHA-256 of a secret: with 256 random bits it needs no slow hash."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _alive(key: Any, now: float) -> bool:
    return key.revoked is None and (key.expires is None or now < key.expires)


def _key(row: Any) -> ApiKey | None:
    if row is None:
        return None
    scope = json.loads(row.collections) if row.collections else None
    return ApiKey(**{**row._mapping, "collections": None if scope is None else tuple(scope)})
