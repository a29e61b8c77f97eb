"""Whether the vectors are those that sentence-transformers gives on a CPU in float32."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from bench.gpu.packed import cases
from bench.gpu.run import Run, cosines, spec_of
from embedders.base import Embedder, Item, Prompt
from serving.encoder import Encoder
from serving.loader import encoder_of

# The least cosine, as the proof at each load has it (embedders/proof.py).
LEAST = {"float32": 0.99999, "bfloat16": 0.9995, "float16": 0.9995}
# How much farther than the library in the same precision a model of random weights may be.
FARTHER, ROUNDING = 4.0, 1e-4
NEAREST = 10


def main(run: Run) -> None:
    """Record for each model and precision how far its vectors are from the true ones."""
    wrong = 0
    for case in cases(run.data):
        folder, texts = run.data / case["model"], case["texts"]
        truth = np.load(run.data / case["vectors"])
        for dtype in ("float32", "bfloat16"):
            what = f"{case['model']} {dtype}"
            if run.has_time(what):
                wrong += not _judged(run, folder, texts, truth, dtype)
    if wrong:
        raise SystemExit(f"{wrong} models are not right")


def _judged(run: Run, folder: Path, texts: list[str], truth: np.ndarray, dtype: str) -> bool:
    """Record one model's figures in one precision; return whether they are good enough."""
    row: dict[str, object] = {"model": str(folder.relative_to(run.data)), "dtype": dtype}
    try:
        embedder = run.embedder(folder, dtype=dtype)
    except Exception as exc:  # such as an architecture that an older transformers lacks
        run.record(**row, ok=False, refused=str(exc)[:200])
        return False
    encoder = encoder_of(spec_of(folder), run.config(folder, dtype=dtype), embedder)
    facts = embedder.facts
    try:
        items = embedder.prepare(texts, Prompt(), "auto")
        ours = encoder.encode(items).vectors
        found: dict[str, Any] = {
            "backend": facts.backend, "on": facts.device,
            "cosine": float(cosines(ours, truth).min()),
            "centred": float(_centred(ours, truth).min()),
            "nearest": _same_nearest(ours, truth),
            "alone": _alone(encoder, items, ours),
        }  # fmt: skip
        reasons = _reasons(run, found, folder, texts, truth, dtype)
        if dtype != "float32":
            found["exact"] = _exact(embedder, items, truth)
            if found["exact"] < LEAST["float32"]:
                reasons.append("the second pass in float32")
        again = encoder.encode(items).vectors
        if float(cosines(ours, again).min()) < LEAST[dtype]:
            reasons.append("the same once more")
        run.record(**row, **found, ok=not reasons, reasons=reasons)
        return not reasons
    finally:
        encoder.close()


def _reasons(
    run: Run, found: dict[str, Any], folder: Path, texts: list[str], truth: np.ndarray, dtype: str
) -> list[str]:
    """Return what is not good enough.

    A model of random weights is held to the library in the same precision on the same device, since
    half precision moves its vectors more than a trained model's.
    """
    least = LEAST[dtype]
    reasons = [name for name in ("cosine", "alone") if found[name] < least]
    if not reasons and (dtype != "float32" or found["centred"] >= least):
        return []
    if dtype == "float32":
        return reasons or ["centred"]
    library = SentenceTransformer(
        str(folder), device=run.device, model_kwargs={"dtype": getattr(torch, dtype)}
    )
    theirs = cosines(library.encode(texts, batch_size=8, show_progress_bar=False), truth).min()
    found["library"] = float(theirs)
    allowed = 1 - FARTHER * (1 - float(theirs)) - ROUNDING
    return [name for name in reasons if found[name] < allowed]


def _centred(ours: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return cosines without what all have in common, which hides errors of random models."""
    mine, true = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (ours, truth))
    middle = true.mean(0)
    return cosines(mine - middle, true - middle)


def _same_nearest(ours: np.ndarray, truth: np.ndarray) -> float:
    """Return which share of each text's ten nearest others is the same."""
    mine, true = (_nearest(vectors) for vectors in (ours, truth))
    return float(np.mean([len({*a} & {*b}) / len(b) for a, b in zip(mine, true, strict=True)]))


def _nearest(vectors: np.ndarray) -> np.ndarray:
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    like = units @ units.T
    np.fill_diagonal(like, -2)
    return np.argsort(-like, axis=1)[:, :NEAREST]


def _alone(encoder: Encoder, items: list[Item], ours: np.ndarray) -> float:
    """Return the least cosine of texts encoded alone to the same among all."""
    places = sorted({0, 1, len(items) // 2, len(items) - 2, len(items) - 1})
    each = np.concatenate([encoder.encode([items[at]]).vectors for at in places])
    return float(cosines(each, ours[places]).min())


def _exact(embedder: Embedder, items: list[Item], truth: np.ndarray) -> float:
    """Return the least cosine of what the second pass in float32 gives."""
    few = range(min(8, len(items)))
    return float(
        cosines(embedder.encode_exactly([items[i] for i in few]).vectors, truth[few]).min()
    )
