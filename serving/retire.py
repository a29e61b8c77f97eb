"""What a model must pass before it serves, and how one that has served is let go.

Knows no settings and no requests. `registry.py` uses it when the models change while the service
runs: a new model is checked here first, and an old one is freed here once nobody holds it.
"""

import ctypes
import gc
import logging
import sys
import threading
import weakref
from collections.abc import Sequence

import numpy as np

from embedders.base import Embedder, Prompt
from embedders.device import give_back, told
from errors import ModelUnavailable, ServiceError
from serving.replicas import Replicas

log = logging.getLogger("swap")

# Words, another script, one letter: what a model with damaged weights or tokenizer stumbles over.
GOLDEN = ("The quick brown fox jumps over the lazy dog.", "向量 вектор مُتَّجِه", "a")
# A request may wait this long for its turn; an old model is given as long to become idle.
DRAIN_S = 30.0
# How often cyclic garbage, which a failed request leaves behind, is collected while waiting.
COLLECT_EVERY_S = 0.5


def check(embedder: Embedder) -> None:
    """Encode golden texts. Raises ModelUnavailable if the vectors cannot be right."""
    if not embedder.batched:
        return  # a remote model: its provider answers for it, and each call costs money
    try:
        vectors = embedder.encode(embedder.prepare(GOLDEN, Prompt(), "right")).vectors
    except Exception as exc:
        said = exc.message if isinstance(exc, ServiceError) else told(exc)
        raise ModelUnavailable(f"it cannot encode a text ({said})") from exc
    wanted = (len(GOLDEN), embedder.facts.dimension)
    if vectors.shape != wanted:
        raise ModelUnavailable(f"its vectors have the shape {vectors.shape}, not {wanted}")
    if not np.isfinite(vectors).all():
        raise ModelUnavailable("its vectors hold numbers that are not finite")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if embedder.facts.vocabulary is None:  # a word average: zero where it knows none of the words
        vectors, lengths = vectors[lengths[:, 0] > 0], lengths[lengths[:, 0] > 0]
        if len(vectors) < 2:
            return
    if not (lengths > 1e-6).all():
        raise ModelUnavailable("its vectors are all zero, so they cannot be normalised")
    units = vectors / lengths
    if np.abs(np.linalg.norm(units, axis=1) - 1).max() > 1e-3:
        raise ModelUnavailable("its vectors do not have length 1 after normalising")
    if np.ptp(units, axis=0).max() < 1e-6:
        raise ModelUnavailable("it gives every text the same vector")


class Leaving:
    """An embedder that is to be closed once nothing refers to its holder any more.

    Python's own reference count is the drain: a request keeps what it encodes on by referring to
    it, so nothing in use can be closed, and no request pays for being counted.
    """

    def __init__(self, holder: object, embedder: Embedder | Replicas) -> None:
        self._embedder: Embedder | Replicas | None = embedder
        self._gone = threading.Event()
        weakref.finalize(holder, self._gone.set).atexit = False

    def close(self) -> None:
        """Wait for the holder to be gone, close its embedder and forget it."""
        while not self._gone.wait(COLLECT_EVERY_S):
            gc.collect()  # an exception and its traceback refer to each other, and to the model
        if self._embedder is not None:
            self._embedder.close()
            self._embedder = None


def free(leaving: Sequence[Leaving], drain_s: float = DRAIN_S) -> None:
    """Close each embedder as soon as its holder is gone, and give its memory back.

    The caller must have let go of the holders. Returns when all are closed, or after `drain_s`;
    what is in use even then is closed later, in a thread. Where none leaves, what a load that
    failed has left behind is freed.
    """
    if not leaving:
        give_back_memory()
        return
    done = threading.Event()

    def close_all() -> None:
        spared = gc.get_freeze_count() > 0
        gc.unfreeze()  # an old model may be part of cyclic garbage
        for each in leaving:
            each.close()
        give_back_memory()
        if spared:
            gc.freeze()
        done.set()

    threading.Thread(target=close_all, name="model-free", daemon=True).start()
    if not done.wait(drain_s):
        log.warning("an old model is still in use after %.0f s; it is freed later", drain_s)


def give_back_memory() -> None:
    """Return freed memory to the GPU and the operating system: torch and glibc would keep it."""
    give_back()
    if sys.platform == "linux":
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except (OSError, AttributeError):  # another C library than glibc
            log.debug("malloc_trim is not to be had")


def spare_collections() -> None:
    """Collect cyclic garbage, and leave what is alive out of every collection from now on.

    A full one looks at 450,000 objects, the libraries' nearly all, and stops every thread for 300
    to 400 ms (2 cores, AMD EPYC Zen 3, 2026-11-26).
    """
    gc.collect()
    gc.freeze()
