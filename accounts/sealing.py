"""Encrypts small secrets for keeping, and knows which of its keys did it.

Fernet (AES-128-CBC with HMAC-SHA256, https://github.com/fernet/spec) under a list of keys: the
first encrypts, all decrypt. A secret is sealed together with whose it is, so one that was moved to
another row of the database does not open there. Called by the vault; knows not where secrets are.
"""

import base64
import json
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

log = logging.getLogger("vault")

PURPOSE = b"embedding-service: providers' keys, 1"  # changes the derived keys: never to be changed


class Seal:
    """Seals and opens secrets. `keys` are Fernet keys, or any strings, from which keys are made."""

    def __init__(self, keys: Sequence[str]) -> None:
        from cryptography.fernet import MultiFernet

        fernets = [_fernet(key) for key in keys]
        self._newest = fernets[0]
        self._all = MultiFernet(fernets)

    def close(self, owner: str, secret: str) -> str:
        """Encrypt a secret of this owner."""
        return self._newest.encrypt(json.dumps([owner, secret]).encode()).decode()

    def open(self, owner: str, sealed: str) -> str | None:
        """Decrypt; None if no key of ours sealed this for this owner."""
        return _opened(self._all.decrypt, owner, sealed)

    def is_newest(self, owner: str, sealed: str) -> bool:
        """Tell whether the first key sealed it."""
        return _opened(self._newest.decrypt, owner, sealed) is not None


def _opened(decrypt: Callable[[bytes], bytes], owner: str, sealed: str) -> str | None:
    from cryptography.fernet import InvalidToken

    try:
        named, secret = json.loads(decrypt(sealed.encode()))
    except (InvalidToken, ValueError, TypeError):
        return None
    return secret if named == owner and isinstance(secret, str) else None


def _fernet(key: str) -> "Fernet":
    """Read a Fernet key, or make one of any other string (HKDF-SHA256, RFC 5869) and warn."""
    from cryptography.fernet import Fernet
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    try:
        return Fernet(key)
    except ValueError:
        log.warning("an ENCRYPTION_KEY is no Fernet key: one is derived, as strong as the string")
    made = HKDF(algorithm=SHA256(), length=32, salt=None, info=PURPOSE).derive(key.encode())
    return Fernet(base64.urlsafe_b64encode(made))
