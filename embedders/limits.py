"""Finds how many tokens a model reads: what its configuration says, within what it can number.

A model with a table of positions cannot read more tokens than the table has rows for. Which models
have one, and where its numbers begin, is not told by their configuration: one pass shows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from embedders.base import Task

# Where neither the model nor its tokenizer has a limit (T5 without one, XLNet).
MOST_TOKENS = 1 << 20
MOST_TRIED = 4096  # tokens of a pass that tries whether there is a table
PROBE = 7  # tokens of the pass that shows the table
LENGTHS: dict[Task, str] = {"query": "query_length", "document": "document_length"}


@dataclass(frozen=True)
class Limits:
    """The longest input in tokens, special ones included; each side of a retrieval may have one."""

    most: int
    of_task: dict[Task, int] = field(default_factory=dict)

    def of(self, task: Task | None) -> int:
        """Return the limit of inputs on this side."""
        return self.most if task is None else self.of_task.get(task, self.most)

    def set_on(self, transformer: Any) -> None:
        """Have the library cut inputs at the same lengths."""
        transformer.max_seq_length = self.most
        for task, length in self.of_task.items():
            setattr(transformer, LENGTHS[task], length)
        text = transformer.processing_kwargs.get("text", {})
        if text.get("max_length") is not None:
            text["max_length"] = self.most


def limits_of(transformer: Any, wanted: int | None) -> Limits:
    """Return the limits of a sentence-transformers `Transformer`, at most `wanted` tokens.

    `processing_kwargs` and `query_length` in sentence_bert_config.json count as the library counts
    them: the former wins.
    """
    pad_id = getattr(transformer.tokenizer, "pad_token_id", None)
    ceiling = min(wanted or MOST_TOKENS, positions(transformer.model, pad_id))
    most = int(min(wanted or transformer.max_seq_length or MOST_TOKENS, ceiling))
    told = getattr(transformer.config, "max_position_embeddings", None)
    if (
        isinstance(told, int)
        and 0 < told < most
        and not _reads(transformer.model, told + 1, pad_id)
    ):
        ceiling = most = told  # a table that no lookup shows
    text = transformer.processing_kwargs.get("text", {})
    always = text.get("max_length")
    if always is not None:
        return Limits(min(int(always), ceiling))
    lengths = {task: getattr(transformer, name, None) for task, name in LENGTHS.items()}
    of_task = {task: min(int(length), ceiling) for task, length in lengths.items() if length}
    return Limits(most, of_task)


def _reads(network: Any, count: int, pad_id: int | None) -> bool:
    """Tell whether a network can read so many tokens. None that has a limit is asked for many."""
    import torch

    if count > MOST_TRIED:
        return True
    ids = torch.full((1, count), 1 if pad_id == 0 else 0, device=next(network.parameters()).device)
    try:
        with torch.inference_mode():
            network(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (IndexError, RuntimeError, ValueError):
        return False
    return True


def positions(network: Any, pad_id: int | None) -> int:
    """Return how many tokens a network's table of positions can number, or `MOST_TOKENS`.

    In a pass over `PROBE` tokens such a table is what is asked for that many rows one after the
    other, whatever the tokens are. BERT asks from row 0, RoBERTa from the padding's row + 1.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    found: list[int] = []

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
        ) -> Any:
            if func is torch.ops.aten.embedding.default:
                rows, asked = args[0].shape[0], args[1]
                first = asked.reshape(-1)[:PROBE].tolist()
                alone = asked.numel() == asked.shape[-1] >= PROBE
                if alone and first == list(range(first[0], first[0] + PROBE)):
                    found.append(rows - first[0])
            return func(*args, **(kwargs or {}))

    try:
        vocabulary = network.get_input_embeddings().weight.shape[0]
    except (NotImplementedError, AttributeError):  # it reads characters, not a vocabulary's tokens
        return MOST_TOKENS
    # Any tokens but padding, which some number apart, and not one after the other.
    some = [i for i in range(min(vocabulary, 4 * PROBE)) if i != pad_id]
    ids = torch.tensor([[some[(5 * i) % len(some)] for i in range(PROBE)]])
    ids = ids.to(next(network.parameters()).device)
    with torch.no_grad(), Watch():  # type: ignore[no-untyped-call]
        network(input_ids=ids, attention_mask=torch.ones_like(ids))
    return min(found, default=MOST_TOKENS)
