"""Which device and dtype a model gets. What the library says of GPUs is made up here."""

import json
import logging
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

from config import Config
from config.fields import names_of
from embedders import device as choosing
from embedders.base import DeviceBroken, OutOfMemory
from embedders.device import GPU_TOKENS, OVERHEAD, choose_device, choose_dtype, meaning, room_for
from errors import ModelUnavailable
from server import master
from serving.loader import BATCH_TOKENS
from tests.conftest import ROOT
from tests.gpu.simulated import accelerator, full, lost

NO_KERNEL = "CUDA error: no kernel image is available for execution on the device\nFor debugging"


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Two GPUs that work: what they say can be changed."""
    says: dict[str, object] = {"free": 10 << 30, "reserved": 0, "allocated": 0, "raises": None}
    asked: list[object] = []
    says["asked"] = asked

    def memory(device: object = None) -> tuple[int, int]:
        asked.append(device)
        return says["free"], 80 << 30

    def product(device: object) -> float:
        if says["raises"]:
            raise says["raises"]()
        return 4096.0

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", memory)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device=None: says["reserved"])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device=None: says["allocated"])
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: asked.append("emptied"))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(choosing, "_product", product)
    return says


@pytest.mark.parametrize("wanted", ["cuda", "cuda:0"])
def test_a_driver_without_a_working_gpu_is_never_the_cpu(
    wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(choosing, "has_nvidia", lambda: True)
    with pytest.raises(ModelUnavailable, match="this machine has 0 CUDA devices"):
        choose_device(wanted)
    monkeypatch.setattr(choosing, "has_nvidia", lambda: False)
    if wanted == "cuda":
        assert choose_device(wanted) == torch.device("cpu")
    else:
        with pytest.raises(ModelUnavailable, match="this machine has 0 CUDA devices"):
            choose_device(wanted)


# -- dtype (B3) ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "kind", "dtype"),
    [
        ((9, 0), "bert", torch.bfloat16),
        ((8, 0), "gemma3_text", torch.bfloat16),
        ((7, 5), "bert", torch.float16),  # T4: emulates bfloat16
        ((7, 0), "qwen3", torch.float16),  # V100
        ((7, 5), "", torch.float16),
        *(
            ((7, 5), kind, torch.float32)
            for kind in ("t5", "mt5", "umt5", "longt5", "t5gemma", "gemma", "gemma2", "gemma3",
                         "gemma3_text", "embedding_gemma2", "glm4")
        ),
    ],
)  # fmt: skip
def test_auto_is_bfloat16_where_the_gpu_multiplies_it_and_float16_for_no_kind_that_overflows(
    capability, kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device: asked.append(device) or capability
    )
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *a, **k: True)  # by emulation
    device = torch.device("cuda:1")
    assert choose_dtype("auto", device, kind) == dtype
    assert asked == [device], "not the current one"


def test_a_dtype_that_was_asked_for_is_taken() -> None:
    assert choose_dtype("float16", torch.device("cuda:0"), "t5") == torch.float16
    assert choose_dtype("auto", torch.device("mps"), "bert") == torch.float32


# -- room (B5) -------------------------------------------------------------------------------------


def model_folder(folder: Path, numbers: int) -> Path:
    """Write what room is judged by: the head of a weights file, and the shape of a layer."""
    row = {"dtype": "F32", "shape": [numbers // 10, 10], "data_offsets": [0, numbers * 4]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "a": row}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    shape = {"hidden_size": 100, "intermediate_size": 400}
    (folder / "config.json").write_text(json.dumps(shape))
    return folder


def test_the_room_for_a_model_goes_by_the_dtype_it_runs_in(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, 1_000_000)
    states = GPU_TOKENS * (8 * 100 + 3 * 400)
    assert room_for(folder, torch.bfloat16) == (1_000_000 + states) * 2 + OVERHEAD
    assert room_for(folder, torch.float32) == (1_000_000 + states) * 4 + OVERHEAD
    assert room_for(folder) == room_for(folder, torch.float32)
    assert BATCH_TOKENS["cuda"] == GPU_TOKENS


def test_memory_that_torch_keeps_unused_counts_as_free(gpus) -> None:
    gpus.update(free=1 << 30, reserved=9 << 30, allocated=2 << 30)
    assert choose_device("auto", 8 << 30).type == "cuda"
    assert choose_device("auto", (8 << 30) + 1).type == "cpu"
    assert gpus["asked"][:2] == ["emptied", torch.device("cuda")]


# -- a GPU that cannot compute (B9) ----------------------------------------------------------------


@pytest.mark.fault("Models and devices")
def test_auto_goes_on_on_the_cpu_where_the_gpu_cannot_compute_and_says_so(gpus, caplog) -> None:
    """A GPU too old for this torch where `DEVICE=auto` -> the CPU serves, and the log says why."""
    gpus["raises"] = lambda: accelerator(NO_KERNEL, 209)
    with caplog.at_level(logging.WARNING):
        assert choose_device("auto").type == "cpu"
    assert "no kernel image" in caplog.text and "the CPU is used" in caplog.text


@pytest.mark.fault("Models and devices")
@pytest.mark.parametrize("wanted", ["cuda", "cuda:1"])
def test_cuda_says_why_the_gpu_cannot_compute_and_no_device_is_lost(gpus, wanted: str) -> None:
    """A GPU too old for this torch where `DEVICE=cuda` -> 503 with the reason."""
    gpus["raises"] = lambda: accelerator(NO_KERNEL, 209)
    with pytest.raises(
        ModelUnavailable, match=f"DEVICE={wanted}: {wanted} cannot.*no kernel image"
    ):
        choose_device(wanted)
    try:
        choose_device(wanted)
    except ModelUnavailable as exc:
        assert meaning(exc) is exc, "the worker would end, again and again"
        assert "debugging" not in exc.message


def test_a_lost_device_is_told_as_one(gpus) -> None:
    gpus["raises"] = lost
    with pytest.raises(ModelUnavailable) as failed:
        choose_device("cuda")
    assert isinstance(meaning(failed.value), DeviceBroken)
    assert choose_device("auto").type == "cpu", "it never worked here"
    gpus["allocated"] = 1 << 20
    with pytest.raises(ModelUnavailable) as failed:
        choose_device("auto")  # it did work: a new process may have it again
    assert isinstance(meaning(failed.value), DeviceBroken)


def test_a_gpu_too_full_for_one_product_is_no_lost_device(gpus) -> None:
    gpus["raises"] = full
    assert choose_device("auto").type == "cpu"
    with pytest.raises(ModelUnavailable) as failed:
        choose_device("cuda")
    assert isinstance(meaning(failed.value), OutOfMemory)


def test_a_gpu_that_works_is_taken(gpus) -> None:
    assert choose_device("auto", 1 << 30) == torch.device("cuda")
    assert choose_device("cuda:1", 99 << 30) == torch.device("cuda:1")  # asked for: not doubted
    with pytest.raises(ModelUnavailable, match="this machine has 2 CUDA devices"):
        choose_device("cuda:2")


def test_the_proof_is_a_product_of_matrices() -> None:
    assert choosing._product(torch.device("cpu")) == 16**3


# -- how many GPUs there are (B14) -----------------------------------------------------------------

FAKE_NVML = """
class NVMLError(Exception): pass
SHAPE = {shape}
def nvmlInit():
    if SHAPE is None: raise NVMLError("Driver Not Loaded")
