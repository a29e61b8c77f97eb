"""Who is calling: users, keys and tokens put together, and the first admin.

Knows no HTTP: takes the text of a credential and an address, gives a `Caller`. Keeps the count of
failed logins, so that guessing is slow per user and per address and never locks a user out.
"""

import contextlib
import hmac
import logging
import os
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from accounts.api_keys import ApiKeys
from accounts.login_throttle import Tries
from accounts.tokens import Tickets
from accounts.users import Role, User, Users
from config import Config
from config.access import secrets_of
from errors import Conflict, RateLimited, ServiceError, Unauthorized
from observability import metrics
from sql.row_cache import Memo

log = logging.getLogger("accounts")

CallerRole = Literal["admin", "user", "reader", "anonymous"]
# Wrong passwords a minute: for a user from one address, from one address for all users, and for a
# user from everywhere. The last is high: whoever reaches it keeps the user from signing in.
TRIES_PER_USER, TRIES_PER_ADDRESS, TRIES_FROM_EVERYWHERE = 5, 20, 100
RETRY_S = 5  # from one try to make the first admin to the next
# Who comes with API_KEY_SECRET. No user has this name: theirs hold no slash.
FIXED_KEY = "key/API_KEY_SECRET"
RANKS: dict[str, int] = {"reader": 0, "user": 1, "admin": 2}


@dataclass(frozen=True)
class Caller:
    """Who is calling. `collections` is what a scoped key is for; None is all.

    `limited` says that the key may do less than its owner, or for less long. `key` is its id.
    """

    name: str
    role: CallerRole
    collections: tuple[str, ...] | None = None
    limited: bool = False
    key: str | None = None


