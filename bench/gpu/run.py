"""What every part has: where things are, how long it may take, and where its findings go."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prometheus_client.parser import text_string_to_metric_families

from bench.engine import make_engine
from config import Config, ModelSpec
from embedders import build
from embedders.base import Embedder, Item
from engine import Engine


@dataclass(frozen=True)
class Run:
    """One part's run."""

    part: str
    data: Path  # the unpacked pack
    device: str  # cuda or cpu
    seconds: float  # of one measured load
    results: Path
    end: float  # time.monotonic() at which the part should be done

    @property
    def small(self) -> bool:
        """Whether this is a rehearsal, in small shapes."""
        return self.device == "cpu"

    def record(self, **row: object) -> None:
        """Append a finding to the results, for good even if the process is killed just after."""
        line = json.dumps({"part": self.part, **row}, default=float) + "\n"
        with self.results.open("a", encoding="utf-8") as file:
            file.write(line)

    def has_time(self, what: str, seconds: float = 0.0) -> bool:
        """Return whether so much time is left; what is left out for lack of it is recorded."""
        if time.monotonic() + seconds < self.end:
            return True
        self.record(left_out=what)
        return False

    def embedder(self, folder: Path, **settings: object) -> Embedder:
        """Load a model as the service does."""
        return build(spec_of(folder), self.config(folder, **settings))

    def engine(self, folder: Path, **settings: Any) -> Engine:
        """Return the engine of a loaded model, without a cache."""
        return make_engine(device=self.device, model=str(folder), **settings)

    def config(self, folder: Path, **settings: object) -> Config:
        """Return a configuration of one model on the device."""
        return Config.model_validate(
            {"device": self.device, "supported_models": str(folder), **settings}
        )


def spec_of(folder: Path) -> ModelSpec:
    """Return a model's entry."""
    return ModelSpec(id=str(folder), model_name=str(folder))


def items_of(lengths: list[int]) -> list[Item]:
    """Return inputs of these lengths in tokens, of random ids."""
    random = np.random.default_rng(len(lengths))
    return [Item(random.integers(1000, 30_000, length).tolist(), length) for length in lengths]


def wait(device: str) -> None:
    """Wait until the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def timed(work: Callable[[], object], seconds: float, least: int = 3) -> tuple[float, float]:
    """Return the median wall and the mean CPU seconds of a call, repeated for a while."""
    walls: list[float] = []
    end, cpu = time.perf_counter() + seconds, time.process_time()
    while len(walls) < least or time.perf_counter() < end:
        began = time.perf_counter()
        work()
        walls.append(time.perf_counter() - began)
    return float(np.median(walls)), (time.process_time() - cpu) / len(walls)


def matrix_rate(device: str) -> float:
    """Return FLOP/s of a large product of bfloat16 matrices."""
    size = 8192 if device == "cuda" else 256
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))

    def ten() -> None:
        for _ in range(10):
            a @ b
        wait(device)

    ten()
    return 20 * size**3 / timed(ten, 0.1)[0]


def used_mb(device: str) -> int | None:
    """Return the device's memory in use, by all processes, in MB; None on a CPU."""
    if device != "cuda":
        return None
    free, whole = torch.cuda.mem_get_info()
    return int((whole - free) >> 20)


def totals(exposition: bytes) -> dict[str, float]:
    """Return each of the service's series summed over its labels, by its name."""
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(exposition.decode()):
        for sample in family.samples:
            if sample.name.startswith("embedding_") and not sample.name.endswith("_bucket"):
                name = sample.name.removeprefix("embedding_")
                sums[name] = sums.get(name, 0.0) + sample.value
    return sums


def passes_between(
    before: dict[str, float], after: dict[str, float], wall_s: float
) -> dict[str, float]:
    """Return what the passes of a time were like, from the service's own metrics."""
    change = {name: after[name] - before.get(name, 0.0) for name in after}
    count = max(change.get("pass_seconds_count", 0.0), 1.0)
    seconds = change.get("pass_seconds_sum", 0.0)
    return {
        "passes": count,
        "texts_a_pass": change.get("pass_texts_sum", 0.0) / count,
        "tokens_a_pass": change.get("tokens_total", 0.0) / count,
        "pass_ms": 1000 * seconds / count,
        "in_passes": seconds / wall_s,  # 1 where a pass is always under way
        "fill": change.get("pass_fill_ratio_sum", 0.0) / count,
    }


def cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return the cosine of each pair of rows."""
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    found: np.ndarray = (a * b).sum(1) / np.maximum(lengths, 1e-12)
    return found
