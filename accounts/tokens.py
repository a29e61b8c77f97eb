"""Access tokens: JSON Web Tokens with a user's name or a key's id, signed with HMAC-SHA256.

The first secret signs and all verify, so a secret can be replaced without signing anybody out.
A fixed key signs its own tokens, so that they end with it. Whether the user or the key still exists
is checked at every request, not here.
"""

import hashlib
import time
import uuid
from collections.abc import Mapping, Sequence
from functools import cache

import jwt

from errors import Conflict

ALGORITHM = "HS256"
ISSUER = "embedding-service"
CLAIMS = ["exp", "iat", "nbf", "sub", "jti", "ver"]
LEEWAY_S = 5
LONGEST_TOKEN = 4096  # characters; ours have about 400


class AccessTokens:
    """Issues and verifies tokens. Each of the `fixed` secrets, by subject, signs for that alone."""

    def __init__(
        self, secrets: Sequence[str], lifetime_s: int, fixed: Mapping[str, str] | None = None
    ) -> None:
        self._secrets = {hashlib.sha256(key.encode()).hexdigest()[:8]: key for key in secrets}
        self._first = next(iter(self._secrets), None)
        self._fixed = fixed or {}
        self.lifetime_s = lifetime_s
        self._jwt = jwt.PyJWT(options={"enforce_minimum_key_length": True})

    @property
    def signs(self) -> bool:
        """Whether there is a secret for signing users' tokens."""
        return self._first is not None

    def signer(self, subject: str) -> str:
        """Return the id of what signs for a subject. Raises Conflict if there is nothing."""
        kid = subject if subject in self._fixed else self._first
        if kid is None:
            raise Conflict(
                "signing in needs JWT_SECRET_KEY, which is not set: send an API key with each "
                "request instead"
            )
        return kid

    def issue(self, subject: str, version: int) -> str:
        """Return a token for a user or key; a user's is valid while `token_version` is `version`.

        Raises Conflict if there is no secret for it.
        """
        kid, now = self.signer(subject), int(time.time())
        claims = {
            "sub": subject, "ver": version, "iat": now, "nbf": now, "exp": now + self.lifetime_s,
            "jti": uuid.uuid4().hex, "iss": ISSUER, "aud": ISSUER,
        }  # fmt: skip
        return self._jwt.encode(claims, self._secret(kid), ALGORITHM, headers={"kid": kid})

    def verify(self, token: str) -> tuple[str, int] | None:
        """Return a token's subject and version, or None if it is not ours or not valid now."""
        if len(token) > LONGEST_TOKEN:
            return None
        try:
            kid = str(jwt.get_unverified_header(token).get("kid"))
            claims = self._jwt.decode(
                token, self._secret(kid), algorithms=[ALGORITHM], issuer=ISSUER, audience=ISSUER,
                leeway=LEEWAY_S, options={"require": CLAIMS},
            )  # fmt: skip
            claims["sub"].encode()  # half a surrogate pair is no name, and databases refuse it
        except (jwt.PyJWTError, KeyError, ValueError, TypeError, RecursionError):
            return None
        if not all(type(claims[name]) is int for name in ("exp", "iat", "ver")):
            return None  # PyJWT accepts text as a time
        if claims["exp"] - claims["iat"] > self.lifetime_s:
            return None
        if (kid in self._fixed or claims["sub"] in self._fixed) and claims["sub"] != kid:
            return None  # a fixed key vouches for itself alone, and nothing else for it
        return claims["sub"], claims["ver"]

    def _secret(self, kid: str) -> str:
        """Return what signs under this id. Raises KeyError."""
        return _stretched(self._fixed[kid]) if kid in self._fixed else self._secrets[kid]


@cache
def _stretched(secret: str) -> str:
    """Return a signing secret made of a fixed key, which may be as short as 16 characters.

    Who has a token can guess at its secret offline: each guess takes 16 MB and 50 ms.
    """
    return hashlib.scrypt(secret.encode(), salt=ISSUER.encode(), n=2**14, r=8, p=1).hex()
