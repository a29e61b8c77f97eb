"""Passes on a GPU that fail: who gets which answer, and what becomes of the model."""

import gc
import threading
import time
import weakref

import numpy as np
import pytest
import torch

from config import Config, ModelSpec
from context import KEY
from embedders.base import DeviceBroken, OutOfMemory, Prompt
from embedders.device import DeviceEmbedder, _thread_of
from embedders.fallback import FallbackEmbedder
from embedders.local import LocalEmbedder
from factory import create_app
from observability import metrics
from serving.batcher import Batcher
from serving.encoder import Limits
from serving.health import EXIT_CODE, unhealthy_reason
from serving.model import Loaded, Model
from tests.faults.conftest import until
from tests.gpu.simulated import Simulated, accelerator, building, full, lost, odd


def items(model: Simulated, *texts: str) -> list:
    return model.prepare(texts, Prompt(), "right")


# -- memory (B2, B13) ------------------------------------------------------------------------------


@pytest.mark.fault("Models and devices")
def test_a_text_that_does_not_fit_alone_is_507_for_it_alone_and_the_model_stays(
    app, embed, model, ended
) -> None:
    """One text alone does not fit into the device's memory -> 507 for that text only; the model
    stays on its device.

    Three requests share a pass with it.
    """
    replies: dict[str, object] = {}

    def ask(text: str) -> threading.Thread:
        thread = threading.Thread(target=lambda: replies.update({text: embed(text)}))
        thread.start()
        return thread

    model.open.clear()
    model.entered.clear()
    first = ask("first")
    assert model.entered.wait(60)
    lane = app.extensions[KEY].engine.registry.default.loaded.encoder
    rest = [ask(text) for text in ("good", "huge", "fine", "well")]
    until(lambda: lane.queued()[0] == 4)
    model.open.set()
    for thread in (first, *rest):
        thread.join(60)
    assert {"good", "huge", "fine", "well"} in map(set, model.passes), "they shared no pass"
    assert {text: reply.status_code for text, reply in replies.items()} == {
        "first": 200, "good": 200, "huge": 507, "fine": 200, "well": 200,
    }  # fmt: skip
    assert "this input alone needs more memory" in replies["huge"].json["error"]
    assert model._device == torch.device("cuda:0") and model.facts.device == "cuda:0"
    assert embed("after").status_code == 200
    assert not ended


def test_where_memory_ran_out_what_can_be_freed_is_freed_and_the_pass_made_again(
    model, monkeypatch
) -> None:
    emptied: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(len(model.passes)))
    model.taken = 1
    rows = model.encode(items(model, "a", "b")).vectors
    assert np.array_equal(rows, [model.vector("a"), model.vector("b")])
    assert emptied == [1], "between the first try and the second"
    model.taken = 2
    with pytest.raises(OutOfMemory):
        model.encode(items(model, "a", "b"))
    assert len(model.passes) == 4


@pytest.mark.fault("Models and devices")
def test_where_not_even_one_token_fits_the_worker_ends(embed, model, ended) -> None:
    """Not even one token fits into the device's memory -> 503, and the worker ends."""
    model.taken = 1000
    reply = embed("anything")
    assert reply.status_code == 503
    assert "no memory is left on it for even one token" in reply.json["error"]
    until(lambda: ended)
    assert ended == [EXIT_CODE]
    assert model._device == torch.device("cuda:0")


def test_a_full_memory_is_told_of_a_cpu_too(config_of) -> None:
    model = Simulated("cpu")
    model.raises["greedy"] = MemoryError
    model.raises["large"] = lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 4503599627370496 bytes. Error code 12 (Cannot allocate memory)"
    )
    for text in ("greedy", "large"):
        with pytest.raises(OutOfMemory):
            model.encode(items(model, text))


def test_cpu_memory_that_torch_cannot_have_is_told() -> None:
    """No simulation: torch asks for a petabyte."""

    class Greedy(Simulated):
        def _forward(self, items):
            return torch.empty(1 << 50).numpy()

    with pytest.raises(OutOfMemory):
        Greedy("cpu").encode([])


# -- every class of error (B8) ---------------------------------------------------------------------

