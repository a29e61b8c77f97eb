"""What sentence-transformers itself makes of texts: the right answer that all else is held to."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from embedders.base import Item, Prompt, Vectors


class Reference:
    """A `SentenceTransformer`, asked as its users ask it. One thread at a time."""

    def __init__(self, model: Any) -> None:
        self.model = model
        for module in model.modules():
            told = getattr(getattr(module, "tokenizer", None), "deprecation_warnings", None)
            if isinstance(told, dict):  # counting what is cut off is no mistake to warn of
                told["sequence-length-is-longer-than-the-specified-maximum"] = True

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the first module that has one."""
        found = (getattr(module, "tokenizer", None) for module in self.model.modules())
        return next((each for each in found if each is not None), None)

    @property
    def routes(self) -> bool:
        """Whether the side of a retrieval chooses the network."""
        return any(hasattr(module, "route_mappings") for module in self.model)

    def encode(self, texts: Sequence[str], prompt: Prompt, at_once: int = 32) -> Vectors:
        """Return (n, d) float32 as `encode`, `encode_query` or `encode_document` give them."""
        vectors = self.model.encode(
            list(texts), prompt=prompt.text, batch_size=at_once, show_progress_bar=False,
            **_task(prompt),
        )  # fmt: skip
        return np.ascontiguousarray(vectors, np.float32)

    def ids(self, text: str, prompt: Prompt) -> list[int] | None:
        """Return the token ids that the network reads of a text, or None if it reads others."""
        features = self._features([text], prompt)
        if "input_ids" in features and "attention_mask" in features:
            ids: list[int] = features["input_ids"][0][features["attention_mask"][0].bool()].tolist()
            return ids
        bags = _bags(features)
        return None if bags is None else bags[0]

    def counts(self, texts: Sequence[str], prompt: Prompt, truncation: bool = True) -> list[int]:
        """Return how many tokens of each text are read, or would be without any truncation."""
        if truncation:
            return _counts(self._features(texts, prompt), texts)
        words: Any = getattr(next(iter(self.model)), "tokenizer", None)
        if hasattr(words, "tokenize") and not hasattr(words, "backend_tokenizer"):  # a word average
            return [len(words.tokenize(prompt.text + text)) for text in texts]
        uncut = {"processing_kwargs": {"text": {"truncation": False, "max_length": None}}}
        alone = [_counts(self._features([text], prompt, **uncut), [text]) for text in texts]
        return [count for counts in alone for count in counts]  # together they would be padded

    def reads_nothing(self, prompt: Prompt) -> bool:
        """Tell whether a text without a token has a vector: the zero of a word average or a table.

        A transformer that reads nothing has no result.
        """
        features = self._features([" "], prompt)
        return "attention_mask" not in features or "sentence_lengths" in features

    def _features(self, texts: Sequence[str], prompt: Prompt, **options: Any) -> Any:
        return self.model.preprocess(
            list(texts), prompt=prompt.text or None, **_task(prompt), **options
        )


def by_length(items: Sequence[Item]) -> list[list[int]]:
    """Return the places of items in groups of one length in tokens."""
    groups: dict[int, list[int]] = {}
    for place, item in enumerate(items):
        groups.setdefault(item.tokens, []).append(place)
    return list(groups.values())


def _counts(features: Any, texts: Sequence[str]) -> list[int]:
    for name in ("sentence_lengths", "attention_mask"):
        if name in features:
            found = features[name] if name == "sentence_lengths" else features[name].sum(dim=1)
            return [int(count) for count in found]
    bags = _bags(features)
    return [len(bag) for bag in bags] if bags is not None else [len(t.split()) for t in texts]


def _task(prompt: Prompt) -> dict[str, str]:
    return {} if prompt.task is None else {"task": prompt.task}


def _bags(features: Any) -> list[list[int]] | None:
    """Return the ids of a static model's texts, which stand one behind the other."""
    if "input_ids" not in features or "offsets" not in features:
        return None
    ids, starts = features["input_ids"].tolist(), features["offsets"].tolist()
    return [ids[a:b] for a, b in zip(starts, [*starts[1:], len(ids)], strict=True)]
