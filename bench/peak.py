"""This machine's matrix and memory rates, and what a model needs of them.

`python -m bench.peak` prints them; other measurements call `rates()` to say which share they reach.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from bench.corpus import Corpus

# all-MiniLM-L6-v2: layers, width, inner width.
LAYERS, WIDTH, INNER = 6, 384, 1536


def best(work: Callable[[], object], seconds: float = 0.5) -> float:
    """Return the shortest time in seconds that `work` took, tried for a while."""
    work()
    shortest, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        work()
        shortest = min(shortest, time.perf_counter() - started)
    return shortest


def gemm(dtype: torch.dtype, rows: int = 1024) -> float:
    """Return GFLOP/s of the model's own largest matrix, (rows, WIDTH) x (WIDTH, INNER)."""
    a, b = torch.randn(rows, WIDTH).to(dtype), torch.randn(INNER, WIDTH).to(dtype)
    took = best(lambda: torch.nn.functional.linear(a, b))
    return 2 * rows * WIDTH * INNER / took / 1e9


def int8_gemm(rows: int = 1024) -> float:
    """Return the same for bytes, in GOP/s, by ONNX Runtime: torch's own has no fast kernel here."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    source = np.random.default_rng(0)
    weights = numpy_helper.from_array(source.integers(-128, 128, (WIDTH, INNER), np.int8), "b")
    zero = numpy_helper.from_array(np.array(128, np.uint8), "zero")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b", "zero"], ["y"])],
        "gemm",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [rows, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [rows, INNER])],
        [weights, zero],
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    a = source.integers(0, 256, (rows, WIDTH), np.uint8)
    return 2 * rows * WIDTH * INNER / best(lambda: session.run(None, {"a": a})) / 1e9


def copy_rate() -> float:
    """Return GB/s read plus written when copying 256 MB."""
    source = torch.ones(64 * 1024 * 1024)
    target = torch.empty_like(source)
    return 2 * source.nbytes / best(lambda: target.copy_(source)) / 1e9


def rates() -> dict[str, float]:
    """Measure everything on all the cores that torch uses."""
    with torch.inference_mode():
        return {
            "float32_gflops": gemm(torch.float32),
            "bfloat16_gflops": gemm(torch.bfloat16),
            "int8_gops": int8_gemm(),
            "memory_gb_s": copy_rate(),
            "cores": torch.get_num_threads(),
        }


def gemm_peak(peak: dict[str, float]) -> float:
    """Return the faster of the two float rates: bfloat16's where the CPU computes in it."""
    return max(peak["bfloat16_gflops"], peak["float32_gflops"])


def busy_cores(seconds: float = 2) -> float:
    """Return how many cores other programs keep busy: over 0.1, trust no figure."""

    def used() -> float:
        path = Path("/proc/stat")
        values = (
            list(map(int, path.read_text().split("\n")[0].split()[1:])) if path.exists() else []
        )
        return (sum(values) - sum(values[3:5])) / os.sysconf("SC_CLK_TCK") if values else 0.0

    before = used()
    time.sleep(seconds)
    return (used() - before) / seconds


def flops(lengths: Sequence[int]) -> float:
    """Return the operations that encoding inputs of these lengths takes, without any padding."""
    dense = 2 * LAYERS * (4 * WIDTH * WIDTH + 2 * WIDTH * INNER)
    return float(sum(dense * n + 4 * LAYERS * WIDTH * n * n for n in lengths))


def share(corpus: Corpus, texts_s: float, gflops: float) -> float:
    """Return which share of a matrix rate is reached with so many of the corpus's docs a second."""
    per_text = flops([corpus.tokens[text] for text in corpus.docs]) / len(corpus.docs)
    return per_text * texts_s / 1e9 / gflops


if __name__ == "__main__":
    print(json.dumps(rates()))
