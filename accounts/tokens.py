"""Access tokens: JSON Web Tokens with a user's name, signed with HMAC-SHA256.

The first secret signs and all verify, so a secret can be replaced without signing anybody out.
Whether the user still exists is checked at every request, not here.
"""

import hashlib
import time
import uuid
from collections.abc import Sequence

import jwt

ALGORITHM = "HS256"
ISSUER = "embedding-service"
CLAIMS = ["exp", "iat", "nbf", "sub", "jti", "ver"]
LEEWAY_S = 5
LONGEST_TOKEN = 4096  # characters; ours have about 400


class AccessTokens:
    """Issues and verifies tokens."""

    def __init__(self, secrets: Sequence[str], lifetime_s: int) -> None:
        self._secrets = {hashlib.sha256(key.encode()).hexdigest()[:8]: key for key in secrets}
        self._first = next(iter(self._secrets), None)
        self.lifetime_s = lifetime_s
        self._jwt = jwt.PyJWT(options={"enforce_minimum_key_length": True})

    @property
    def signs(self) -> bool:
        """Whether there is a secret for signing."""
        return self._first is not None

    def issue(self, username: str, version: int) -> str:
        """Return a token for a user; it is valid while the user's `token_version` is `version`."""
        assert self._first is not None, "no secret for signing"
        now = int(time.time())
        claims = {
            "sub": username, "ver": version, "iat": now, "nbf": now, "exp": now + self.lifetime_s,
            "jti": uuid.uuid4().hex, "iss": ISSUER, "aud": ISSUER,
        }  # fmt: skip
        key = self._secrets[self._first]
        return self._jwt.encode(claims, key, ALGORITHM, headers={"kid": self._first})

    def verify(self, token: str) -> tuple[str, int] | None:
        """Return a token's username and version, or None if it is not ours or not valid now."""
        if len(token) > LONGEST_TOKEN:
            return None
        try:
            key = self._secrets[str(jwt.get_unverified_header(token).get("kid"))]
            claims = self._jwt.decode(
                token, key, algorithms=[ALGORITHM], issuer=ISSUER, audience=ISSUER,
                leeway=LEEWAY_S, options={"require": CLAIMS},
            )  # fmt: skip
            claims["sub"].encode()  # half a surrogate pair is no name, and databases refuse it
        except (jwt.PyJWTError, KeyError, ValueError, TypeError, RecursionError):
            return None
        if not all(type(claims[name]) is int for name in ("exp", "iat", "ver")):
            return None  # PyJWT accepts text as a time
        if claims["exp"] - claims["iat"] > self.lifetime_s:
            return None
        return claims["sub"], claims["ver"]
