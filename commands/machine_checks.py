"""What `doctor` finds out about the machine: Python, packages, CPU, memory, GPU."""

import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from commands.findings import Finding, ok, problem, warning
from embedders.device import choose_device, choose_dtype, described
from errors import ModelUnavailable
from observability.machine import has_nvidia
from tools.places import ROOT

FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "sve")
# A service with the bundled model takes 0.7 GB; a base model in float32 takes another 0.5.
LITTLE_MEMORY = 2 << 30
LITTLE_GPU_MEMORY = 2 << 30  # free: a base model and its passes
FEW_FILES = 4096  # a connection is an open file
REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)")


def python() -> list[Finding]:
    """Tell which Python this is."""
    return [ok("Python", f"{platform.python_version()} at {sys.executable}")]


def packages() -> list[Finding]:
    """Compare the installed packages with those that the service is tested with."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [match.groups() for line in lines if (match := REQUIREMENT.match(line))]
    missing, others = [], []
    for name, pinned in pins:
        try:
            found = version(name)
        except PackageNotFoundError:
            missing.append(name)
        else:
            # A build's own mark, as in 2.13.0+cu130, is no other version.
            if found.partition("+")[0] != pinned:
                others.append(f"{name} {found}, not {pinned}")
    do = f"pip install -r {ROOT / 'requirements.txt'}"
    if missing:
        return [problem("packages", f"not installed: {', '.join(missing)}", do)]
    if others:
        return [warning("packages", f"other versions than tested: {'; '.join(others)}", do)]
    return [ok("packages", f"all {len(pins)} as tested")]


def cpu() -> list[Finding]:
    """Tell the cores, what they compute with, and the dtype that models run in on them."""
    import torch

    text = _read("/proc/cpuinfo")
    model = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*: (.+)$", text, re.MULTILINE)
    has = set(flags[1].split()) if flags else set()
    known = [name for name in FEATURES if name in has]
    dtype = str(choose_dtype("auto", torch.device("cpu"))).removeprefix("torch.")
    name = model[1] if model else platform.processor() or platform.machine()
    shown = f"{name}, {_cores()} cores ({', '.join(known) or 'no features known'}); dtype {dtype}"
    if platform.machine() in ("x86_64", "AMD64") and flags and "avx2" not in has:
        return [warning("CPU", shown, "without AVX2 passes are several times slower; use another")]
    return [ok("CPU", shown)]


def _cores() -> str:
    """Return the cores that this process may use, with the limit of its container if it has one."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").strip().partition(" ")
    limit = f", limited to {int(quota) / int(period):.1f}" if quota.isdecimal() and period else ""
    return f"{there}{limit}"


def memory() -> list[Finding]:
    """Tell how much memory is free, within the limit of a container."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    if not found:
        return []
    free, of = int(found[1]) * 1024, "free"
    most = _read("/sys/fs/cgroup/memory.max").strip()
    if most.isdecimal():
        left = int(most) - int(_read("/sys/fs/cgroup/memory.current").strip() or 0)
        if left < free:
            free, of = left, "left of the container's limit"
    shown = f"{free / 1e9:.1f} GB {of}"
    if free < LITTLE_MEMORY:
        do = "end other programs, raise the limit, or serve a smaller model (docs/models.md)"
        return [warning("memory", shown, do)]
    return [ok("memory", shown)]


def open_files() -> list[Finding]:
    """Tell how many files, and so connections, a process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FEW_FILES:
        do = f"raise it before the start: ulimit -n {hard if hard > 0 else 65536}"
        return [warning("open files", f"{soft} at most", do)]
    return [ok("open files", f"{soft} at most")]


def gpu(wanted: str) -> list[Finding]:
    """Tell each GPU with its driver, memory and dtype; or why none is used.

    `wanted` is the setting DEVICE.
    """
    import torch

    if torch.backends.mps.is_available():
        return [ok("GPU", "Apple's, by mps")]
    driver = _driver()
    if not has_nvidia() and not torch.cuda.is_available():
        found = [ok("GPU", "no NVIDIA device or driver here: models run on the CPU")]
        if wanted.startswith("cuda"):
            do = "in a container: docker run --gpus all; else install NVIDIA's driver"
            found = [problem("GPU", f"DEVICE={wanted}, and no NVIDIA device or driver is here", do)]
        return found
    if torch.version.cuda is None:
        do = "install torch's build with CUDA of the same version, from PyTorch's own index"
        return [problem("GPU", f"{driver}; torch {torch.__version__} is a build without CUDA", do)]
    if not torch.cuda.is_available():
        do = (
            f"install a driver for CUDA {torch.version.cuda} or newer, or an older torch; "
            "`nvidia-smi` must work; in a container: docker run --gpus all"
        )
        return [problem("GPU", f"{driver}; torch for CUDA {torch.version.cuda} finds no GPU", do)]
    found = [ok("GPU", f"{driver}; torch {torch.__version__} for CUDA {torch.version.cuda}")]
    return found + [_device(torch, index) for index in range(torch.cuda.device_count())]


def _device(torch: Any, index: int) -> Finding:
    """Compute on a GPU, and tell what it is."""
    name = f"GPU {index}"
    try:
        device = choose_device(f"cuda:{index}")
        free, total = torch.cuda.mem_get_info(device)
    except (ModelUnavailable, RuntimeError) as exc:
        do = "see `nvidia-smi` and `dmesg`; a GPU that this torch is too new for needs an older one"
        return problem(name, getattr(exc, "message", described(exc)), do)
    dtype = str(choose_dtype("auto", device)).removeprefix("torch.")
    major, minor = torch.cuda.get_device_capability(device)
    shown = (
        f"{torch.cuda.get_device_name(device)} ({major}.{minor}), {free / 1e9:.1f} of "
        f"{total / 1e9:.1f} GB free; dtype {dtype}"
    )
    if free < LITTLE_GPU_MEMORY:
        return warning(name, shown, "`nvidia-smi` shows what uses it; DEVICE=cuda:N takes another")
    return ok(name, shown)


def _driver() -> str:
    """Return the driver's version, as `nvidia-smi` says it where it is."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "no nvidia-smi"
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as exc:
        return f"nvidia-smi fails ({type(exc).__name__})"
    said = (done.stdout or done.stderr).strip().splitlines()
    first = said[0] if said else f"exit code {done.returncode}"
    return f"driver {first}" if done.returncode == 0 else f"nvidia-smi fails: {first}"


def _read(path: str) -> str:
    """Return the text of a file of the system, or nothing where it is not there."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
