"""Which device and dtype a model gets, and what a pass that fails there means.

Where memory ran out the pass is made once more with all freed that can be; a lost device is told,
for this process cannot use it again. The passes on a GPU share one thread. Knows no model.
"""

import contextlib
import gc
import json
import logging
import math
import re
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from embedders.base import DeviceBroken, Embedder, Encoded, Item, OutOfMemory, Vectors
from errors import ModelUnavailable

log = logging.getLogger("embedders")
T = TypeVar("T")
Forward = Callable[[Sequence[Item]], Vectors]

GPU_TOKENS = 16_384  # padded tokens of one pass on a GPU
BESIDE = 512 << 20  # bytes on a GPU beside weights and states: kernels, workspaces, fragments
# Parts of the model_type of kinds that overflow in float16: T5 (transformers keeps its `wo` in
# float32), Gemma (EmbeddingGemma's model card), and what vLLM refuses to run in it (Gemma too).
FLOAT16_OVERFLOWS = ("t5", "gemma", "glm4", "plamo2")
# What messages say. torch has a class for what its allocator and its CUDA calls raise, and a bare
# RuntimeError for what libraries do; a CUDA call that allocates has the class of a lost device.
_FULL = re.compile("(?i)out of memory|ALLOC(ATION)?_FAILED|can't allocate|not enough memory")
_LOST = re.compile(
    r"CU(BLAS|DNN)_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR|NOT_INITIALIZED|MAPPING_ERROR)"
    r"|CUDA error(?!: CUBLAS_STATUS)|CUDA driver error"
)


def room_for(folder: Path, dtype: Any = None) -> int:
    """Return the bytes that a model needs on a GPU: its weights in `dtype`, and a full pass.

    Without a dtype it is float32's. Reads the files' headers only.
    """
    numbers = GPU_TOKENS * _numbers_a_token(folder)
    for file in folder.rglob("*.safetensors"):
        with file.open("rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        header.pop("__metadata__", None)
        numbers += sum(math.prod(row["shape"]) for row in header.values())
    return numbers * (dtype.itemsize if dtype is not None else 4) + BESIDE


def _numbers_a_token(folder: Path) -> int:
    """Return how many numbers a pass holds for each token, at most: some states and one layer."""
    for path in (folder / "config.json", *sorted(folder.glob("0_*/config.json"))):
        if path.is_file():
            config = json.loads(path.read_text(encoding="utf-8"))
            config = config.get("text_config") or config
            hidden = config.get("hidden_size") or config.get("d_model") or 0
            inner = config.get("intermediate_size") or config.get("d_ff") or 4 * hidden
            return 8 * int(hidden) + 3 * int(inner)
    return 0


def choose_device(wanted: str, needed: int = 0) -> Any:
    """Return the torch device for `cpu`, `cuda`, `cuda:N`, `mps` or `auto`.

    `auto` is a GPU that computes and has `needed` bytes free, else the CPU. Raises ModelUnavailable
    for a device that this machine does not have, or that cannot compute.
    """
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if wanted == "auto":
        device = torch.device("cuda")
        if cuda and _computes(device) and _has_room(device, needed):
            return device
        return torch.device("mps" if mps else "cpu")
    device = torch.device(wanted)
    count = torch.cuda.device_count() if cuda else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ModelUnavailable(
            f"DEVICE={wanted}: this machine has {count} CUDA devices; use cpu or auto"
        )
    if device.type == "mps" and not mps:
        raise ModelUnavailable("DEVICE=mps: this machine has no Apple GPU; use cpu or auto")
    if device.type == "cuda":
        _prove(device, wanted)
    return device


def _computes(device: Any) -> bool:
    """Tell whether a GPU can be used. Raises ModelUnavailable if models here have lost theirs."""
    import torch

    try:
        _prove(device, "auto")
    except ModelUnavailable as exc:
        if isinstance(meaning(exc), DeviceBroken) and torch.cuda.memory_allocated(device):
            raise  # a new process has it again: one model on the CPU for ever is no way out
        log.warning("%s: using the CPU", exc.message)
        return False
    return True


def _prove(device: Any, wanted: str) -> None:
    """Multiply on a GPU: it may be too old for this torch. Raises ModelUnavailable."""
    try:
        _thread_of(device).run(lambda: _product(device))
    except Exception as exc:
        never = re.search("no kernel image|busy or unavailable", str(exc))
        lost = None if never else exc  # a new process may have what was lost, not what never was
        raise ModelUnavailable(f"DEVICE={wanted}: {device} cannot compute ({told(exc)})") from lost


def _product(device: Any) -> float:
    import torch

    ones = torch.ones(16, 16, device=device)
    return float((ones @ ones).sum())


def _has_room(device: Any, needed: int) -> bool:
    import torch

    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    # What is left in torch's own hands is for the next model too.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if free < needed:
        log.warning("%d of %d MB are free on the GPU: using the CPU", free >> 20, needed >> 20)
    return bool(free >= needed)


def choose_dtype(wanted: str, device: Any, model_type: str = "") -> Any:
    """Return the torch dtype; `auto` is bfloat16 where the hardware computes in it natively.

    On GPUs before that (compute capability 8.0) it is float16, or float32 for kinds that overflow.
    """
    import torch

    if wanted != "auto":
        return getattr(torch, wanted)
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return torch.bfloat16  # is_bf16_supported() is true of emulation as well
        overflows = any(part in model_type for part in FLOAT16_OVERFLOWS)
        return torch.float32 if overflows else torch.float16
    native = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    if device.type == "cpu" and any(getattr(torch.cpu, flag, bool)() for flag in native):
        return torch.bfloat16
    return torch.float32


def meaning(exc: Exception) -> Exception:
    """Return what a failure on a device means: OutOfMemory, DeviceBroken, or it is itself.

    What it was raised from counts too: a model's loader wraps what torch raised.
    """
    torch = sys.modules.get("torch")
    seen: BaseException | None = exc
    while seen is not None:
        if isinstance(seen, OutOfMemory | DeviceBroken):
            return seen
        full, text = isinstance(seen, MemoryError), str(seen)
        if torch and isinstance(seen, RuntimeError):
            full = isinstance(seen, torch.OutOfMemoryError) or bool(_FULL.search(text))
            full = full or getattr(seen, "error_code", None) == 2  # cudaErrorMemoryAllocation
            if not full and (isinstance(seen, torch.AcceleratorError) or _LOST.search(text)):
                return DeviceBroken(f"the device failed ({told(seen)})")
        if full:
            return OutOfMemory("the memory is full")
        seen = seen.__cause__
    return exc


def told(exc: BaseException) -> str:
    """Return an exception's class and the first line of its text, for whoever runs the service."""
    first = str(exc).strip().partition("\n")[0]
    return f"{type(exc).__name__}: {first[:200]}" if first else type(exc).__name__


def bare(exc: Exception) -> Exception:
    """Return an exception without its past: tracebacks hold the tensors of the pass that failed."""
    exc.__traceback__ = exc.__context__ = exc.__cause__ = None
    return exc


def give_back() -> None:
    """Collect garbage, and give GPU memory that torch keeps unused back to others."""
    gc.collect()
    if torch := sys.modules.get("torch"):
        with contextlib.suppress(Exception):  # a lost device raises here too
            torch.cuda.empty_cache()


class OneThread:
    """A thread that does the work of many, in turn. One that hangs holds up no end of a process."""

    def __init__(self, name: str) -> None:
        self._inbox: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Callable[[], T]) -> T:
        """Have `work` done; return its result or raise what it raised."""
        if threading.current_thread() is self._thread:
            return work()
        done: Future[T] = Future()
        self._inbox.put((done, work))
        try:
            return done.result()
        finally:
            del done  # it holds the exception, whose traceback holds this frame

    def _serve(self) -> None:
        while True:
            done, work = self._inbox.get()
            try:
                done.set_result(work())
            except BaseException as exc:  # whoever waits raises it
                done.set_exception(exc)
            del done, work  # they hold a model


