"""Accounts: from a credential to its `Caller`, sign-in with limits, and the first admin."""

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

from pydantic import SecretStr

from accounts.api_keys import ApiKey, ApiKeys
from accounts.login_throttle import LoginThrottle
from accounts.tokens import AccessTokens
from accounts.users import ROLES, User, Users
from config import Config
from config.access import secrets_of
from config.serving import Lane
from errors import Conflict, RateLimited, ServiceError, Unauthorized
from observability import metrics
from sql.row_cache import RowCache

log = logging.getLogger("accounts")

CallerRole = Literal["admin", "user", "reader", "anonymous"]
# Wrong passwords a minute: for a user from one address, from one address for all users, and for a
# user from everywhere. The last is high, as who reaches it keeps the user from signing in.
TRIES_PER_USER, TRIES_PER_ADDRESS, TRIES_FROM_EVERYWHERE = 5, 20, 100
RETRY_S = 5  # between attempts to create the first admin
# Subjects of tokens that are keys: no user's name has a slash. FIXED_KEY is a caller's name too.
KEY = "key/"
FIXED_KEY, ADMIN_TOKEN = f"{KEY}API_KEY_SECRET", f"{KEY}ADMIN_TOKEN"
UNKNOWN = "this key or token is unknown, expired or revoked"


@dataclass(frozen=True)
class Caller:
    """Who is calling, with which role.

    `collections` are those that the key is for; None means all. `limited` means that the key may do
    less than its owner, or expires. `key` is the id of the key, `priority` its lane. `since` is
    when a user was made, in seconds since 1970; None for who has no account.
    """

    name: str
    role: CallerRole
    collections: tuple[str, ...] | None = None
    limited: bool = False
    key: str | None = None
    priority: Lane | None = None
    since: float | None = None

    @property
    def identity(self) -> str:
        """The name, and for a user when it was made: a later user of that name is another."""
        return self.name if self.since is None else f"{self.name}/{self.since:.6f}"


