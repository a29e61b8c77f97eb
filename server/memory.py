"""The whole policy on memory: glibc's heap, torch's cache on a GPU, and the garbage collector.

Each function says what it gains. On a C library other than glibc those that tune the heap do
nothing. Loads of models also share one thread, and so do passes (`embedders/loading.py`,
`embedders/device.py`): torch keeps memory for each thread that ever computed.
"""

import contextlib
import ctypes
import gc
import sys
import threading
from collections.abc import Iterator

# Two at once would leave garbage of one among what is exempt.
_freezing = threading.Lock()
_loading = False
_kept_most = 1 << 25  # bytes of a block that stays in the heap; glibc's own upper limit

# Options of mallopt(3), from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def use_few_arenas() -> None:
    """Have all threads share two heaps, where glibc makes eight for each core.

    After 20 exchanges of the model under load: 705 MB against 729 MB (2 cores, 2026-11).
    """
    _mallopt(_ARENA_MAX, 2)


def keep_freed_blocks() -> None:
    """Have glibc keep what a pass frees for the next one.

    Passes take 6 to 12% less time: 870 page faults fewer each.
    """
    global _kept_most
    _kept_most = 1 << 30
    if not _loading:
        _keep_in_heap(_kept_most)


@contextlib.contextmanager
def while_loading() -> Iterator[None]:
    """Give what a load frees back to the system, not to the heap that passes take from.

    With the weights in that heap a BERT of 340 MB took 2.1 times its size after the load, and 3.1
    times with ONNX Runtime; on pages of their own 1.1, and 2.4 with ONNX Runtime, which keeps a
    copy (glibc 2.36, float32, 2026-11; `python -m bench.memory`). Of two loads at the same time the
    first to end ends this for both.
    """
    global _loading
    _loading = True
    _keep_in_heap(1 << 17)  # glibc's first value: a larger block has pages of its own
    try:
        yield
    finally:
        _loading = False
        _keep_in_heap(_kept_most)
        _trim()


def give_back_memory() -> None:
    """Collect garbage, and return what is free to the GPU's other users and to the system."""
    gc.collect()
    if torch := sys.modules.get("torch"):
        with contextlib.suppress(Exception):  # a lost device raises here too
            torch.cuda.empty_cache()
    _trim()


def exempt_from_collection() -> None:
    """Collect garbage, and leave everything alive out of later collections.

    A full collection looks at 450,000 objects, nearly all of them the libraries', and stops every
    thread for 300 to 400 ms (2 cores, AMD EPYC Zen 3, 2026-11-26).
    """
    with _freezing:
        gc.collect()
        gc.freeze()


@contextlib.contextmanager
def exempting_nothing() -> Iterator[None]:
    """Have collections look at everything, as an old model may be part of cyclic garbage."""
    with _freezing:
        exempted = gc.get_freeze_count() > 0
        gc.unfreeze()
        try:
            yield
        finally:
            if exempted:
                gc.freeze()


def _keep_in_heap(most: int) -> None:
    """Keep freed blocks of at most so many bytes in the heap, and as much free at its end."""
    _mallopt(_TRIM_THRESHOLD, most)
    _mallopt(_MMAP_THRESHOLD, most)


def _mallopt(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(option, value)


def _trim() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