_threads: dict[int, OneThread] = {}
_making = threading.Lock()


def _thread_of(device: Any) -> OneThread:
    """Return the thread in which all passes on a GPU run.

    cuBLAS keeps a handle and a workspace for each thread that ever multiplied: 32 MiB on Hopper,
    4 GiB for 128 threads of requests.
    """
    with _making:
        if (index := device.index or 0) not in _threads:
            _threads[index] = OneThread(f"cuda:{index}")
        return _threads[index]


class DeviceEmbedder(Embedder):
    """An embedder whose passes run on one device."""

    _device: Any  # a torch.device

    def _forward(self, items: Sequence[Item]) -> Vectors:
        """Run one pass. Returns (n, d) float32; raises what torch does."""
        raise NotImplementedError

    def _forward_exactly(self, items: Sequence[Item]) -> Vectors:
        """Run one pass in float32. Returns (n, d) float32; raises what torch does."""
        return self._forward(items)

    def _release(self) -> None:
        """Drop every reference to weights."""

    def encode(self, items: Sequence[Item], deadline: float | None = None) -> Encoded:
        """Run one pass over all `items`. Returns (n, d) float32.

        Raises OutOfMemory for a pass that is too large even with all freed that can be,
        DeviceBroken for a lost device. The model stays where it is.
        """
        return self._guarded(self._forward, items)

    def encode_exactly(self, items: Sequence[Item]) -> Encoded:
        """Run one pass in float32, after rows came out that are not finite. Raises as `encode`."""
        return self._guarded(self._forward_exactly, items)

    def close(self) -> None:
        """Free the model's memory, as far as its device still can."""
        with contextlib.suppress(Exception):
            self._release()
        give_back()

    def _guarded(self, forward: Forward, items: Sequence[Item]) -> Encoded:
        outcome = self._outcome(forward, items)
        if isinstance(outcome, OutOfMemory):
            give_back()
            outcome = self._outcome(forward, items)
        if isinstance(outcome, Exception):
            try:
                raise outcome
            finally:
                del outcome  # else it would hold this frame, and this frame it
        return Encoded(outcome, [item.tokens for item in items])

    def _outcome(self, forward: Forward, items: Sequence[Item]) -> Vectors | Exception:
        """Run a pass where it belongs; return its vectors, or what its failure means."""

        def outcome() -> Vectors | Exception:
            try:
                return forward(items)
            except Exception as exc:
                return bare(meaning(exc))

        return _thread_of(self._device).run(outcome) if self._device.type == "cuda" else outcome()
