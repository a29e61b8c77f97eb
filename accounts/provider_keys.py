"""Providers' keys: those kept in SQL under encryption, then those of the environment.

Every call for a key reads its row, which costs little beside the call to the provider that follows,
so a key that was changed in any worker holds in all of them from the next request on. With the
database away the last known rows serve, and nobody waits for it twice. Knows no HTTP.
"""

import logging
import time
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from accounts.sealing import Seal
from circuit_breaker import Guard
from config.access import secrets_of
from config.vault import MAKE_ONE, VaultSettings
from embedders.providers import GetKey
from errors import Busy, Conflict, Invalid, NotFound, Unavailable
from sql.row_cache import Memo

log = logging.getLogger("vault")

Source = Literal["stored", "environment", "none"]
SHOWN = 4  # of a key's characters, and only if there are many more
LONGEST = 4096
ATTEMPTS = 3

KEYS = sa.table(
    "provider_keys",
    sa.column("provider", sa.String),
    sa.column("secret", sa.String),
    sa.column("last_four", sa.String),
    sa.column("version", sa.Integer),
    sa.column("updated", sa.Float),
)


@dataclass(frozen=True)
class KeyState:
    """What may be told of a provider's key."""

    source: Source
    last_four: str | None
    problem: str | None


class Vault:
    """Keeps the keys. `url` is the database's, `environment` gives the process's own keys."""

    def __init__(self, url: str, settings: VaultSettings, environment: GetKey) -> None:
        secrets = secrets_of(settings.encryption_key)
        self._seal = Seal(secrets) if secrets else None
        self._environment = environment
        self._memo = Memo(url)
        self._guard = Guard("the database", self._read_all, (Unavailable,))
        self._sealed: dict[str, str | None] = {}  # the rows as last seen
        self._opened: dict[str, tuple[str, str | None]] = {}  # each with what it holds

    @property
    def problem(self) -> str | None:
        """Why keys that are kept cannot be read now; None while they can, or none are kept."""
        return f"the providers' keys: {self._guard.problem}" if self._guard.problem else None

    def get_key(self, provider: str) -> str | None:
        """Return the key to use for a provider, None if there is none. Never raises."""
        if self._seal is None:
            return self._environment(provider)
        sealed = self._row(provider)
        return (self._open(provider, sealed) if sealed else None) or self._environment(provider)

    def state(self, provider: str) -> KeyState:
        """Return what may be told of a provider's key."""
        sealed = self._row(provider)
        stored = self._open(provider, sealed) if sealed else None
        key = stored or self._environment(provider)
        source: Source = "stored" if stored else "environment" if key else "none"
        problem = self._guard.problem if self._seal else None
        if sealed and stored is None:
            problem = (
                "the stored key cannot be decrypted: ENCRYPTION_KEY is not the one it was "
                "stored under; bring that back, or store the provider's key anew"
            )
        return KeyState(source, last_four(key) if key else None, problem)

    def store(self, provider: str, key: str) -> None:
        """Keep a provider's key, encrypted. Raises Conflict, Invalid, Unavailable."""
        if self._seal is None:
            raise Conflict(
                f"keys are kept only under encryption: set ENCRYPTION_KEY to what this prints and "
                f"start again: {MAKE_ONE}"
            )
        key = key.strip()
        if not (0 < len(key) <= LONGEST and key.isascii() and key.isprintable() and " " not in key):
            raise Invalid(
                f"an API key is 1 to {LONGEST} printable ASCII characters without spaces",
                param="api_key",
            )
        sealed = self._seal.close(provider, key)
        self._keep(provider, {"secret": sealed, "last_four": last_four(key) or ""})
        self._sealed[provider] = sealed  # at once, even if the guard spares the database just now

    def remove(self, provider: str) -> None:
        """Forget a stored key. Raises NotFound, Unavailable."""
        delete = sa.delete(KEYS).where(KEYS.c.provider == provider)
        if not self._memo.write(lambda connection: connection.execute(delete).rowcount):
            raise NotFound(f"no key of {provider} is stored")
        self._sealed[provider] = None

    def renew(self) -> None:
        """Encrypt anew, under the first key, what an older one encrypted. Called at the start."""
        if self._seal is None:
            return
        nothing: dict[str, str] = {}
        for provider, sealed in self._guard.run(self._read_all, nothing).items():
            key = self._seal.open(provider, sealed)
            if key is None:
                log.error("the stored key of %s cannot be decrypted: see GET /providers", provider)
            elif not self._seal.is_newest(provider, sealed):
                self._replace(provider, sealed, self._seal.close(provider, key))

    def close(self) -> None:
        """Let go of connections."""
        self._guard.close()
        self._memo.close()

    def _open(self, provider: str, sealed: str) -> str | None:
        known = self._opened.get(provider)
        if known is None or known[0] != sealed:
            known = sealed, self._seal.open(provider, sealed) if self._seal else None
            self._opened[provider] = known
        return known[1]

    # -- rows ------------------------------------------------------------------------------------

    def _row(self, provider: str) -> str | None:
        return self._guard.run(lambda: self._read(provider), self._sealed.get(provider))

    def _read(self, provider: str) -> str | None:
        row = sa.select(KEYS.c.secret).where(KEYS.c.provider == provider)
        sealed: str | None = self._memo.read(lambda connection: connection.scalar(row))
        self._sealed[provider] = sealed
        return sealed

    def _read_all(self) -> dict[str, str]:
        rows = sa.select(KEYS.c.provider, KEYS.c.secret)
        return self._memo.read(lambda c: {r.provider: r.secret for r in c.execute(rows)})

    def _keep(self, provider: str, values: dict[str, str]) -> None:
        """Change the row, or make it."""
        now = {**values, "updated": time.time()}
        row = sa.update(KEYS).where(KEYS.c.provider == provider)
        update = row.values(version=KEYS.c.version + 1, **now)
        insert = sa.insert(KEYS).values(provider=provider, version=1, **now)
        for _ in range(ATTEMPTS):  # each its own transaction: together they deadlock in MariaDB
            if self._memo.write(lambda connection: connection.execute(update).rowcount):
                return
            try:
                self._memo.write(lambda connection: connection.execute(insert))
                return
            except IntegrityError:
                continue  # another worker made the row in between: now it is there
        raise Busy(f"the key of {provider} is being changed elsewhere; send this again")

    def _replace(self, provider: str, old: str, new: str) -> None:
        """Write `new` unless another worker was here first, with a renewed or another key."""
        update = sa.update(KEYS).where(KEYS.c.provider == provider, KEYS.c.secret == old)
        try:
            self._memo.write(lambda connection: connection.execute(update.values(secret=new)))
        except Unavailable as exc:
            log.warning("the stored key of %s is renewed at the next start: %s", provider, exc)
        else:
            log.info("the stored key of %s is now under the first ENCRYPTION_KEY", provider)


def last_four(key: str) -> str | None:
    """Return a key's last characters; None for one so short that they would tell too much."""
    return key[-SHOWN:] if len(key) >= 4 * SHOWN else None
