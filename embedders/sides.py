"""Prepares texts for models that treat the two sides of a retrieval differently.

A sparse model may look queries up in a table and compute documents; a ColBERT model cuts the two at
other lengths and adds mask tokens to queries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from embedders.base import Input, Item, Pair, Prompt, Task, Token, Truncate
from embedders.tokens import PREPARERS, TextTokenizer

KIND = "sides"
SIDES: tuple[Task | None, ...] = (None, "query", "document")


@dataclass(frozen=True)
class Expansion:
    """The tokens that a query is filled up with to `length`; see `QueryExpansionConfig`.

    Without `attend` the query's own tokens do not see them, while they see the query.
    """

    length: int
    token: int
    attend: bool


class SideTokenizer:
    """Prepares inputs by the side that their prompt is for. Safe to call from many threads."""

    def __init__(
        self, sides: Mapping[Task | None, TextTokenizer], expansion: Expansion | None = None
    ) -> None:
        """Take a tokenizer for each side, and for inputs of none."""
        self._sides, self.expansion = dict(sides), expansion

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Return the token ids of each input, and its side. See `TextTokenizer.prepare`."""
        items = self._sides[prompt.task].prepare(inputs, prompt, truncate)
        side, expansion = Prompt(task=prompt.task), self.expansion
        if expansion is None or prompt.task != "query":
            return [replace(item, prompt=side) for item in items]
        found = []
        for item in items:
            missing = max(0, expansion.length - item.tokens) if expansion.attend else 0
            payload = [*item.payload, *[expansion.token] * missing]
            tokens = max(item.tokens, expansion.length)  # what a pass computes
            found.append(replace(item, payload=payload, tokens=tokens, prompt=side))
        return found

    def prepare_pairs(
        self, pairs: Sequence[Pair], prompt: Prompt, truncate: Truncate
    ) -> list[Item]:
        """Raise BadRequest: see `TextTokenizer.prepare_pairs`."""
        return self._sides[None].prepare_pairs(pairs, prompt, truncate)

    def prepare_chunks(
        self, documents: Sequence[Sequence[str]], prompt: Prompt, truncate: Truncate | None
    ) -> list[Item]:
        """Return the token ids of each document. See `TextTokenizer.prepare_chunks`."""
        return self._sides[prompt.task].prepare_chunks(documents, prompt, truncate)

    def tokenize(
        self, inputs: Sequence[str | Pair], prompt: Prompt, *, special: bool
    ) -> list[list[Token]]:
        """Return the tokens of each whole input, without what a query is filled up with."""
        return self._sides[prompt.task].tokenize(inputs, prompt, special=special)

    def detokenize(self, ids: Sequence[Sequence[int]], *, skip_special: bool) -> list[str]:
        """Return the text of each list of ids. See `TextTokenizer.detokenize`."""
        return self._sides["document"].detokenize(ids, skip_special=skip_special)

    def terms(self, indices: Sequence[int]) -> list[str]:
        """Return the vocabulary's tokens of these ids. See `TextTokenizer.terms`."""
        return self._sides["document"].terms(indices)

    def recipe(self) -> dict[str, Any]:
        """Return JSON from which `tokens.preparer_of` makes an equal one."""
        expansion = self.expansion and vars(self.expansion)
        sides = [[task, made.recipe()] for task, made in self._sides.items()]
        return {"kind": KIND, "sides": sides, "expansion": expansion}


def _of_recipe(recipe: dict[str, Any]) -> SideTokenizer:
    expansion = recipe["expansion"]
    sides = {task: TextTokenizer.of_recipe(given) for task, given in recipe["sides"]}
    return SideTokenizer(sides, Expansion(**expansion) if expansion else None)


PREPARERS[KIND] = _of_recipe
