"""Finds what runs small passes fastest, by measuring it on this very machine.

A pass of a few tokens is bound by how fast weights are read and by how cores wait for each other,
which differs between processors, kernels and virtual machines. So it is measured when a model
loads, and kept with the verdict of the proof.
"""

import time
from collections.abc import Sequence
from typing import Any

from embedders.base import Small
from embedders.graph import MissingPackage, OnnxLayers
from embedders.layers import cores, threads, use_cores
from embedders.loading import LoadedModel, casts
from embedders.packed import Layers, Packed, Step

# Tokens of the passes that are measured; larger ones are divided between the cores.
SIZES = (16, 32, 64, 128)
# So many runs of a way follow each other: torch's threads spin after an operation on several cores,
# and slow down what comes next. Ways are run in turn for so long, for all sizes together, and the
# least time of each counts: on a busy machine only some runs have all cores.
RUNS, LIMIT_S = 3, 1.0


def choose_small(
    packed: Packed, loaded: LoadedModel, known: Sequence[Small] | None
) -> tuple[Small, ...]:
    """Choose what runs a model's small passes, by measuring or as it is `known`; return it."""
    others: list[Layers] = []
    if known is None or any(small.backend != packed.layers.name for small in known):
        others = _in_float32(loaded)
    if known is None:
        packed.small = _measured(packed, others)
    else:
        by_name = {each.name: each for each in (packed.layers, *others)}
        given = [small for small in known if small.backend in by_name]
        packed.small = [Step(most, by_name[name], count) for most, name, count in given]
    return tuple(Small(step.tokens, step.layers.name, step.cores) for step in packed.small)


def _in_float32(loaded: LoadedModel) -> list[Layers]:
    """Return the layers by ONNX Runtime beside those in half precision, if they may be.

    They take two thirds of what both take. They read the model's file in place, so a file in half
    precision is no way to them: its weights would be there twice more.
    """
    import torch

    may = loaded.backend == "auto" and loaded.dtype.itemsize == 2
    if not may or casts(loaded.source.folder, torch.float32):
        return []
    network = next(iter(loaded.exactly().modules)).auto_model
    try:
        heads = network.config.num_attention_heads
        return [OnnxLayers(network.encoder.layer, heads, torch.float32)]
    except (MissingPackage, KeyError):
        return []


def _measured(packed: Packed, others: Sequence[Layers]) -> list[Step]:
    """Return what runs passes up to each size fastest: the packed layers themselves, or others."""
    import torch

    usual = packed.layers, cores()
    ways = list(dict.fromkeys([usual, (packed.layers, 1), *((each, cores()) for each in others)]))
    found: list[Step] = []
    for size in SIZES:
        text = [[packed.pad_id + 1] * size]

        def once(way: tuple[Layers, int], text: Any = text) -> float:
            use_cores(way[1])
            with torch.inference_mode():
                began = time.perf_counter()
                packed(text, layers=way[0])
                return time.perf_counter() - began

        took = dict.fromkeys(ways, float("inf"))
        end = time.monotonic() + LIMIT_S / len(SIZES)
        while time.monotonic() < end:
            for way in ways:
                runs = [threads().submit(once, way).result() for _ in range(RUNS)]
                took[way] = min(took[way], *runs)
        best = min(ways, key=lambda way: took[way])
        if found and (found[-1].layers, found[-1].cores) == best:
            found.pop()
        found.append(Step(size, *best))
    if found and (found[-1].layers, found[-1].cores) == usual:
        found.pop()
    return found