FULL = {
    "allocator": full,
    "call": lambda: accelerator("CUDA error: out of memory\nCUDA kernel errors", 2),
    "code": lambda: accelerator("CUDA error: memory allocation", 2),
    "cublas": lambda: RuntimeError(
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    ),
    "cudnn": lambda: RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cudnn9": lambda: RuntimeError(
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"
    ),
    "mps": lambda: RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
}
LOST = {
    "assert": lost,
    "access": lambda: accelerator("CUDA error: an illegal memory access was encountered", 700),
    "cublas": lambda: RuntimeError(
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"
    ),
    "inner": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `x`"),
    "handle": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `x`"),
    "mapping": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_MAPPING_ERROR when calling `x`"),
    "cudnn": lambda: RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    "cudnn9": lambda: RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    "driver": lambda: RuntimeError("CUDA driver error: unknown error"),
    "plain": lambda: RuntimeError("CUDA error: unspecified launch failure"),
}
ELSE = {
    "dtype": odd,
    "cublas": lambda: RuntimeError(
        "CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasSgemm(...)`"
    ),
    "index": lambda: IndexError("index out of range in self"),
    "value": lambda: ValueError("not enough values to unpack"),
}


@pytest.mark.parametrize("name", FULL)
def test_every_word_for_a_full_memory_is_507(embed, model, ended, name: str) -> None:
    model.raises["hurt"] = FULL[name]
    assert embed("hurt").status_code == 507
    assert embed("fine").status_code == 200 and not ended


@pytest.mark.parametrize("name", LOST)
def test_every_word_for_a_lost_device_is_503_and_ends_the_worker(
    embed, model, ended, name: str
) -> None:
    model.raises["hurt"] = LOST[name]
    reply = embed("hurt", "b", "c")
    assert reply.status_code == 503 and "Retry-After" in reply.headers
    assert len(model.passes) == 1, "no second try: every call would fail"
    assert embed("fine").status_code == 503
    until(lambda: ended)
    assert ended == [EXIT_CODE]


