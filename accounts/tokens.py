"""Access tokens: JSON Web Tokens that say who signed in, and for how long.

Signed with HMAC-SHA256 by the first of the secrets; all of them verify, so that a secret can be
exchanged without signing anybody out. Knows no users: whether one may still come in is asked anew
at every request.
"""

import hashlib
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import jwt

ALGORITHM = "HS256"
ISSUER = "embedding-service"
CLAIMS = ["exp", "iat", "nbf", "sub", "jti", "ver"]
LEEWAY_S = 5
LONGEST_TOKEN = 4096  # characters; ours have about 400


@dataclass(frozen=True)
class Ticket:
    """A verified token's content."""

    username: str
    version: int


class Tickets:
    """Issues and verifies tokens."""

    def __init__(self, secrets: Sequence[str], lifetime_s: int) -> None:
        self._secrets = {hashlib.sha256(key.encode()).hexdigest()[:8]: key for key in secrets}
        self._first = next(iter(self._secrets), None)
        self.lifetime_s = lifetime_s
        self._jwt = jwt.PyJWT(options={"enforce_minimum_key_length": True})

    @property
    def signs(self) -> bool:
        """Whether there is a secret to sign with."""
        return self._first is not None

    def issue(self, username: str, version: int) -> str:
        """Return a signed token for a user's current version."""
        assert self._first is not None, "no secret to sign with"
        now = int(time.time())
        claims = {
            "sub": username, "ver": version, "iat": now, "nbf": now, "exp": now + self.lifetime_s,
            "jti": uuid.uuid4().hex, "iss": ISSUER, "aud": ISSUER,
        }  # fmt: skip
        key = self._secrets[self._first]
        return self._jwt.encode(claims, key, ALGORITHM, headers={"kid": self._first})

    def verify(self, token: str) -> Ticket | None:
        """Return what a token says, or None for any that is not ours or not good now."""
        if len(token) > LONGEST_TOKEN:
            return None
        try:
            key = self._secrets[str(jwt.get_unverified_header(token).get("kid"))]
            claims = self._jwt.decode(
                token, key, algorithms=[ALGORITHM], issuer=ISSUER, audience=ISSUER,
                leeway=LEEWAY_S, options={"require": CLAIMS},
            )  # fmt: skip
            claims["sub"].encode()  # half a surrogate pair is no name, and no database takes it
        except (jwt.PyJWTError, KeyError, ValueError, TypeError, RecursionError):
            return None
        times_and_version = claims["exp"], claims["iat"], claims["ver"]
        if not all(type(value) is int for value in times_and_version):
            return None  # a number as text passes for a time in PyJWT
        if claims["exp"] - claims["iat"] > self.lifetime_s:
            return None
        return Ticket(claims["sub"], claims["ver"])
