"""API keys of remote providers: stored in SQL under encryption, else those of the environment.

Every call for a key reads its row, which costs little next to the call to the provider, so a new
key is used by every worker from the next request on. While the database is away the last known keys
are used.
"""

import base64
import contextlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from config.access import secrets_of
from config.models import MAKE_FERNET_KEY, ProviderSettings
from embedders.providers import GetKey
from errors import Busy, Conflict, Invalid, NotFound, ServiceError, Unavailable
from sql.database import Database
from sql.errors import Violation
from sql.tables import PROVIDER_KEYS as KEYS

log = logging.getLogger("provider_keys")

Source = Literal["stored", "environment", "none"]
SHOWN = 4  # characters of a key, and only of a long one
LONGEST = 4096
ATTEMPTS = 3
# Every derived encryption key depends on this: a change makes stored keys unreadable.
PURPOSE = b"embedding-service: providers' keys, 1"


@dataclass(frozen=True)
class KeyState:
    """What an admin may see of a provider's key."""

    source: Source
    last_four: str | None
    problem: str | None


class ProviderKeys:
    """The keys of all providers. `environment` returns the one that the process started with."""

    def __init__(self, url: str, settings: ProviderSettings, environment: GetKey) -> None:
        secrets = secrets_of(settings.encryption_key)
        self._seal = Seal(secrets) if secrets else None
        self._environment = environment
        self._database = Database(url)  # which is opened when it is first used
        # The rows as last seen, encrypted and decrypted.
        self._known: dict[str, tuple[str | None, str | None]] = {}

    @property
    def problem(self) -> str | None:
        """Why stored keys cannot be read now, or None."""
        problem = self._database.problem
        return f"the providers' keys: {problem}" if problem else None

    def get_key(self, provider: str) -> str | None:
        """Return the key to use for a provider, or None. Never raises."""
        stored = self._stored(provider)[1] if self._seal else None
        return stored or self._environment(provider)

    def state(self, provider: str) -> KeyState:
        """Return what an admin may see of a provider's key."""
        sealed, stored = self._stored(provider)
        key = stored or self._environment(provider)
        source: Source = "stored" if stored else "environment" if key else "none"
        problem = self._database.problem if self._seal else None
        if sealed and stored is None:
            problem = (
                "the stored key cannot be decrypted: ENCRYPTION_KEY is not the one it was "
                "encrypted with; restore that one, or store the provider's key again"
            )
        return KeyState(source, last_four(key) if key else None, problem)

    def store(self, provider: str, key: str) -> None:
        """Encrypt and store a provider's key. Raises Conflict, Invalid, Unavailable."""
        if self._seal is None:
            raise Conflict(
                "keys are stored only under encryption: set ENCRYPTION_KEY to what this prints and "
                f"restart: {MAKE_FERNET_KEY}"
            )
        key = key.strip()
        if not (0 < len(key) <= LONGEST and key.isascii() and key.isprintable() and " " not in key):
            raise Invalid(
                f"an API key is 1 to {LONGEST} printable ASCII characters without spaces",
                param="api_key",
            )
        sealed = self._seal.encrypt(provider, key)
        self._write(provider, sealed)
        self._known[provider] = sealed, key

    def remove(self, provider: str) -> None:
        """Delete a stored key. Raises NotFound, Unavailable."""
        delete = sa.delete(KEYS).where(KEYS.c.provider == provider)
        if not self._database.write(lambda connection: connection.execute(delete).rowcount):
            raise NotFound(f"no key of {provider} is stored")
        self._known.pop(provider, None)

    def renew(self) -> None:
        """Encrypt again, with the first encryption key, what an older one encrypted."""
        if self._seal is None:
            return
        query = sa.select(KEYS.c.provider, KEYS.c.secret)
        try:
            rows = self._database.read(lambda connection: connection.execute(query).all())
        except ServiceError as exc:
            log.warning("the stored keys of providers cannot be read: %s", exc)
            return
        for provider, sealed in rows:
            key = self._seal.decrypt(provider, sealed)
            if key is None:
                log.error("the stored key of %s cannot be decrypted: see GET /providers", provider)
            elif not self._seal.is_newest(sealed):
                self._replace(provider, sealed, self._seal.encrypt(provider, key))

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def _stored(self, provider: str) -> tuple[str | None, str | None]:
        """Return the stored key, encrypted and decrypted, each None if there is none.

        While the database is away that is the last known one.
        """
        known = self._known.get(provider, (None, None))
        if self._database.problem is None:
            query = sa.select(KEYS.c.secret).where(KEYS.c.provider == provider)
            with contextlib.suppress(ServiceError):
                sealed = self._database.read(lambda c: c.scalar(query))
                if sealed != known[0]:
                    key = self._seal.decrypt(provider, sealed) if self._seal and sealed else None
                    known = self._known[provider] = sealed, key
        return known

    def _write(self, provider: str, sealed: str) -> None:
        values = {"secret": sealed, "updated": time.time()}
        update = sa.update(KEYS).where(KEYS.c.provider == provider).values(values)
        insert = sa.insert(KEYS).values(provider=provider, **values)
        # Two transactions, as MariaDB finds a deadlock between two workers that do both in one.
        for _ in range(ATTEMPTS):
            if self._database.write(lambda c: c.execute(update).rowcount, lambda _: False):
                return
            with contextlib.suppress(Violation):  # another worker has just inserted the row
                self._database.write(lambda c: c.execute(insert))
                return
        raise Busy(f"the key of {provider} is being changed elsewhere; send this again")

    def _replace(self, provider: str, old: str, new: str) -> None:
        """Write `new` unless another worker has changed the row meanwhile."""
        update = sa.update(KEYS).where(KEYS.c.provider == provider, KEYS.c.secret == old)
        try:
            self._database.write(lambda c: c.execute(update.values(secret=new)), lambda _: False)
        except Unavailable as exc:
            log.warning("the stored key of %s is renewed at the next start: %s", provider, exc)
        else:
            log.info("the stored key of %s is now under the first ENCRYPTION_KEY", provider)


