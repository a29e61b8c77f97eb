"""One pass alone, by shape, length of the texts, and size: time, share of the peak, equality."""

import time
from collections.abc import Iterator

import numpy as np
import torch

from bench.corpus import load
from bench.gpu.run import Run, cosines, items_of, matrix_rate, timed, used_mb
from bench.gpu.shapes import SHAPES, SMALL, folder_of
from embedders.base import Embedder, Item

WAYS: dict[str, dict[str, object]] = {
    "padded": {"backend": "torch"},
    "flat": {"backend": "flat", "cuda_graphs": "off"},
    "graphs": {"backend": "flat", "cuda_graphs": "auto"},
}
ORDER = ("minilm", "bge-large", "qwen3-0.6b", "bge-base")  # the most wanted first
LEAST = 0.9995  # between two ways through random weights in bfloat16
SHORTEST_S = 0.05  # of measuring one cell


def main(run: Run) -> None:
    """Record each cell for each way, and fail if one differs from the padded way."""
    peak = matrix_rate(run.device)
    names = [name for name in ORDER if name in (SMALL if run.small else SHAPES)]
    unequal = 0
    for name in names:
        known: dict[str, np.ndarray] = {}
        for way, settings in WAYS.items():
            if run.has_time(f"{name} {way}", 3.0):
                unequal += _measured(run, name, way, settings, known, peak)
    if unequal:
        raise SystemExit(f"{unequal} cells differ from the padded way")


def _measured(
    run: Run,
    name: str,
    way: str,
    settings: dict[str, object],
    known: dict[str, np.ndarray],
    peak: float,
) -> int:
    """Record one way through one model; return in how many cells it differs from `known`."""
    folder = folder_of(name, run.data, run.device)
    before, began = used_mb(run.device), time.monotonic()
    try:
        embedder = run.embedder(folder, **settings)
    except Exception as exc:  # such as a way that this device does not have
        run.record(shape=name, way=way, refused=str(exc)[:200])
        return 0
    after = used_mb(run.device)
    run.record(
        shape=name, way=way, backend=embedder.facts.backend, dtype=embedder.facts.dtype,
        load_s=time.monotonic() - began,
        memory_mb=None if before is None or after is None else after - before,
    )  # fmt: skip
    shape, unequal = (SMALL if run.small else SHAPES)[name], 0
    try:
        for label, items in _cells(run, shape.positions):
            if not run.has_time(f"{name} {way} {label}"):
                break
            lengths = [item.tokens for item in items]
            vectors = embedder.encode(items).vectors
            near = float(cosines(vectors, known.setdefault(label, vectors)).min())
            unequal += near < LEAST
            wall, cpu = timed(lambda i=items: embedder.encode(i), max(SHORTEST_S, run.seconds / 20))  # type: ignore[misc]
            run.record(
                shape=name, way=way, cell=label, texts=len(items), tokens=sum(lengths),
                ms=wall * 1000, cpu_ms=cpu * 1000, device_ms=_device_ms(run, embedder, items),
                tokens_s=sum(lengths) / wall, peak=shape.flops(lengths) / wall / peak, equal=near,
            )  # fmt: skip
    finally:
        embedder.close()
    return unequal


def _cells(run: Run, positions: int) -> Iterator[tuple[str, list[Item]]]:
    """Yield passes of texts of one length, and of the corpus's lengths."""
    corpus = load()
    real = [min(corpus.tokens[text], positions) for text in corpus.docs]
    for tokens in (256, 512) if run.small else (16_384, 2_048, 65_536):
        for length in (60, 16) if run.small else (60, 512, 16):
            yield f"{length} x {tokens}", items_of([length] * (tokens // length))
        count = int(np.searchsorted(np.cumsum(real * (1 + tokens // sum(real))), tokens))
        some = (real * (1 + count // len(real)))[: max(count, 1)]
        yield f"corpus x {tokens}", items_of(some)


def _device_ms(run: Run, embedder: Embedder, items: list[Item]) -> float | None:
    """Return how long the device computes in one pass; None where it cannot be told."""
    if run.device != "cuda":
        return None
    kinds = [torch.profiler.ProfilerActivity.CUDA]
    try:
        with torch.profiler.profile(activities=kinds) as profile:
            embedder.encode(items)
            torch.cuda.synchronize()
        return float(sum(row.self_device_time_total for row in profile.key_averages())) / 1000
    except RuntimeError:  # a machine that does not let its counters be read
        return None
