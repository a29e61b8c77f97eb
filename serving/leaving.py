"""The end of a model that serves no more: closed when nothing uses it, and its memory returned."""

import gc
import logging
import threading
import weakref
from collections.abc import Sequence

from server.memory import exempting_nothing, give_back_memory
from serving.encoder import Encoder
from serving.model import Loaded, Model

log = logging.getLogger("models")

# A request may wait this long for its turn; an old model is given as long to become idle.
DRAIN_S = 30.0
# How often cyclic garbage, which a failed request leaves behind, is collected while waiting.
COLLECT_EVERY_S = 0.5


class Leaving:
    """An encoder that is closed once nothing refers to its holder any more.

    Python's reference count is the drain: a request refers to what it encodes on, so nothing in use
    is closed, and no request pays for being counted.
    """

    def __init__(self, holder: object, encoder: Encoder) -> None:
        self._encoder: Encoder | None = encoder
        self._gone = threading.Event()
        weakref.finalize(holder, self._gone.set).atexit = False

    @classmethod
    def of(cls, loaded: Loaded) -> "Leaving":
        """Return what to close of a loaded model, without a reference to it."""
        return cls(loaded, loaded.encoder)

    def close(self) -> None:
        """Wait until the holder is gone, then close its encoder and forget it."""
        while not self._gone.wait(COLLECT_EVERY_S):
            with exempting_nothing():
                gc.collect()  # an exception and its traceback refer to each other, and to the model
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None


def free(leaving: Sequence[Leaving], drain_s: float = DRAIN_S) -> None:
    """Close each encoder as soon as its holder is gone, and return its memory.

    The caller must not refer to the holders. Returns when all are closed, or after `drain_s`; what
    is in use even then is closed later, in a thread. With none to close it frees what a failed load
    left behind.
    """
    if not leaving:
        give_back_memory()
        return
    done = threading.Event()

    def close_all() -> None:
        for each in leaving:
            each.close()
        with exempting_nothing():
            give_back_memory()
        done.set()

    threading.Thread(target=close_all, name="model-free", daemon=True).start()
    if not done.wait(drain_s):
        log.warning("an old model is still in use after %.0f s; it is freed later", drain_s)


def leaving_of(models: Sequence[Model]) -> list[Leaving]:
    """Return what to close of models that no longer serve, without a reference to them."""
    return [Leaving.of(held) for model in models if (held := model.held) is not None]
