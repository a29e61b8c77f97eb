"""The zoo's register: what a layout is, and how a tiny model of it gets weights and files.

A layout is a folder as it is found on the hub or in a cache: a network's own files in the root, and
beside them what sentence-transformers needs of modules, prompts and limits. The builders are in
`layouts_bert.py`, `layouts_encoders.py`, `layouts_decoders.py`, `layouts_parts.py` and
`layouts_refused.py`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SHAPE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
FIRST = "sentence_transformers.models.Transformer"
Build = Callable[[Path], None]


@dataclass(frozen=True)
class Layout:
    """One kind of folder.

    `longest` is the most words a text has: more than the limit has tokens, where that is small
    enough to be computed often. `far` asks for a text of 2,000 tokens too. `cut` is the limit that
    the library itself must be told, since it would crash. `order` says that the order of words
    changes a vector: a static model does not see it. `halves` says that the library can compute it
    in bfloat16. `padded` is why it cannot run flat, `why` what a refusal must say.
    """

    name: str
    family: str
    build: Build
    longest: int = 130
    far: bool = False
    cut: int | None = None
    order: bool = True
    halves: bool = True
    padded: str = ""
    why: str = ""


LAYOUTS: dict[str, Layout] = {}


def layout(family: str, **facts: Any) -> Callable[[Build], Build]:
    """Register a builder under its function's name."""

    def register(build: Build) -> Build:
        LAYOUTS[build.__name__] = Layout(build.__name__, family, build, **facts)
        return build

    return register


def wild(network: Any, seed: int = 0, sharp: float = 2.0) -> Any:
    """Give a network weights of a trained one's size, and attention that is not flat."""
    source = torch.Generator().manual_seed(seed)
    for name, values in network.named_parameters():
        noise = torch.randn(values.shape, generator=source)
        if values.dim() < 2:
            near = 1.0 if "norm" in name.lower() or "ln_" in name else 0.0
            plus_one = "gemma" in type(network).__name__.lower() and near
            noise = noise * 0.1 + (0.0 if plus_one or name.endswith("bias") else near)
            if any(part in name for part in ("q_norm", "k_norm")):
                noise = noise + sharp - 1.0  # as wider projections, which these undo
        elif not any(
            part in name.lower()
            for part in ("embed", "wte", "wpe", "shared", "lm_head", "relative_attention_bias")
        ):
            noise /= values.shape[-1] ** 0.5
            noise = _sharpened(name, noise, sharp)
        elif "position" in name or "wpe" in name:
            noise *= 0.5
        elif "relative" in name:
            noise *= 3.0  # T5 tells positions by this alone
        values.data = noise.to(values.dtype)
    return network.eval()


def _sharpened(name: str, weights: torch.Tensor, sharp: float) -> torch.Tensor:
    if "c_attn" in name:  # GPT-2 keeps its matrices the other way round
        weights[:, : weights.shape[1] * 2 // 3] *= sharp
    elif "qkv" in name.lower():
        weights[: weights.shape[0] * 2 // 3] *= sharp
    elif any(part in name for part in QUERIES):
        weights *= sharp
    return weights


QUERIES = (
    "query", "key", "q_lin", "k_lin", "q_proj", "k_proj", "attn.q.", "attn.k.", "rel_attn.q",
    "rel_attn.k", "Attention.q.", "Attention.k.",
)  # fmt: skip


def write(file: Path, content: object) -> None:
    """Write JSON, and the folder that it lies in."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2), encoding="utf-8")


def changed(file: Path, **entries: object) -> None:
    """Change some entries of a JSON file."""
    write(file, {**json.loads(file.read_text(encoding="utf-8")), **entries})


def bare(folder: Path, network: Any, tokenizer: Any, **options: Any) -> None:
    """Write a folder as transformers does, which knows of no sentence."""
    network.save_pretrained(folder, **options)
    tokenizer.save_pretrained(folder)


def sentence(
    folder: Path,
    network: Any,
    tokenizer: Any,
    pooling: str | tuple[str, ...] = "mean",
    *,
    normalized: bool = False,
    include_prompt: bool = True,
    limit: int | None = 64,
    prompts: dict[str, str] | None = None,
    default_prompt: str | None = None,
    more: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    """Write a folder as most sentence-transformers models are published.

    `more` goes into `sentence_bert_config.json`, `config` into `config_sentence_transformers.json`.
    """
    bare(folder, network, tokenizer, **options)
    modes = (pooling,) if isinstance(pooling, str) else pooling
    width = network.config.hidden_size
    flags = {f"pooling_mode_{POOLINGS[mode]}": True for mode in modes}
    flags.setdefault("pooling_mode_mean_tokens", False)  # which is on where nothing is said
    pooled = {"word_embedding_dimension": width, **flags, "include_prompt": include_prompt}
    write(folder / "1_Pooling" / "config.json", pooled)
    write(folder / "sentence_bert_config.json", {"max_seq_length": limit, **(more or {})})
    write(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {"sentence_transformers": "3.4.1", "transformers": "4.48.0"},
            "prompts": prompts or {},
            "default_prompt_name": default_prompt,
            **(config or {}),
        },
    )
    kinds = ["Pooling", *(["Normalize"] if normalized else [])]
    modules(folder, [FIRST, *(f"sentence_transformers.models.{kind}" for kind in kinds)])


POOLINGS = {
    "cls": "cls_token",
    "max": "max_tokens",
    "mean": "mean_tokens",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean_tokens",
    "lasttoken": "lasttoken",
}


def modules(folder: Path, kinds: list[str]) -> None:
    """Write modules.json: the first module is in the root, the others have folders."""
    rows = [
        {"idx": at, "name": str(at), "type": kind,
         "path": f"{at}_{kind.rpartition('.')[2]}" if at else ""}
        for at, kind in enumerate(kinds)
    ]  # fmt: skip
    write(folder / "modules.json", rows)