class Accounts:
    """Everything that tells callers apart."""

    def __init__(self, config: Config) -> None:
        self._config = config
        memo = Memo(config.db_url.get_secret_value())
        self.users = Users(memo)
        self.keys = ApiKeys(memo, self.users)
        self.tickets = Tickets(secrets_of(config.jwt_secret_key), config.token_lifetime_s)
        self._memo = memo
        self._tries = Tries(config.redis_address if config.redis_enabled else None)
        self._stop = threading.Event()
        self._problem: str | None = None  # why there is no first admin yet

    @property
    def enabled(self) -> bool:
        """Whether callers must say who they are."""
        return self._config.auth_enabled

    @property
    def problem(self) -> str | None:
        """Why the database is not asked just now."""
        return self._memo.problem

    @property
    def uncounted(self) -> str | None:
        """Why each process counts wrong passwords for itself just now, if it should not."""
        return self._tries.problem

    # -- telling who it is -----------------------------------------------------------------------

    def identify(
        self, credential: str | None, *, local: bool, address: str, fresh: bool = False
    ) -> Caller:
        """Return who calls with this key or token. Raises Unauthorized or Unavailable.

        `local` says that the request comes from this very machine, through no proxy. `fresh` asks
        the database even for who called a moment ago, as must be where accounts are changed: what
        has ended elsewhere makes nothing that lasts.
        """
        if not self.enabled:
            known = _same(credential, self._config.admin_token)
            return Caller(address, "admin" if local or known else "anonymous")
        if credential is None:
            raise Unauthorized("sign in with POST /token, or send an API key as a bearer token")
        if _same(credential, self._config.api_key_secret):
            return Caller(FIXED_KEY, "user", limited=True)
        caller = self._by_key(credential, fresh) or self._by_token(credential, fresh)
        if caller is None:
            raise Unauthorized("this key or token is unknown, expired or revoked")
        return caller

    def _by_key(self, text: str, fresh: bool) -> Caller | None:
        if not text.startswith("emb_"):
            return None
        key = self.keys.find(text, fresh=fresh)
        owner = self.users.get(key.owner, fresh=fresh) if key else None
        if key is None or owner is None:
            return None
        role: Role = owner.role
        if key.role and RANKS[key.role] < RANKS[role]:
            role = key.role
        return Caller(owner.username, role, key.collections, key.limited, key.id)

    def _by_token(self, text: str, fresh: bool) -> Caller | None:
        ticket = self.tickets.verify(text)
        user = self.users.get(ticket.username, fresh=fresh) if ticket else None
        if ticket is None or user is None or user.token_version != ticket.version:
            return None
        return Caller(user.username, user.role)

    def login(self, username: str, password: str, address: str) -> str:
        """Return a token. Raises Unauthorized, RateLimited, or Conflict if there is no secret."""
        if not self.tickets.signs:
            raise Conflict("JWT_SECRET_KEY is not set: nobody signs in here, keys are sent instead")
        user = self.check_password(username, password, address)
        return self.tickets.issue(user.username, user.token_version)

    def check_password(self, username: str, password: str, address: str) -> User:
        """Return whose password this is. Raises Unauthorized; RateLimited after too many wrong."""
        name = username[:64]
        counted = (
            (("user at address", name, address), TRIES_PER_USER),
            (("address", address), TRIES_PER_ADDRESS),
            (("user", name), TRIES_FROM_EVERYWHERE),
        )
        try:
            with self._tries.one(counted):
                user = self.users.login(username, password)
                if user is None:
                    raise Unauthorized("the username or the password is wrong")
        except RateLimited:
            metrics.RATE_LIMITED.labels("anonymous").inc()
            raise
        return user

    # -- the first admin -------------------------------------------------------------------------

    def start(self) -> None:
        """See to it, in the background if need be, that there is an admin."""
        if self.enabled and not self._tried():
            threading.Thread(target=self._until_made, name="first-admin", daemon=True).start()

    def close(self) -> None:
        """End what runs in the background and let go of connections."""
        self._stop.set()
        self._memo.close()
        self._tries.close()

    def _until_made(self) -> None:
        while not self._stop.wait(RETRY_S):
            if self._tried():
                return

    def _tried(self) -> bool:
        """Make the first admin; say once what keeps it from being made."""
        try:
            self._make_first_admin()
        except ServiceError as exc:
            reason = f"the users cannot be read: {exc.message}"
        except OSError as exc:
            reason = (
                f"the first admin's password cannot be kept in {self._config.data_dir.absolute()} "
                f"({exc.strerror or exc}): let DATA_DIR be writable, or set ADMIN_PASSWORD"
            )
        else:
            return True
        if reason != self._problem:
            log.warning("%s; tried again every %d s", reason, RETRY_S)
        self._problem = reason
        return False

    def _make_first_admin(self) -> None:
        if self.users.list():
            return
        name = self._config.admin_username
        given = self._config.admin_password
        file = self._config.data_dir / "admin-password"
        password = given.get_secret_value() if given else _random_password(file)
        try:
            self.users.add(name, password, "admin")
        except Conflict:
            return  # another worker was first
        said = "ADMIN_PASSWORD" if given else str(file.absolute())
        log.warning("made the first admin %r; the password is in %s", name, said)


def _same(credential: str | None, secret: object) -> bool:
    """Compare a credential with a configured secret, in constant time."""
    if credential is None or secret is None:
        return False
    value = secret.get_secret_value()  # type: ignore[attr-defined]
    mine = credential.encode("utf-8", "surrogatepass")
    return bool(value) and hmac.compare_digest(mine, value.encode())


def _random_password(file: Path) -> str:
    """Return the password of the file, made by whichever worker is first, for its owner only.

    Raises OSError where no file can be made.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    password = secrets.token_urlsafe(18)
    _write(temporary, os.O_TRUNC, password)
    try:
        os.link(temporary, file)  # fails if it is there: the first one counts
    except FileExistsError:
        pass
    except OSError:  # a file system without links; others may see the file while it is empty
        with contextlib.suppress(FileExistsError):
            _write(file, os.O_EXCL, password)
    finally:
        temporary.unlink()
    kept = file.read_text()
    if not kept:
        raise OSError(f"{file} is empty; remove it if it stays so")
    return kept


def _write(file: Path, flag: int, text: str) -> None:
    """Make a file for its owner only, and see it on the disk."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | flag, 0o600)
    with os.fdopen(descriptor, "w") as made:
        made.write(text)
        made.flush()
        os.fsync(made.fileno())


def seconds_from(days: float | None) -> float | None:
    """Return the time that many days from now, in seconds since the epoch."""
    return None if days is None else time.time() + days * 86400
