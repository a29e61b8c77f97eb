"""What measuring a vector store needs: vectors like those of texts, fair timing, machine rates.

Knows no store. Times of searches are the least of many: what others disturb least.
"""

import os
import platform
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

Call = Callable[[], object]


def by_turns(calls: dict[str, Call], repeat: int = 25) -> dict[str, float]:
    """Return the least ms of each call, made by turns, so that what disturbs one disturbs all.

    A call of another process returns the ms it took there, a float; the others are timed here.
    """
    took: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeat + 1):  # the first warms up
        for name, call in calls.items():
            began = time.perf_counter()
            told = call()
            spent = told if isinstance(told, float) else (time.perf_counter() - began) * 1e3
            took[name].append(spent)
    return {name: min(times[1:]) for name, times in took.items()}


def reads(data: np.ndarray) -> dict[str, Call]:
    """Return ways to read all of the data once, with all cores; the fastest is what counts."""
    parts = np.array_split(data.reshape(-1), os.cpu_count() or 1)
    ones = np.ones(data.shape[1], np.float32)

    def parallel(work: Callable[[np.ndarray], object]) -> None:
        threads = [threading.Thread(target=work, args=(part,)) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return {
        "read by max": lambda: parallel(np.max),
        "read by dot": lambda: parallel(lambda part: np.dot(part, part)),
        "read by gemv": lambda: data @ ones,
    }


def sync_ms(folder: Path) -> float:
    """Return the disk's own time for an append of 2 KB and a fdatasync, the median of 500."""
    took = []
    with (folder / "probe").open("wb", buffering=0) as file:
        for _ in range(500):
            began = time.perf_counter()
            file.write(b"x" * 2048)
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e3


def clustered(rows: int, dim: int) -> np.ndarray:
    """Return unit vectors like those of texts: many clusters of unlike size, (rows, dim)."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((1000, dim), np.float32)
    out = np.empty((rows, dim), np.float32)
    for start in range(0, rows, 50_000):
        part = out[start : start + 50_000]
        chosen = (rng.pareto(1.2, len(part)) * 50).astype(np.int64) % 1000
        part[:] = centres[chosen] + 0.9 * rng.standard_normal(part.shape, np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return out


def asked(data: np.ndarray, count: int = 64) -> np.ndarray:
    """Return queries near to some of the vectors, of unit length, (count, dim)."""
    rng = np.random.default_rng(1)
    near = 0.05 * rng.standard_normal((count, data.shape[1]), np.float32)
    queries = data[rng.integers(0, len(data), count)] + near
    return np.asarray(queries / np.linalg.norm(queries, axis=1, keepdims=True), np.float32)


def right_answers(data: np.ndarray, queries: np.ndarray, k: int = 10) -> list[set[int]]:
    """Return the rows of each query's true `k` best, in float64 by blocks."""
    best = [np.empty(0, np.int64)] * len(queries)
    for start in range(0, len(data), 50_000):
        near = np.argpartition(queries @ data[start : start + 50_000].T, -4 * k, axis=1)[
            :, -4 * k :
        ]
        best = [np.concatenate([a, b + start]) for a, b in zip(best, near, strict=True)]
    out = []
    for query, rows in zip(queries, best, strict=True):
        scores = data[rows].astype(np.float64) @ query.astype(np.float64)
        out.append(set(rows[np.argsort(-scores)[:k]].tolist()))
    return out


def recall(found: list[list[int]], right: list[set[int]]) -> float:
    """Return the share of the true best that was found."""
    hits = sum(len(r & set(f)) for f, r in zip(found, right, strict=True))
    return hits / sum(map(len, right))


def machine() -> str:
    """Return the processor's name and the cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def show(name: str, value: str, beside: str = "") -> None:
    """Print one line of the table."""
    print(f"{name:<42} {value:>16}   {beside}", flush=True)