def last_four(key: str) -> str | None:
    """Return the last characters of a key, or None if it is too short to show any."""
    return key[-SHOWN:] if len(key) >= 4 * SHOWN else None


class Seal:
    """Encrypts secrets with Fernet (AES-128-CBC, HMAC-SHA256): the first key encrypts, all decrypt.

    `keys` are Fernet keys, or any strings, from which keys are derived. A secret is encrypted
    together with its owner, so it cannot be decrypted after it is moved to another row.
    https://github.com/fernet/spec
    """

    def __init__(self, keys: Sequence[str]) -> None:
        fernets = [_fernet(key) for key in keys]
        self._newest = fernets[0]
        self._all = MultiFernet(fernets)

    def encrypt(self, owner: str, secret: str) -> str:
        """Return the secret of this owner, encrypted."""
        return self._newest.encrypt(json.dumps([owner, secret]).encode()).decode()

    def decrypt(self, owner: str, sealed: str) -> str | None:
        """Return the secret, or None if none of the keys encrypted it for this owner."""
        try:
            named, secret = json.loads(self._all.decrypt(sealed.encode()))
        except (InvalidToken, ValueError, TypeError):
            return None
        return secret if named == owner and isinstance(secret, str) else None

    def is_newest(self, sealed: str) -> bool:
        """Whether the first key encrypted it."""
        try:
            return bool(self._newest.decrypt(sealed.encode()))
        except InvalidToken:
            return False


def _fernet(key: str) -> Fernet:
    """Return a Fernet key; from another string one is derived (HKDF, RFC 5869), with a warning."""
    try:
        return Fernet(key)
    except ValueError:
        log.warning("an ENCRYPTION_KEY is no Fernet key: one is derived, as strong as the string")
    made = HKDF(algorithm=SHA256(), length=32, salt=None, info=PURPOSE).derive(key.encode())
    return Fernet(base64.urlsafe_b64encode(made))
