"""A sparse model beside the library's own `encode`, in one process: `python -m bench.sparse`.

The bundled MiniLM-L6 with a masked-language-model head on its own vocabulary of 30,522 terms. The
head is random, with a bias at which a text has as many terms as a trained SPLADE gives it; speed
depends on the values only through their number. Rounds are taken as in `bench.static`. The memory
of each side is the most that a process of its own took beyond the loaded model.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from bench.corpus import load, model_folder
from bench.static import paired
from config import Config, ModelSpec
from embedders import build
from embedders.base import Prompt, Sparse
from embedders.device import DeviceEmbedder
from embedders.sparse import rows_of

TERMS = 0.006  # of the vocabulary that a text has: 183; SPLADE's documents have 100 to 250
Encode = Callable[[Sequence[str]], Any]


def write_model(folder: Path, texts: Sequence[str]) -> None:
    """Write the model, with the bias at which these texts have `TERMS` of the vocabulary."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, BertModel

    torch.manual_seed(7)
    base = BertModel.from_pretrained(model_folder(), add_pooling_layer=False)  # nosec B615
    config = BertConfig.from_pretrained(model_folder())  # nosec B615
    model = BertForMaskedLM(config).eval()
    model.bert.load_state_dict(base.state_dict())
    model.tie_weights()
    tokenizer = AutoTokenizer.from_pretrained(model_folder())  # nosec B615
    given = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**given).logits.masked_fill(given["attention_mask"][..., None] == 0, -1e9)
    bound = logits.amax(1).flatten()[::7].quantile(1 - TERMS)
    model.cls.predictions.bias.data.fill_(-float(bound))
    model.cls.predictions.decoder.bias.data.fill_(-float(bound))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def sides(folder: Path, dtype: str) -> dict[str, Callable[[], Encode]]:
    """Return what loads our embedder, and what loads the library's."""

    def ours() -> Encode:
        config = Config.model_validate({"device": "cpu", "model_cache_dir": folder / "cache"})
        spec = ModelSpec.model_validate(
            {"id": "m", "model_name": str(folder), "type": "sparse", "dtype": dtype}
        )
        embedder = build(spec, config)
        assert isinstance(embedder, DeviceEmbedder)
        print(f"{dtype} runs by {embedder.facts.backend}", file=sys.stderr)

        def encode(texts: Sequence[str]) -> list[Sparse]:
            items = embedder.prepare(texts, Prompt(), "auto")
            rows: list[Any] = []
            for start in range(0, len(items), 32):  # as the library's batches are
                rows += embedder.encode(items[start : start + 32]).columns["sparse"]
            return rows

        return encode

    def library() -> Encode:
        import torch
        from sentence_transformers import SparseEncoder

        model = SparseEncoder(
            str(folder), device="cpu", model_kwargs={"dtype": getattr(torch, dtype)}
        )
        return lambda texts: model.encode(list(texts), show_progress_bar=False)

    return {"ours": ours, "library": library}


def grown(folder: Path, dtype: str, side: str, texts: Sequence[str]) -> float:
    """Return the MB that this process grew by from the first text to all of them, at its most."""
    encode = sides(folder, dtype)[side]()
    encode(texts[:1])
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = _peak_mb()
    encode(texts)
    return round(_peak_mb() - before, 1)


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def costs(column: Sequence[Sparse], right: Any) -> dict[str, float]:
    """Return the terms and bytes of a text's reply, and how far its weights are off, at most."""
    rows = rows_of(column, right.shape[1])
    replies = [orjson.dumps(v._asdict(), option=orjson.OPT_SERIALIZE_NUMPY) for v in column]
    return {
        "terms": round(float(np.mean([len(value.indices) for value in column])), 1),
        "json_bytes": round(float(np.mean(list(map(len, replies))))),
        "binary_bytes": 8 * round(float(np.mean([len(value.indices) for value in column]))),
        "largest_difference": float(np.abs(rows - right).max()),
    }


def main() -> None:
    """Print one JSON object: one text, 32 texts, memory, and what a reply costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--grown", nargs=2, metavar=("FOLDER", "SIDE"))
    given = parser.parse_args()
    docs = load().docs
    if given.grown:
        print(grown(Path(given.grown[0]), given.dtype, given.grown[1], docs[:256]))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        write_model(folder, docs[:16])
        made = {side: make() for side, make in sides(folder, given.dtype).items()}
        result: dict[str, Any] = {"dtype": given.dtype}
        for name, count, rounds in (("one", 1, 3 * given.rounds), ("32", 32, given.rounds)):
            batches = [docs[(count * n) % 8000 :][:count] for n in range(rounds)]
            paired(made["ours"], made["library"], batches[:3])
            result[name] = paired(made["ours"], made["library"], batches)
        right = made["library"](docs[:32]).to_dense().float().numpy()
        result |= costs(made["ours"](docs[:32]), right)
        for side in made:
            run = [sys.executable, "-m", "bench.sparse", "--dtype", given.dtype]
            found = subprocess.run(
                [*run, "--grown", str(folder), side], capture_output=True, text=True, check=True
            )
            result[f"{side}_grown_mb"] = float(found.stdout.split()[-1])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
