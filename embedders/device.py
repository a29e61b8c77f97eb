"""Chooses a model's device and dtype, and handles passes that fail on the device.

After out of memory a pass is repeated once, with everything freed that can be. A lost device is an
error of its own, as this process cannot use it again. All passes on a GPU share one thread.
"""

import contextlib
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

from embedders.base import (
    DeviceBroken,
    Embedder,
    Encoded,
    Gone,
    Item,
    OutOfMemory,
    Small,
    Vectors,
)
from embedders.folder import network_config
from errors import ModelUnavailable
from observability.machine import has_nvidia
from server.memory import give_back_memory

log = logging.getLogger("embedders")
T = TypeVar("T")
Result = Vectors | Encoded  # of one pass; of vectors alone the tokens are known
Finish = Callable[[], Result]  # waits for a pass that was begun

GPU_TOKENS = 16_384  # padded tokens of one pass on a GPU
OVERHEAD = 512 << 20  # bytes on a GPU for kernels, workspaces and fragments
# Parts of the model_type of networks that overflow in float16: T5 (transformers keeps its `wo` in
# float32), Gemma (EmbeddingGemma's model card), and those that vLLM refuses in it (Gemma too).
FLOAT16_OVERFLOWS = ("t5", "gemma", "glm4", "plamo2")
# Parts of messages. torch has classes for errors of its allocator and of its CUDA calls, and a bare
# RuntimeError for those of libraries; a CUDA call that allocates has the class of a lost device.
_FULL = re.compile("(?i)out of memory|ALLOC(ATION)?_FAILED|can't allocate|not enough memory")
_LOST = re.compile(
    r"CU(BLAS|DNN)_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR|NOT_INITIALIZED|MAPPING_ERROR)"
    r"|CUDA error(?!: CUBLAS_STATUS)|CUDA driver error"
)