@pytest.mark.fault("Models and devices")
@pytest.mark.parametrize("name", ELSE)
def test_what_says_nothing_of_the_device_is_500_on_a_gpu_and_never_422(
    embed, model, ended, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A text that the model cannot encode on a GPU -> 500, since the device may be at fault."""
    model.raises["hurt"] = ELSE[name]
    reply = embed("fine", "hurt")
    assert reply.status_code == 500
    assert "input 1" in reply.json["error"]
    assert f"on cuda:0: {type(ELSE[name]()).__name__}" in caplog.text
    assert embed("fine").status_code == 200 and not ended


def test_on_the_cpu_it_is_still_422(config_of) -> None:
    model = Simulated("cpu")
    client = create_app(config_of(), build=building(model), wait=True).test_client()
    assert client.post("/embed", json={"texts": ["odd"]}).status_code == 422


# -- the second try in float32 (B4) ----------------------------------------------------------------


@pytest.mark.fault("Models and devices")
@pytest.mark.parametrize(
    ("raises", "status", "ends"),
    [(full, 507, False), (lost, 503, True), (odd, 500, False),
     (lambda: DeviceBroken("gone"), 503, True), (lambda: OutOfMemory("full"), 507, False)],
)  # fmt: skip
def test_a_second_try_in_float32_that_fails_is_told_as_the_first_is(
    embed, model, ended, raises, status: int, ends: bool
) -> None:
    """The second pass in float32 fails -> reported like a failed first pass."""
    model.exactly_raises = raises
    assert embed("nan").status_code == status
    assert embed("fine").status_code == (503 if ends else 200)
    if ends:
        until(lambda: ended)
    assert ended == [EXIT_CODE] * ends


def test_raw_errors_of_an_embedder_of_another_kind_are_told_too(model) -> None:
    """Where no guard stands between torch and the batcher."""

    class Bare(Simulated):
        def encode(self, items, deadline=None):
            return super().encode(items)

        def encode_exactly(self, items):
            raise lost()

    batcher = Batcher(Bare(), max_tokens=100)
    with pytest.raises(Exception, match="device is lost"):
        batcher.encode(items(model, "nan"))
    assert batcher.health().broken


def test_rows_that_are_not_finite_are_made_again_by_the_embedders_own_float32(embed, model) -> None:
    before = metrics.FAULTS.labels("not_finite")._value.get()
    assert embed("nan", "fine").status_code == 200
    assert metrics.FAULTS.labels("not_finite")._value.get() == before + 1


# -- one thread (B7) -------------------------------------------------------------------------------


def test_passes_of_all_models_on_a_gpu_run_in_one_thread_and_another_gpu_has_its_own() -> None:
    models = [Simulated(), Simulated(), Simulated("cuda"), Simulated("cuda:1")]
    batchers = [Batcher(model, max_tokens=8) for model in models]
    callers = [
        threading.Thread(target=batcher.encode, args=(items(model, f"t{i}", "nan"),))
        for model, batcher in zip(models, batchers, strict=True)
        for i in range(8)
    ]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(60)
    assert [model.threads for model in models] == [{"cuda:0"}, {"cuda:0"}, {"cuda:0"}, {"cuda:1"}]
    alive = [thread.name for thread in threading.enumerate()]
    assert alive.count("cuda:0") == 1 and alive.count("cuda:1") == 1
    assert all(t.daemon for t in threading.enumerate() if t.name.startswith("cuda:"))


def test_on_the_cpu_passes_run_in_the_callers_thread() -> None:
    model = Simulated("cpu")
    model.encode(items(model, "a"))
    assert model.threads == {threading.current_thread().name}


class Strange(RuntimeError):
    """One that can be referred to weakly."""


class Holding(Simulated):
    """Makes a large tensor in each pass, and then fails."""

    def __init__(self, raises, device: str) -> None:
        super().__init__(device)
        self.fails, self.made = raises, []

    def _forward(self, items):
        states = torch.ones(1000)
        self.made.append(weakref.ref(states))
        raise self.fails()


@pytest.mark.parametrize("device", ["cuda:0", "cpu"])
@pytest.mark.parametrize("raises", [full, lost, Strange])
def test_what_a_failed_pass_raised_holds_none_of_its_tensors(raises, device: str) -> None:
    model = Holding(raises, device)
    gc.disable()
    try:
        with pytest.raises(Exception) as failed:
            model.encode(items(model, "a"))
        assert model.made and not any(ref() is not None for ref in model.made)
        kept = weakref.ref(failed.value)
        del failed
        assert kept() is None, "it is part of a cycle"
    finally:
        gc.enable()


def test_what_is_raised_in_the_gpus_thread_holds_nothing() -> None:
    made: list[weakref.ref] = []

    def work() -> None:
        states = torch.ones(1000)
        made.append(weakref.ref(states))
        raise full()

    gc.disable()
    try:
        with pytest.raises(torch.OutOfMemoryError):
            _thread_of(torch.device("cuda:0")).run(work)
        assert made and made[0]() is None
    finally:
        gc.enable()


def test_a_pass_that_needs_another_does_not_wait_for_itself() -> None:
    class Nested(Simulated):
        def _forward_exactly(self, items):
            return self.encode(items).vectors

    model = Nested()
    done = threading.Thread(target=lambda: model.encode_exactly(items(model, "a")), daemon=True)
    done.start()
    done.join(60)
    assert not done.is_alive()


def test_a_model_whose_device_is_lost_says_so_in_its_health(model) -> None:
    batcher = Batcher(model, max_tokens=100)
    held = Model(ModelSpec(id="fake", type="fake", model_name="tests/fake"), Config())
    held.put(Loaded(batcher, 0.0))
    with pytest.raises(Exception, match="device is lost"):
        batcher.encode(items(model, "lost"))
    assert "device-side assert triggered" in str(unhealthy_reason(held))


def test_the_embedders_of_this_house_leave_the_guard_to_their_base() -> None:
    """What encodes around it would not be translated."""
    for kind in (LocalEmbedder, FallbackEmbedder):
        for name in ("encode", "encode_exactly", "close"):
            assert getattr(kind, name) is getattr(DeviceEmbedder, name), f"{kind.__name__}.{name}"


# -- callers that have gone (B17) ------------------------------------------------------------------


def test_a_callers_socket_is_looked_at_seldom_and_without_the_batchers_lock(model) -> None:
    batcher = Batcher(model, max_tokens=1, limits=Limits(1))
    looks: list[bool] = []

    def gone() -> bool:
        free = batcher._lock.acquire(blocking=False)
        if free:
            batcher._lock.release()
        looks.append(free)
        return False

    started = time.monotonic()
    batcher.encode(items(model, *["a"] * 300), None, gone)
    most = 1 + (time.monotonic() - started) / 0.05
    assert len(model.passes) == 300
    assert 1 <= len(looks) <= most + 1
    assert all(looks), "asked while the lock was held"
