"""sentence-transformers' own `encode` on the same texts: what anyone has without this service."""

import torch
from sentence_transformers import SentenceTransformer

from bench.corpus import load
from bench.gpu.run import Run, timed
from bench.gpu.shapes import folder_of


def main(run: Run) -> None:
    """Record tokens a second in both precisions, 32 and 256 texts a call."""
    corpus = load()
    texts = corpus.docs[: 8 if run.small else 1024]
    long = [" ".join(corpus.docs[at : at + 12]) for at in range(0, len(texts) // 4)]
    for name, given in (("minilm", texts), ("bge-large", long)):
        folder = folder_of(name, run.data, run.device)
        for dtype in ("bfloat16", "float32"):
            kind = {"dtype": getattr(torch, dtype)}
            model = SentenceTransformer(str(folder), device=run.device, model_kwargs=kind)
            tokens = int(
                sum(len(model.tokenizer(text, truncation=True)["input_ids"]) for text in given)
            )
            for size in (32, 256):
                if not run.has_time(f"{name} {dtype} {size}", run.seconds):
                    return

                def encode(model: SentenceTransformer = model, size: int = size) -> None:
                    model.encode(given, batch_size=size, show_progress_bar=False)  # noqa: B023

                encode()
                wall, _ = timed(encode, run.seconds / 2, 1)
                run.record(model=name, dtype=dtype, at_once=size, tokens_s=tokens / wall,
                           texts_s=len(given) / wall)  # fmt: skip
            del model
