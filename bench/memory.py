"""What a model's load takes of memory beside its weights: `python -m bench.memory`.

Models of random weights in real shapes, each loaded in a fresh process, once with its way through
the network still to be proven and once with that known. What counts is what the process grows by
from after the libraries' imports and a tiny model of the same kind, loaded, run and closed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.corpus import load, model_folder
from bench.servers import QUIET, ROOT
from config import Config, ModelSpec
from server.memory import give_back_memory

# A small vocabulary: nearly all weights are the layers', and those are what is copied.
VOCABULARY = 4096
# The most that a model may take after its load, in its weights in the dtype that it runs in.
LIMITS = {"torch": 1.3, "packed": 1.3, "onnx": 2.5}
MOST = 3.0  # the same, at the worst moment
CASES = [
    ("bert", "torch", "float32"),
    ("bert", "packed", "float32"),
    ("bert", "onnx", "float32"),
    ("bert", "packed", "bfloat16"),
    ("qwen3", "torch", "bfloat16"),
]


def write_model(folder: Path, kind: str, layers: int, width: int) -> int:
    """Write a model of random weights, BERT's in float32 and Qwen3's in bfloat16; count them."""
    import torch
    import transformers

    shutil.copytree(model_folder(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    _cut_vocabulary(folder / "tokenizer.json")
    shape: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": width,
                             "num_hidden_layers": layers, "num_attention_heads": width // 64,
                             "intermediate_size": 4 * width}  # fmt: skip
    if kind == "bert":
        network: Any = transformers.BertModel(transformers.BertConfig(**shape))
        pooling = "mean"
    else:
        shape |= {"num_key_value_heads": max(1, width // 192), "head_dim": 64}
        network = transformers.Qwen3Model(transformers.Qwen3Config(**shape)).to(torch.bfloat16)
        pooling = "lasttoken"
    network.save_pretrained(folder)
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": width, "pooling_mode": pooling})
    )
    settings = json.loads((folder / "sentence_bert_config.json").read_text())
    (folder / "sentence_bert_config.json").write_text(
        json.dumps({**settings, "max_seq_length": 512})
    )
    return int(network.num_parameters())


def _cut_vocabulary(path: Path) -> None:
    """Keep a tokenizer's first pieces only."""
    given = json.loads(path.read_text())
    vocabulary = given["model"]["vocab"]
    given["model"]["vocab"] = {piece: n for piece, n in vocabulary.items() if n < VOCABULARY}
    path.write_text(json.dumps(given))
    (path.parent / "vocab.txt").unlink(missing_ok=True)


def measure(folder: Path, backend: str, dtype: str) -> dict[str, int]:
    """Load the model in `folder / "model"` here; return bytes beyond what the process had."""
    from embedders.backends import local
    from embedders.base import Prompt

    settings = Config(device="cpu", model_cache_dir=folder / "cache")
    texts = load().docs[:32]

    def loaded(name: str) -> Any:
        given = {"id": name, "model_name": str(folder / name), "backend": backend, "dtype": dtype}
        return local(ModelSpec.model_validate(given), settings)

    def encode(embedder: Any) -> None:
        embedder.encode(embedder.prepare(texts, Prompt(), "right"))

    tiny = loaded("tiny")
    encode(tiny)
    assert tiny.facts.backend == backend, tiny.facts.backend
    tiny.close()
    del tiny
    give_back_memory()  # what is free already would hide what the load takes
    before = _bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    embedder = loaded("model")
    after, peak = _bytes("VmRSS"), _bytes("VmHWM")
    encode(embedder)
    assert embedder.facts.backend == backend, embedder.facts.backend
    sizes = {"load": after, "peak": peak, "encode": _bytes("VmRSS")}
    return {name: size - before for name, size in sizes.items()}


def _bytes(line: str) -> int:
    """Return a size from /proc/self/status."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(each for each in status if each.startswith(line)).split()[1]) << 10


def apart(folder: Path, backend: str, dtype: str) -> dict[str, int]:
    """Measure in a fresh process."""
    call = [sys.executable, "-m", "bench.memory", "--at", str(folder), backend, dtype]
    told = subprocess.run(
        call, cwd=ROOT, env={**os.environ, **QUIET}, check=True, stdout=subprocess.PIPE
    )
    sizes: dict[str, int] = json.loads(told.stdout.splitlines()[-1])
    return sizes


def main() -> None:
    """Print a table: the weights in MB, and in multiples of them what the process grew by."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--at", nargs=3, metavar=("FOLDER", "BACKEND", "DTYPE"))
    parser.add_argument("--only", default="", help="cases that hold this, such as onnx")
    given = parser.parse_args()
    if given.at:
        print(json.dumps(measure(Path(given.at[0]), *given.at[1:])))
        return
    print("| model | weights, MB | way known | after the load | peak | after 32 texts |")
    print("|---" * 6 + "|")
    for kind, backend, dtype in CASES:
        name = f"{kind}, {backend} {dtype}"
        if given.only not in name:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_model(folder / "tiny", kind, 2, 192)
            weights = write_model(folder / "model", kind, 12, 768) * (2 if "b" in dtype else 4)
            for known in ("no", "yes"):
                sizes = apart(folder, backend, dtype)
                held = (
                    sizes["load"] <= LIMITS[backend] * weights and sizes["peak"] <= MOST * weights
                )
                row = [f"{sizes[each] / weights:.2f}" for each in ("load", "peak", "encode")]
                row[0] += "" if held else " (too much)"
                print(f"| {name} | {weights / 1e6:.0f} | {known} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
