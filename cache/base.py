"""What every cache is: bytes by key, and a miss whenever anything is wrong.

Knows nothing of vectors (`entry.py`) or of who asks. No method ever raises: a cache that fails has
nothing and takes nothing, and says so in `problem`.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol


class Cache(Protocol):
    """Values by key. Safe from many threads."""

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, None where there is none, all in one go."""

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Keep the values, or do not."""

    def drop(self, keys: Sequence[bytes]) -> None:
        """Forget the keys."""

    @property
    def problem(self) -> str | None:
        """Why nothing is found just now although there may be something."""

    def status(self) -> dict[str, object]:
        """Return what may be told of it, as JSON."""

    def close(self) -> None:
        """Let go of memory and connections."""
