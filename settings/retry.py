"""A change of the model that this process could not follow, and when it tries again.

Such a model may load in the worker that was told and not here: its folder is missing, or there is
no room. Everything else is followed meanwhile. Knows no models, only the settings that name them.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from errors import ServiceError
from settings.keys import MODEL_KEYS

FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0


@dataclass(frozen=True)
class Refusal:
    """What could not be had. `again_at` is by `time.monotonic()`."""

    wanted: Mapping[str, str]
    reason: str
    pause_s: float
    again_at: float

    @classmethod
    def of(cls, kept: Mapping[str, str], exc: Exception, before: Self | None) -> Self:
        """Note that these kept settings failed; each failure of the same doubles the pause."""
        wanted = model_values(kept)
        pause = FIRST_PAUSE_S
        if before and before.wanted == wanted:
            pause = min(before.pause_s * 2, LONGEST_PAUSE_S)
        why = exc.message if isinstance(exc, ServiceError) else type(exc).__name__
        reason = f"a change of the model cannot be followed, all others are: {why}"
        return cls(wanted, reason, pause, time.monotonic() + pause)

    @property
    def due(self) -> bool:
        """Whether it is time to try again."""
        return time.monotonic() >= self.again_at

    def concerns(self, kept: Mapping[str, str]) -> bool:
        """Tell whether these kept settings want the same model."""
        return model_values(kept) == self.wanted


def model_values(kept: Mapping[str, str]) -> dict[str, str]:
    """Return what the kept settings say of the model."""
    return {key: text for key, text in kept.items() if key in MODEL_KEYS}


def with_models_of(running: Mapping[str, str], kept: Mapping[str, str]) -> dict[str, str]:
    """Return the kept settings, but the model's as they run."""
    others = {key: text for key, text in kept.items() if key not in MODEL_KEYS}
    return dict(sorted({**others, **model_values(running)}.items()))
