"""Folders of small real models: the bundled one under other names, and one of each kind."""

import shutil
from pathlib import Path

from tests.embedders.repositories import MINILM
from tests.embedders.rerankers import ms_marco_minilm
from tests.embedders.test_m3 import with_heads
from tests.embedders.test_multi_vector import pylate
from tests.embedders.test_sparse import masked_bert

SIZE_MB = 208  # of the bundled model in float32, on ONNX Runtime, rounded up


def copies(folder: Path, count: int) -> list[Path]:
    """Make folders of the bundled model that are other models: each has a prompt of its own."""
    made = []
    for number in range(count):
        copy = folder / f"minilm-{number}"
        shutil.copytree(MINILM, copy, ignore=shutil.ignore_patterns("*.safetensors"))
        (copy / "model.safetensors").symlink_to(MINILM / "model.safetensors")
        made.append(copy)
    return made


def kinds(folder: Path) -> dict[str, dict[str, object]]:
    """Make a reranker, a sparse model, a multi-vector model, a bge-m3; return their entries."""
    for name, make in (("reranker", ms_marco_minilm), ("sparse", masked_bert),
                       ("multi_vector", pylate), ("m3", with_heads)):  # fmt: skip
        make(folder / name)
    types = {"reranker": "reranker", "sparse": "sparse", "multi_vector": "multi_vector"}
    return {
        name: {"model_name": str(folder / name), "type": types.get(name, "auto")}
        for name in (*types, "m3")
    }
