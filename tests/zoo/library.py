"""What the library makes of a layout: the vectors, the tokens and the cuts that are right."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.zoo.layouts import Layout

LONG = 1500  # characters of a text from which it is encoded alone: less is padded
# The names of the two sides of a retrieval, in the order in which a model's prompts are tried.
SIDES = {
    "query": ("query", "search_query", "retrieval.query"),
    "document": ("document", "passage", "search_document", "retrieval.passage"),
}


@dataclass(frozen=True)
class Way:
    """One way to ask for vectors: what the service is sent, and what the library is called with."""

    name: str
    sent: dict[str, str] = field(default_factory=dict, hash=False)
    prompt: str | None = None
    prompt_name: str | None = None
    task: str | None = None


PLAIN = Way("without a prompt")


class Library:
    """A layout's folder, loaded by sentence-transformers in one precision."""

    def __init__(self, kind: Layout, folder: Path, dtype: torch.dtype) -> None:
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": dtype})
        if kind.cut:
            self.model.max_seq_length = kind.cut

    def ways(self) -> list[Way]:
        """Return every way: each prompt by its name, one by its text, both roles."""
        ways = [Way("prompt: Say", {"prompt": "Say this: "}, prompt="Say this: ")]
        for name in self.model.prompts:
            side = next((side for side, words in SIDES.items() if name in words), None)
            ways.append(Way(f"prompt_name: {name}", {"prompt_name": name}, None, name, side))
        return [*ways, *(self.role(side, side) for side in SIDES)]

    def synonyms(self) -> list[Way]:
        """Return the roles by the other names that clients have for them."""
        return [self.role(side, word) for side, words in SIDES.items() for word in words[1:]]

    def role(self, side: str, word: str) -> Way:
        """Return the way of a role: its prompt is the first of its names that has a text.

        `encode_document` is not asked: it takes an empty "document" for a model whose prompt is
        called "passage".
        """
        names = (word, *SIDES[side])
        known = [name for name in names if name in self.model.prompts]
        name = next((name for name in known if self.model.prompts[name]), known[0])
        return Way(f"input_type: {word}", {"input_type": word}, None, name, side)

    def encode(self, texts: Sequence[str], way: Way = PLAIN, size: int = 15) -> np.ndarray:
        """Return unit vectors, encoded in batches of `size` but for long texts."""
        given: dict[str, Any] = {"prompt": way.prompt, "prompt_name": way.prompt_name}
        if way.task:
            given["task"] = way.task
        rows = {}
        for these in _alike(texts):
            found = self.model.encode(
                [texts[at] for at in these], batch_size=size, normalize_embeddings=True,
                convert_to_tensor=True, show_progress_bar=False, **given,
            )  # fmt: skip
            rows.update(zip(these, found.float().numpy(), strict=True))
        return np.stack([rows[at] for at in range(len(texts))])

    def tokens(self, texts: Sequence[str], way: Way = PLAIN) -> tuple[list[int], int]:
        """Return each text's tokens, and how many texts are cut."""
        kept, whole = self.counts(texts, way, cut=True), self.counts(texts, way, cut=False)
        return kept, sum(a < b for a, b in zip(kept, whole, strict=True))

    def counts(self, texts: Sequence[str], way: Way, *, cut: bool) -> list[int]:
        """Return each text's tokens, those over the limit too where they are not `cut`."""
        prompt = way.prompt
        if prompt is None:
            name = way.prompt_name or self.model.default_prompt_name
            prompt = self.model.prompts[name] if name else None
        given: dict[str, Any] = {"task": way.task} if way.task else {}
        if not cut:
            given["processing_kwargs"] = {"text": {"truncation": False, "max_length": None}}
        counts: dict[int, int] = {}
        for these in _alike(texts):
            features = self.model.preprocess([texts[at] for at in these], prompt=prompt, **given)
            if "offsets" in features:  # of a static model: all ids in one row
                ends = [*features["offsets"].tolist()[1:], features["input_ids"].numel()]
                counts.update(zip(these, np.diff([0, *ends]).tolist(), strict=True))
            else:
                counts.update(zip(these, features["attention_mask"].sum(1).tolist(), strict=True))
        return [counts[at] for at in range(len(texts))]


def _alike(texts: Sequence[str]) -> list[list[int]]:
    """Return the places of texts that may share a batch: the short ones, and each long one."""
    short = [at for at, text in enumerate(texts) if len(text) < LONG]
    long = [[at] for at, text in enumerate(texts) if len(text) >= LONG]
    return [short, *long] if short else long