def room_for(folder: Path, dtype: Any = None) -> int:
    """Return the bytes that a model needs on a GPU: its weights in `dtype`, and a full pass.

    Without a dtype it is float32. Only the headers of the files are read.
    """
    config = network_config(folder)
    config = config.get("text_config") or config
    hidden = config.get("hidden_size") or config.get("d_model") or 0
    inner = config.get("intermediate_size") or config.get("d_ff") or 4 * hidden
    # At most so many numbers for each token of a pass: several states and one layer.
    numbers = GPU_TOKENS * (8 * int(hidden) + 3 * int(inner))
    for file in folder.rglob("*.safetensors"):
        with file.open("rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        header.pop("__metadata__", None)
        numbers += sum(math.prod(row["shape"]) for row in header.values())
    return numbers * (dtype.itemsize if dtype is not None else 4) + OVERHEAD


def choose_device(wanted: str, needed: int = 0) -> Any:
    """Return the torch device for `cpu`, `cuda`, `cuda:N`, `mps` or `auto`.

    `auto` is a GPU that computes and has `needed` bytes free, else the CPU. `cuda` is the CPU on a
    machine that shows no NVIDIA device or driver at all, never for one that fails or was lost.
    Raises ModelUnavailable for a device that this machine lacks or that cannot compute.
    """
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if wanted == "auto":
        device = torch.device("cuda")
        if cuda and _computes(device) and _has_room(device, needed):
            return device
        return torch.device("mps" if mps else "cpu")
    device = torch.device(wanted)
    if device.type == "mps" and not mps:
        raise ModelUnavailable("DEVICE=mps: this machine has no Apple GPU; use cpu or auto")
    if device.type == "cuda":
        count = torch.cuda.device_count() if cuda else 0
        if not count and wanted == "cuda" and not has_nvidia():
            log.warning("DEVICE=cuda: this machine has no NVIDIA device or driver; the CPU is used")
            return torch.device("cpu")
        if (device.index or 0) >= count:
            raise ModelUnavailable(
                f"DEVICE={wanted}: this machine has {count} CUDA devices; use cpu or auto"
            )
        _prove(device, wanted)
    return device


def _computes(device: Any) -> bool:
    """Return whether a GPU can be used. Raises ModelUnavailable if this process has lost it."""
    import torch

    try:
        _prove(device, "auto")
    except ModelUnavailable as exc:
        if isinstance(meaning(exc), DeviceBroken) and torch.cuda.memory_allocated(device):
            raise  # a new process can use it again, so this one must not fall back to the CPU
        log.warning("%s; the CPU is used", exc.message)
        return False
    return True


def _prove(device: Any, wanted: str) -> None:
    """Multiply on a GPU, which may be too old for this torch. Raises ModelUnavailable."""
    try:
        _thread_of(device).run(lambda: _product(device))
    except Exception as exc:
        never = re.search("no kernel image|busy or unavailable", str(exc))
        # A new process helps against a lost device, not against one that never worked.
        lost = None if never else exc
        reason = f"{device} cannot compute ({described(exc)})"
        raise ModelUnavailable(f"DEVICE={wanted}: {reason}") from lost


def _product(device: Any) -> float:
    import torch

    ones = torch.ones(16, 16, device=device)
    return float((ones @ ones).sum())


def free_memory(device: Any) -> int:
    """Return the bytes free on a GPU. Memory that torch holds unused counts."""
    import torch

    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def _has_room(device: Any, needed: int) -> bool:
    free = free_memory(device)
    if free < needed:
        log.warning("%d of %d MB are free on the GPU; the CPU is used", free >> 20, needed >> 20)
    return bool(free >= needed)


def choose_place(device: str, dtype: str, folder: Path, network: str) -> tuple[Any, Any]:
    """Return the torch device on which a folder's model runs, and the dtype of its network.

    For `int8`, which is made of it here, that is float32 on the CPU. Raises ModelUnavailable.
    """
    import torch

    if dtype == "int8":
        chosen = choose_device("cpu" if device == "auto" else device)
        if chosen.type != "cpu":
            other = "set its device to cpu, or its dtype to bfloat16 or float16"
            raise ModelUnavailable(f"dtype int8 runs on a CPU only, not on {device}: {other}")
        return chosen, torch.float32
    gpu = torch.device("cuda") if torch.cuda.is_available() else None  # the one that `auto` takes
    needed = room_for(folder, choose_dtype(dtype, gpu, network) if gpu else None)
    chosen = choose_device(device, needed)
    return chosen, choose_dtype(dtype, chosen, network)


def choose_dtype(wanted: str, device: Any, model_type: str = "") -> Any:
    """Return the torch dtype; `auto` is bfloat16 where the hardware computes in it natively.

    On older GPUs (compute capability below 8.0) it is float16, or float32 for networks that
    overflow.
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
    """Return the OutOfMemory or DeviceBroken that a failure means, else the failure itself.

    Its causes count too, as a model's loader wraps what torch raised.
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
                return DeviceBroken(f"the device failed ({described(seen)})")
        if full:
            return OutOfMemory("the memory is full")
        seen = seen.__cause__
    return exc


def described(exc: BaseException) -> str:
    """Return an exception's class and the first line of its text that says something.

    A line that ends with a colon goes on in the next.
    """
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    first = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    if isinstance(exc, KeyError):
        first = f"there is no {first}"
    return f"{type(exc).__name__}: {first[:200]}" if first else type(exc).__name__


def bare(exc: Exception) -> Exception:
    """Return an exception without traceback and causes, which hold the failed pass's tensors."""
    exc.__traceback__ = exc.__context__ = exc.__cause__ = None
    return exc


class OneThread:
    """A daemon thread that does the work of many threads in turn."""

    def __init__(self, name: str) -> None:
        self._inbox: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, run in the thread. Raises what it raises."""
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
            except BaseException as exc:  # raised in the thread that waits
                done.set_exception(exc)
            del done, work  # they refer to a model


_threads: dict[str, OneThread] = {}
_making = threading.Lock()
_exactly = threading.Lock()


def thread(name: str) -> OneThread:
    """Return the process's one thread of this name, started at its first use."""
    with _making:
        if name not in _threads:
            _threads[name] = OneThread(name)
        return _threads[name]


def _thread_of(device: Any) -> OneThread:
    """Return the thread in which all passes on a GPU run.

    cuBLAS keeps a handle and a workspace for each thread that ever multiplied: 32 MiB on Hopper,
    4 GiB for 128 threads of requests.
    """
    return thread(f"cuda:{device.index or 0}")


def on_thread_of(device: Any, work: Callable[[], T]) -> T:
    """Return what `work` returns; on a GPU it runs in the GPU's thread."""
    return _thread_of(device).run(work) if device.type == "cuda" else work()


class DeviceEmbedder(Embedder):
    """An embedder whose passes run on one device."""

    _device: Any  # a torch.device
    # Whether only texts of one length are padded together, as padding changes a text's result.
    one_length: bool = False
    # Whether the network itself computes the states of tokens that are asked for, as this way's are
    # not proven to be the library's.
    tokens_apart: bool = False

    def take_small(self, known: Sequence[Small] | None) -> tuple[Small, ...]:
        """Choose what runs small passes, by measuring, or as it was `known`; return the choice.

        With () large and small passes run alike, as here.
        """
        return ()

    def free_network(self) -> None:
        """Free the network that a packed copy of it replaces, if there is one."""

    def _forward(self, items: Sequence[Item]) -> Result:
        """Return the results of one pass, float32. Raises what torch raises."""
        raise NotImplementedError

    def _forward_exactly(self, items: Sequence[Item]) -> Result:
        """Return the same, computed in float32."""
        return self._forward(items)

    def _begin(self, items: Sequence[Item]) -> Finish:
        """Begin one pass; return what waits for its results, in any thread. Here it is done."""
        found = self._forward(items)
        return lambda: found

    def _release(self) -> None:
        """Drop all references to weights."""

    def encode(
        self, items: Sequence[Item], deadline: float | None = None, gone: Gone | None = None
    ) -> Encoded:
        """Return the results of one pass over all `items`, dense vectors as (n, d) float32.

        Raises OutOfMemory for a pass that is too large even with everything freed that can be,
        DeviceBroken for a lost device. The model stays on its device.
        """
        return self.launch(items)()

    def launch(self, items: Sequence[Item]) -> Callable[[], Encoded]:
        """Begin one pass; return what waits for it. Both raise what `encode` raises."""
        return self._guarded(self._begin, items)

    def encode_exactly(self, items: Sequence[Item]) -> Encoded:
        """Return results computed in float32, for rows that came out not finite.

        One call at a time, as the first one loads the model again and may replace this one's.
        """

        def begin(items: Sequence[Item]) -> Finish:
            found = self._forward_exactly(items)
            return lambda: found

        with _exactly:
            return self._guarded(begin, items)()

    def close(self) -> None:
        """Free the model's memory, as far as its device still works."""
        with contextlib.suppress(Exception):
            self._release()
        give_back_memory()

    def _guarded(
        self, begin: Callable[[Sequence[Item]], Finish], items: Sequence[Item]
    ) -> Callable[[], Encoded]:
        """Begin a pass in the device's thread, twice if memory runs out."""

        def begun() -> Finish | Exception:
            return _outcome(lambda: begin(items))

        outcome = on_thread_of(self._device, begun)
        if isinstance(outcome, OutOfMemory):
            give_back_memory()
            outcome = on_thread_of(self._device, begun)
        try:
            wait: Finish = _value(outcome)
        finally:
            del outcome  # an exception's traceback holds this frame

        def encoded() -> Encoded:
            found: Result = _value(_outcome(wait))
            if isinstance(found, Encoded):
                return found
            return Encoded.dense(found, [item.tokens for item in items])

        return encoded


def _outcome(work: Callable[[], T]) -> T | Exception:
    """Return what `work` returns, or what its failure means."""
    try:
        return work()
    except Exception as exc:
        return bare(meaning(exc))


def _value(outcome: Any) -> Any:
    """Return an outcome. Raises one that is an exception."""
    if isinstance(outcome, Exception):
        try:
            raise outcome
        finally:
            del outcome  # else the exception and this frame would refer to each other
    return outcome
