"""Hashes and checks passwords with argon2id, a few at a time.

A hash is slow and takes memory on purpose, so only a few run at once: a flood of logins must not
take the machine from those who embed. Knows no users.
"""

import secrets
import threading

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from errors import Invalid

# OWASP's floor for argon2id: 19 MiB, 2 passes, 1 lane (cheatsheetseries, Password Storage); 27 ms
# a hash on a 2-core server.
HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
AT_ONCE = threading.BoundedSemaphore(2)
SHORTEST, LONGEST = 8, 1024  # characters; a megabyte of password is an attack
# Checked for unknown users, so that they take as long as known ones.
_NOBODY = HASHER.hash(secrets.token_urlsafe(32))


def check_new(password: str) -> str:
    """Return a password that may be set. Raises Invalid."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise Invalid(f"a password has {SHORTEST} to {LONGEST} characters", param="password")
    return password


def hash_password(password: str) -> str:
    """Return the argon2id hash of a password."""
    with AT_ONCE:
        return HASHER.hash(password)


def verify(password: str, hashed: str | None) -> bool:
    """Tell whether the password is that of the hash; None is a user that does not exist."""
    if len(password) > LONGEST:
        return False
    try:
        with AT_ONCE:
            HASHER.verify(hashed or _NOBODY, password)
    except (VerificationError, InvalidHashError, UnicodeEncodeError):
        return False
    return hashed is not None


def outdated(hashed: str) -> bool:
    """Tell whether a hash was made with weaker settings than today's."""
    return HASHER.check_needs_rehash(hashed)