def nvmlDeviceGetCount(): return len(SHAPE)
def nvmlDeviceGetHandleByIndex(index): return index, None
def nvmlDeviceGetMigMode(gpu):
    if SHAPE[gpu[0]] == "old": raise NVMLError("Not Supported")
    return (int(isinstance(SHAPE[gpu[0]], list)), 0)
def nvmlDeviceGetMaxMigDeviceCount(gpu): return 7
def nvmlDeviceGetMigDeviceHandleByIndex(gpu, index):
    if index not in SHAPE[gpu[0]]: raise NVMLError("Not Found")
    return gpu[0], index
def nvmlDeviceGetUUID(gpu):
    return f"GPU-{{gpu[0]}}" if gpu[1] is None else f"MIG-{{gpu[0]}}-{{gpu[1]}}"
"""


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        (["old", "old"], ["GPU-0", "GPU-1"]),
        ([None], ["GPU-0"]),
        ([[0, 3], "old", []], ["MIG-0-0", "MIG-0-3", "GPU-1"]),
        ([], []),
        (None, []),
    ],
)
def test_gpus_and_slices_of_them_are_counted_without_any_tool(
    shape, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pynvml.py").write_text(FAKE_NVML.format(shape=shape))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(master, "gpus", cache(master.gpus.__wrapped__))
    before = set(sys.modules)
    assert master.gpus() == names
    assert "pynvml" not in set(sys.modules) - before, (
        "the master would fork with a driver's library"
    )
    assert master.choose_gpu(names[:1]) == (names[1] if names[1:] else names[0] if names else None)


# -- where GPUs are asked for (B15) ----------------------------------------------------------------


def test_what_is_deployed_for_gpus_asks_for_cuda_and_never_goes_on_on_the_cpu() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())
    told = compose["services"]["embedding-service"]["environment"]
    pod = yaml.safe_load((ROOT / "deploy" / "k8s" / "deployment.yaml").read_text())
    (container,) = pod["spec"]["template"]["spec"]["containers"]
    env = {row["name"]: row["value"] for row in container["env"]}
    assert "nvidia.com/gpu" in container["resources"]["limits"]
    assert told == {"DEVICE": "${DEVICE:-cuda}"} and env["DEVICE"] == "cuda"
    assert "DEVICE" in names_of(Config.model_fields["device"])


# -- torch's allocator -----------------------------------------------------------------------------

POST_FORK = """
import os, runpy, types
conf = runpy.run_path("gunicorn.conf.py")
conf["post_fork"].__globals__["relay"] = types.SimpleNamespace(begin=lambda age: None)
cfg = types.SimpleNamespace(workers=1, threads=4)
conf["post_fork"](types.SimpleNamespace(cfg=cfg), types.SimpleNamespace(
    age=1, slot=0, gpu="3", shares_models=False))
print(os.environ.get("PYTORCH_ALLOC_CONF"), os.environ["CUDA_VISIBLE_DEVICES"])
"""


@pytest.mark.parametrize(
    ("given", "set_to"),
    [({}, "expandable_segments:True"), ({"PYTORCH_ALLOC_CONF": "x:1"}, "x:1"),
     ({"PYTORCH_CUDA_ALLOC_CONF": "x:1"}, "None")],
)  # fmt: skip
def test_a_workers_memory_on_a_gpu_grows_in_one_piece_unless_told_otherwise(
    given: dict[str, str], set_to: str
) -> None:
    env = {**os.environ, **given, "EMBEDDING_DB_URL": "sqlite://", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", POST_FORK]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [set_to, "3"]
