"""Hashes and checks passwords with argon2id, a few at a time.

A hash is slow and takes memory on purpose, so only a few run at once: a flood of logins must not
take the machine from those who embed. Few wait for it, as each holds a request's thread. Knows no
users.
"""

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from config.access import LONGEST_PASSWORD, SHORTEST_PASSWORD
from errors import Busy, Invalid

# OWASP's floor for argon2id: 19 MiB, 2 passes, 1 lane (cheatsheetseries, Password Storage); 27 ms
# a hash on a 2-core server.
HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
AT_ONCE = threading.BoundedSemaphore(2)
IN_LINE = threading.BoundedSemaphore(16)  # who hashes or waits to: 0.2 s of work
# Checked for unknown users, so that they take as long as known ones.
_NOBODY = HASHER.hash(secrets.token_urlsafe(32))


def check_new(password: str) -> str:
    """Return a password that may be set. Raises Invalid."""
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise Invalid(
            f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters", param="password"
        )
    return password


def hash_password(password: str) -> str:
    """Return the argon2id hash of a password. Raises Busy."""
    with _turn():
        return HASHER.hash(password)


def verify(password: str, hashed: str | None) -> bool:
    """Tell whether the password is that of the hash; None is a user that does not exist.

    Raises Busy.
    """
    if len(password) > LONGEST_PASSWORD:
        return False
    try:
        with _turn():
            HASHER.verify(hashed or _NOBODY, password)
    except (VerificationError, InvalidHashError, UnicodeEncodeError):
        return False
    return hashed is not None


def outdated(hashed: str) -> bool:
    """Tell whether a hash was made with weaker settings than today's."""
    return HASHER.check_needs_rehash(hashed)


@contextmanager
def _turn() -> Iterator[None]:
    """Wait for a turn to hash. Raises Busy where too many wait already."""
    if not IN_LINE.acquire(blocking=False):
        raise Busy("too many are signing in at once; send this again", retry_after_s=1)
    try:
        with AT_ONCE:
            yield
    finally:
        IN_LINE.release()
