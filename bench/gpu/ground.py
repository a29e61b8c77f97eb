"""What the machine is, and what it can do at best."""

import functools
import importlib.metadata
import os
import shutil

import torch

from bench.gpu.run import Run, matrix_rate, timed, wait

PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers", "numpy")


def main(run: Run) -> None:
    """Record versions, memory, and the rates of products, copies and launches."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    run.record(
        **versions, cores=cores,
        compiler=shutil.which("cc") is not None,
        mps=shutil.which("nvidia-cuda-mps-control") is not None,
    )  # fmt: skip
    if run.device == "cuda":
        facts = torch.cuda.get_device_properties(0)
        free, whole = torch.cuda.mem_get_info()
        run.record(
            gpu=facts.name, capability=f"{facts.major}.{facts.minor}", cuda=torch.version.cuda,
            multiprocessors=facts.multi_processor_count, free_mb=free >> 20, whole_mb=whole >> 20,
        )  # fmt: skip
    run.record(bfloat16_tflops=matrix_rate(run.device) / 1e12)
    _copies(run)
    _launch(run)


def _copies(run: Run) -> None:
    large = torch.ones(
        (1 << 30) // (1 if run.device == "cuda" else 256), device=run.device, dtype=torch.int8
    )
    target = torch.empty_like(large)

    copied, _ = timed(functools.partial(_copy, target, large, run.device), 0.1)
    run.record(copy_gb_s=2 * large.nbytes / copied / 1e9)
    for size in (128 << 10, 4 << 20):
        for pinned in (True, False) if run.device == "cuda" else (False,):
            host = torch.ones(size, dtype=torch.int8, pin_memory=pinned)
            there = host.to(run.device, copy=True)
            to, _ = timed(functools.partial(_copy, there, host, run.device), 0.05)
            back, _ = timed(functools.partial(_copy, host, there, run.device), 0.05)
            run.record(kb=size >> 10, pinned=pinned, to_us=to * 1e6, back_us=back * 1e6)


def _copy(target: torch.Tensor, source: torch.Tensor, device: str) -> None:
    target.copy_(source, non_blocking=True)
    wait(device)


def _launch(run: Run) -> None:
    """Record what one small operation costs the host."""
    one = torch.ones(1, device=run.device)

    def thousand() -> None:
        for _ in range(1000):
            one.add_(1)
        wait(run.device)

    thousand()
    run.record(launch_us=timed(thousand, 0.1)[0] * 1000)
