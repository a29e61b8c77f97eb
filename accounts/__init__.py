"""Who is calling: users, keys and tokens put together, and the first admin.

Knows no HTTP: takes the text of a credential and an address, gives a `Caller`. Keeps the count of
failed logins, so that guessing is slow per user and per address and never locks a user out.
"""

import hmac
import logging
import os
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

import metrics
from accounts.apikeys import ApiKeys
from accounts.tickets import Tickets
from accounts.users import Role, User, Users
from config import Config
from config.access import secrets_of
from errors import Conflict, RateLimited, ServiceError, Unauthorized
from memo import Memo

log = logging.getLogger("accounts")

CallerRole = Literal["admin", "user", "reader", "anonymous"]
# Wrong passwords a minute: for a user from one address, and from one address for all users.
TRIES_PER_USER = RateLimitItemPerMinute(5)
TRIES_PER_ADDRESS = RateLimitItemPerMinute(20)
# Who comes with API_KEY_SECRET. No user has this name: theirs hold no slash.
FIXED_KEY = "key/API_KEY_SECRET"
RANKS: dict[str, int] = {"reader": 0, "user": 1, "admin": 2}


@dataclass(frozen=True)
class Caller:
    """Who is calling. `collections` is what a scoped key is for; None is all.

    `limited` says that the key may do less than its owner, or for less long.
    """

    name: str
    role: CallerRole
    collections: tuple[str, ...] | None = None
    limited: bool = False


class Accounts:
    """Everything that tells callers apart."""

    def __init__(self, config: Config) -> None:
        self._config = config
        memo = Memo(config.db_url.get_secret_value())
        self.users = Users(memo)
        self.keys = ApiKeys(memo, self.users)
        self.tickets = Tickets(secrets_of(config.jwt_secret_key), config.token_lifetime_s)
        self._memo = memo
        self._tries = MovingWindowRateLimiter(MemoryStorage())
        self._stop = threading.Event()

    @property
    def enabled(self) -> bool:
        """Whether callers must say who they are."""
        return self._config.auth_enabled

    # -- telling who it is -----------------------------------------------------------------------

    def identify(self, credential: str | None, *, local: bool, address: str) -> Caller:
        """Return who calls with this key or token. Raises Unauthorized or Unavailable.

        `local` says that the request comes from this very machine, through no proxy.
        """
        if not self.enabled:
            known = _same(credential, self._config.admin_token)
            return Caller(address, "admin" if local or known else "anonymous")
        if credential is None:
            raise Unauthorized("sign in with POST /token, or send an API key as a bearer token")
        if _same(credential, self._config.api_key_secret):
            return Caller(FIXED_KEY, "user", limited=True)
        caller = self._by_key(credential) or self._by_token(credential)
        if caller is None:
            raise Unauthorized("this key or token is unknown, expired or revoked")
        return caller

    def _by_key(self, text: str) -> Caller | None:
        if not text.startswith("emb_"):
            return None
        key = self.keys.find(text)
        owner = self.users.get(key.owner) if key else None
        if key is None or owner is None:
            return None
        role: Role = owner.role
        if key.role and RANKS[key.role] < RANKS[role]:
            role = key.role
        return Caller(owner.username, role, key.collections, key.limited)

    def _by_token(self, text: str) -> Caller | None:
        ticket = self.tickets.verify(text)
        user = self.users.get(ticket.username) if ticket else None
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
        counted = ((TRIES_PER_USER, (username[:64], address)), (TRIES_PER_ADDRESS, (address,)))
        if not all(self._tries.test(limit, *who) for limit, who in counted):
            metrics.RATE_LIMITED.labels("anonymous").inc()
            raise RateLimited("too many wrong passwords; try again in a minute", retry_after_s=60)
        user = self.users.login(username, password)
        if user is None:
            for limit, who in counted:
                self._tries.hit(limit, *who)
            raise Unauthorized("the username or the password is wrong")
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

    def _until_made(self) -> None:
        while not self._stop.wait(5):
            if self._tried():
                return

    def _tried(self) -> bool:
        try:
            self._make_first_admin()
        except ServiceError as exc:
            log.warning("the users cannot be read: %s", exc.message)
            return False
        return True

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
    """Return the password of the file, made by whichever worker is first, for its owner only."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as made:
        made.write(secrets.token_urlsafe(18))
        made.flush()
        os.fsync(made.fileno())
    try:
        os.link(temporary, file)  # fails if it is there: the first one counts
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    return file.read_text()


def seconds_from(days: float | None) -> float | None:
    """Return the time that many days from now, in seconds since the epoch."""
    return None if days is None else time.time() + days * 86400
