"""Models of random weights in well-known shapes: speed does not depend on the values."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, Qwen3Config, Qwen3Model

VOCABULARY = 30_522  # the bundled tokenizer's


@dataclass(frozen=True)
class Shape:
    """Layers, width, inner width, heads, and for a decoder the heads of keys and values."""

    layers: int
    width: int
    inner: int
    heads: int
    shared: int = 0
    positions: int = 512

    @property
    def matrices(self) -> int:
        """The numbers in the matrices of one layer, which each token is multiplied with."""
        if not self.shared:
            return 4 * self.width**2 + 2 * self.width * self.inner
        head = 128  # Qwen3's
        attention = 2 * self.width * head * (self.heads + self.shared)
        return attention + 3 * self.width * self.inner

    def flops(self, lengths: list[int]) -> float:
        """Return the operations that inputs of these lengths take, without any padding."""
        across = self.heads * 128 if self.shared else self.width
        seen = 0.5 if self.shared else 1.0  # a decoder's token sees what is before it
        each = (2 * self.matrices * n + 4 * across * seen * n * n for n in lengths)
        return float(self.layers * sum(each))


SHAPES = {
    "minilm": Shape(6, 384, 1536, 12),  # the real weights
    "bge-large": Shape(24, 1024, 4096, 16),
    "qwen3-0.6b": Shape(28, 1024, 3072, 16, shared=8),
    "bge-base": Shape(12, 768, 3072, 12),
    "far": Shape(12, 768, 3072, 12, positions=8192),
}
# The same in a rehearsal.
SMALL = {
    "bge-large": Shape(2, 64, 128, 2),
    "qwen3-0.6b": Shape(2, 64, 128, 4, shared=2),
    "far": Shape(2, 64, 128, 2, positions=2048),
}


def folder_of(name: str, data: Path, device: str) -> Path:
    """Return the folder of a model of this shape, in bfloat16; made at its first use."""
    if name == "minilm":
        return data / "minilm"
    folder = data / "shapes" / name
    if not folder.exists():
        making = folder.with_name(f"{name}.part")
        shutil.rmtree(making, ignore_errors=True)
        _make(making, data / "minilm", (SMALL if device == "cpu" else SHAPES)[name], device)
        making.rename(folder)  # one that is there is whole
    return folder


def _make(folder: Path, bundled: Path, shape: Shape, device: str) -> None:
    """Write a network with the bundled model's tokenizer and pooling."""
    shutil.copytree(bundled, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    sizes = {
        "vocab_size": VOCABULARY, "hidden_size": shape.width, "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "max_position_embeddings": shape.positions,
    }  # fmt: skip
    with torch.device(device):  # a GPU makes a billion random numbers at once
        if shape.shared:
            made = Qwen3Model(Qwen3Config(num_key_value_heads=shape.shared, head_dim=128, **sizes))
        else:
            made = BertModel(BertConfig(**sizes))
    made.to(torch.bfloat16).save_pretrained(folder)
    for name, entries in {
        "sentence_bert_config.json": {"max_seq_length": shape.positions},
        "1_Pooling/config.json": {"word_embedding_dimension": shape.width},
        # The tokenizer has a limit of its own, which the library takes if it is the smaller one.
        "tokenizer_config.json": {"model_max_length": shape.positions},
    }.items():
        known = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps({**known, **entries}), encoding="utf-8")
