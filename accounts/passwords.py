"""Hashes and checks passwords with argon2id, a few at a time.

A hash is slow and takes memory on purpose, so a flood of sign-ins must not slow embedding: two run
at once, and few wait, as each holds the thread of a request.
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
IN_LINE = threading.BoundedSemaphore(16)  # that run or wait: 0.2 s of work
# Checked for unknown users, so that they take as long as known ones.
_UNKNOWN = HASHER.hash(secrets.token_urlsafe(32))


def hash_password(password: str) -> str:
    """Return the argon2id hash of a new password. Raises Invalid, Busy if too many wait."""
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise Invalid(
            f"a password needs {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters",
            param="password",
        )
    with _turn():
        return HASHER.hash(password)


def verify(password: str, hashed: str | None) -> bool:
    """Whether this is the password of the hash; always False for None, an unknown user.

    Raises Busy if too many wait.
    """
    if len(password) > LONGEST_PASSWORD:
        return False
    try:
        with _turn():
            HASHER.verify(hashed or _UNKNOWN, password)
    except (VerificationError, InvalidHashError, UnicodeEncodeError):
        return False
    return hashed is not None


def outdated(hashed: str) -> bool:
    """Whether a hash has weaker parameters than `HASHER`."""
    return HASHER.check_needs_rehash(hashed)


@contextmanager
def _turn() -> Iterator[None]:
    """Wait for a turn to hash. Raises Busy if too many wait already."""
    if not IN_LINE.acquire(blocking=False):
        raise Busy("too many sign-ins at once; send this again", retry_after_s=1)
    try:
        with AT_ONCE:
            yield
    finally:
        IN_LINE.release()
