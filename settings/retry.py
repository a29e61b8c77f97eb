"""When a worker tries again a model of the settings that it could not load."""

import time
from collections.abc import Mapping

from errors import ServiceError
from settings.keys import MODEL_KEYS

FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0


class ModelRetry:
    """The model settings that this worker could not load, if any.

    Another worker could load them: here a folder is missing, or there is no memory. Each failure
    of the same settings doubles the pause before the next try.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._failed: Mapping[str, str] | None = None
        self._pause_s = 0.0
        self._again_at = 0.0

    @property
    def due(self) -> bool:
        """Whether it is time to try again."""
        return self._failed is not None and time.monotonic() >= self._again_at

    def concerns(self, stored: Mapping[str, str]) -> bool:
        """Whether these stored settings ask for the model that failed."""
        return model_values(stored) == self._failed

    def failed(self, stored: Mapping[str, str], exc: Exception) -> None:
        """Note that the model of these stored settings did not load."""
        first = not self.concerns(stored)
        self._pause_s = FIRST_PAUSE_S if first else min(self._pause_s * 2, LONGEST_PAUSE_S)
        self._failed = model_values(stored)
        self._again_at = time.monotonic() + self._pause_s
        why = exc.message if isinstance(exc, ServiceError) else type(exc).__name__
        self.reason = f"the stored model cannot be used, other changes are: {why}"

    def clear(self) -> None:
        """Note that this worker runs the stored model."""
        self.reason = self._failed = None


def model_values(stored: Mapping[str, str]) -> dict[str, str]:
    """Return the stored settings of the model."""
    return {key: text for key, text in stored.items() if key in MODEL_KEYS}


def with_model_of(running: Mapping[str, str], stored: Mapping[str, str]) -> dict[str, str]:
    """Return the stored settings, but with those of the model from `running`."""
    others = {key: text for key, text in stored.items() if key not in MODEL_KEYS}
    return dict(sorted({**others, **model_values(running)}.items()))