class Accounts:
    """Users, API keys and access tokens; `enabled` is whether callers must have any."""

    def __init__(self, config: Config) -> None:
        self.enabled = config.auth_enabled
        self._config = config
        self._rows = RowCache(config.db_url.get_secret_value())
        self.users = Users(self._rows)
        self.keys = ApiKeys(self._rows, self.users)
        self.tokens = _tokens(config)
        self._throttle = LoginThrottle(config.redis_address if config.redis_enabled else None)
        self._stop = threading.Event()
        self._problem: str | None = None  # why there is no first admin yet

    @property
    def problem(self) -> str | None:
        """Why the database is not asked at the moment, or None."""
        return self._rows.problem

    @property
    def throttle_problem(self) -> str | None:
        """Why each process counts wrong passwords only for itself at the moment, or None."""
        return self._throttle.problem

    # -- identifying a caller --------------------------------------------------------------------

    def identify(
        self, credential: str | None, *, local: bool, address: str, fresh: bool = False
    ) -> Caller:
        """Return the caller with this key or token. Raises Unauthorized or Unavailable.

        `local` means that the request comes from this machine and not through a proxy. `fresh`
        reads the database even for a caller of a moment ago: requests that change accounts need
        it, so that a key that another worker has revoked changes nothing.
        """
        if not self.enabled:
            known = _same(credential, self._config.admin_token) or self.holds(credential)
            return Caller(address, "admin" if local or known else "anonymous")
        if credential is None:
            raise Unauthorized("sign in with POST /token, or send an API key as a bearer token")
        if _same(credential, self._config.api_key_secret):
            return Caller(FIXED_KEY, "user", limited=True)
        key = self.keys.find(credential, fresh=fresh)
        caller = self._of(key, fresh) or self._by_token(credential, fresh)
        if caller is None:
            raise Unauthorized(UNKNOWN)
        return caller

    def _of(self, key: ApiKey | None, fresh: bool) -> Caller | None:
        owner = self.users.get(key.owner, fresh=fresh) if key else None
        if key is None or owner is None:
            return None
        role = min(owner.role, key.role or owner.role, key=ROLES.index)
        return Caller(
            owner.username, role, key.collections, key.limited, key.id, key.priority, owner.created
        )

    def _by_token(self, text: str, fresh: bool) -> Caller | None:
        subject, version = self.tokens.verify(text) or ("", 0)
        if subject == FIXED_KEY:
            return Caller(FIXED_KEY, "user", limited=True)
        if subject.startswith(KEY):
            return self._of(self.keys.in_session(subject.removeprefix(KEY), fresh=fresh), fresh)
        user = self.users.get(subject, fresh=fresh) if subject else None
        if user is None or user.token_version != version:
            return None
        return Caller(user.username, user.role, since=user.created)

    def login(self, username: str, password: str, address: str) -> str:
        """Return an access token. Raises Unauthorized, RateLimited, Conflict without a secret."""
        self.tokens.signer(username)  # before a password is hashed
        user = self.check_password(username, password, address)
        return self.tokens.issue(user.username, user.token_version)

    @property
    def takes(self) -> list[Literal["password", "key", "admin_token"]]:
        """What one can sign in with."""
        if self.enabled:
            return ["password", "key"] if self.tokens.signs else ["key"]
        return ["admin_token"] if self._config.admin_token else []

    def holds(self, token: str | None) -> bool:
        """Whether a token is one that signs in here; that its user is still there is not asked."""
        found = self.tokens.verify(token) if token else None
        return found is not None and (self.enabled or found[0] == ADMIN_TOKEN)

    def token_for(self, key: str, address: str) -> str:
        """Return an access token for a key, valid as long as the key and a token are.

        A token is returned as it is: nothing prolongs its life. Raises Unauthorized, Conflict
        without a secret.
        """
        caller = self.identify(key, local=False, address=address, fresh=True)
        if caller.role == "anonymous":
            raise Unauthorized(UNKNOWN)
        if self.tokens.verify(key):
            return key
        fixed = FIXED_KEY if self.enabled else ADMIN_TOKEN
        return self.tokens.issue(f"{KEY}{caller.key}" if caller.key else fixed, 0)

    def check_password(self, username: str, password: str, address: str) -> User:
        """Return the user of this password. Raises Unauthorized, RateLimited after too many."""
        name = username[:64]
        limits = (
            (("user at address", name, address), TRIES_PER_USER),
            (("address", address), TRIES_PER_ADDRESS),
            (("user", name), TRIES_FROM_EVERYWHERE),
        )
        try:
            with self._throttle.attempt(limits):
                if user := self.users.login(username, password):
                    return user
                raise Unauthorized("the username or the password is wrong")
        except RateLimited:
            metrics.RATE_LIMITED.labels("anonymous").inc()
            raise

    # -- the first admin -------------------------------------------------------------------------

    def start(self) -> None:
        """Create the first admin if there is no user; in the background while that fails."""
        if self.enabled and not self._first_admin_exists():
            threading.Thread(target=self._retry, name="first-admin", daemon=True).start()

    def close(self) -> None:
        """Stop the threads and close the connections."""
        self._stop.set()
        self._rows.close()
        self._throttle.close()

    def _retry(self) -> None:
        while not self._stop.wait(RETRY_S):
            if self._first_admin_exists():
                return

    def _first_admin_exists(self) -> bool:
        """Create the first admin if there is no user; log a new reason why that fails."""
        try:
            self._create_first_admin()
        except ServiceError as exc:
            reason = f"the users cannot be read: {exc.message}"
        except OSError as exc:
            reason = (
                "the password of the first admin cannot be written to "
                f"{self._config.data_dir.absolute()} ({exc.strerror or exc}): make DATA_DIR "
                "writable, or set ADMIN_PASSWORD"
            )
        else:
            return True
        if reason != self._problem:
            log.warning("%s; next attempt in %d s", reason, RETRY_S)
        self._problem = reason
        return False

    def _create_first_admin(self) -> None:
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
        where = "ADMIN_PASSWORD" if given else str(file.absolute())
        log.info("created the first admin %r; the password is in %s", name, where)


def _tokens(config: Config) -> AccessTokens:
    """Return what issues tokens: for ADMIN_TOKEN alone while sign-in is off."""
    name, secret, secrets = ADMIN_TOKEN, config.admin_token, []
    if config.auth_enabled:
        name, secret = FIXED_KEY, config.api_key_secret
        secrets = secrets_of(config.jwt_secret_key)
    fixed = {name: secret.get_secret_value()} if secret else {}
    return AccessTokens(secrets, config.token_lifetime_s, fixed)


def _same(credential: str | None, secret: SecretStr | None) -> bool:
    """Whether a credential equals a configured secret; takes the same time either way."""
    if credential is None or secret is None:
        return False
    value = secret.get_secret_value().encode()
    return bool(value) and hmac.compare_digest(credential.encode("utf-8", "surrogatepass"), value)


def _random_password(file: Path) -> str:
    """Return the password in this file, which the first worker creates, readable by its owner only.

    Raises OSError if the file cannot be created.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    password = secrets.token_urlsafe(18)
    _write(temporary, os.O_TRUNC, password)
    try:
        os.link(temporary, file)  # fails if the file exists: the first password counts
    except FileExistsError:
        pass
    except OSError:  # a file system without links: others may see the file while it is empty
        with contextlib.suppress(FileExistsError):
            _write(file, os.O_EXCL, password)
    finally:
        temporary.unlink()
    kept = file.read_text()
    if not kept:
        raise OSError(f"{file} is empty; remove it if it stays empty")
    return kept


def _write(file: Path, flag: int, text: str) -> None:
    """Write a file that only its owner can read, and sync it to the disk."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | flag, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())


def seconds_from(days: float | None) -> float | None:
    """Return the time in so many days, in seconds since the epoch; None stays None."""
    return None if days is None else time.time() + days * 86400
