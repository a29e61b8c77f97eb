"""Rerankers behind an API: Cohere's, and any server with a `/rerank` of the usual forms.

Jina, Voyage, vLLM, Infinity and LocalAI take `documents`, TEI takes `texts`; the replies differ in
the name of the list and of the score. What comes back is read by its shape. The scores are what the
provider makes of its raw ones, so nothing is made of them here.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from config import ModelSpec
from embedders.base import Encoded, Gone, Input, Item, Pair, Prompt, Truncate, Vectors
from embedders.pairs import no_single_text
from embedders.providers import Providers
from embedders.remote import Part, Payload, RemoteEmbedder, Send, refuse_over
from embedders.retry import ProviderRefused
from errors import BadRequest, ProviderError


class RemoteReranker(RemoteEmbedder):
    """`POST {base}/rerank`, of one query and its documents."""

    provider = "reranker"
    home = ""  # it has no address of its own
    max_texts = 1000  # Cohere's limit; others have none or the same
    cuts: Collection[Truncate] = ("auto", "right", "error")
    _form: str | None = None  # which of the two it takes, once that is known

    def __init__(self, spec: ModelSpec, providers: Providers) -> None:
        super().__init__(spec, providers)
        self.facts = replace(self.facts, dimension=0, outputs=("score",), labels=("score",))

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Raise BadRequest, as a reranker reads pairs."""
        raise no_single_text()

    def prepare_pairs(
        self, pairs: Sequence[Pair], prompt: Prompt, truncate: Truncate
    ) -> list[Item]:
        """Return the documents, each with its query, with estimated token counts.

        Raises BadRequest for "left", which no provider has for documents, and as `check_cut`.
        """
        self.check_cut(truncate)
        items = []
        for query, document in pairs:
            asked = prompt.text + query
            refuse_over(prompt.limit, asked + document)
            refuse_over(prompt.document_limit, document)
            tokens = max(1, len(asked.encode()) // 4 + len(document.encode()) // 4)
            items.append(Item(document, tokens, variant=f"{truncate} {asked}"))
        return items

    def trial(self, text: str = "ok") -> list[Item]:
        """Return one short pair, ready to be scored."""
        return self.prepare_pairs([Pair("ok", text)], Prompt(), "right")

    def encode(
        self, items: Sequence[Item], deadline: float | None = None, gone: Gone | None = None
    ) -> Encoded:
        """Return the scores (n, 1) of all pairs. Documents of one query go out together."""
        order = sorted(range(len(items)), key=lambda row: items[row].variant)
        found = super().encode([items[row] for row in order], deadline, gone)
        scores = np.empty((len(items), 1), np.float32)
        tokens = [0] * len(items)
        for row, vector, cost in zip(order, found.vectors, found.tokens, strict=True):
            scores[row], tokens[row] = vector, cost
        return Encoded({"score": scores}, tokens)

    def ask(self, send: Send, inputs: list[Payload], variant: str) -> Part:
        """Ask for the scores of one query's documents.

        A server that refuses `documents` is asked as TEI is. What succeeds first is its form. That
        nothing is cut can be asked for in TEI's form alone.
        """
        truncate, _, query = variant.partition(" ")
        known = "texts" if truncate == "error" else self._form
        forms: dict[str, dict[str, Any]] = {
            "documents": {"model": self.spec.model_name, "query": query, "documents": inputs,
                          "return_documents": False},
            "texts": {"model": self.spec.model_name, "query": query, "texts": inputs,
                      "raw_scores": False, "truncate": truncate != "error"},
        }  # fmt: skip
        first: BadRequest | ProviderRefused | None = None
        for form, body in forms.items():
            if known not in (None, form):
                continue
            try:
                part = self._scores(send, body, len(inputs))
            except (BadRequest, ProviderRefused) as exc:
                first = first or exc
            else:
                self._form = form
                return part
        assert first is not None
        if truncate == "error" and self._form != "texts" and isinstance(first, BadRequest):
            raise BadRequest(
                f"truncate: {self._name} refused these: one is too long, or it cannot be asked not "
                "to cut; send right",
                param="truncate",
            )
        raise first from None  # it wants neither form, and the first refusal says why

    def _scores(self, send: Send, body: dict[str, Any], count: int, path: str = "rerank") -> Part:
        url = self.base if self.base.endswith("/rerank") else f"{self.base}/{path}"
        reply, _ = send(url, self.authorization(), body)
        return part_of(reply, count)

    def _check(self, vectors: Vectors, count: int) -> None:
        """Raise ProviderError unless there is one finite score a document."""
        if vectors.shape != (count, 1) or not np.isfinite(vectors).all():
            raise ProviderError(
                f"{self._name} answered without a finite score for each of {count} documents",
                permanent=True,
            )


class CohereReranker(RemoteReranker):
    """`POST {base}/v2/rerank`, or v1 on a server without v2."""

    provider = "cohere"
    home = "https://api.cohere.com"
    cuts = ("auto", "right")
    _path = "v2/rerank"

    def ask(self, send: Send, inputs: list[Payload], variant: str) -> Part:
        """Ask v2. A server that does not have it is asked v1 from then on."""
        query = variant.partition(" ")[2]
        body = {"model": self.spec.model_name, "query": query, "documents": inputs}
        try:
            return self._scores(send, body, len(inputs), self._path)
        except ProviderRefused as exc:
            if exc.http not in (404, 405) or self._path == "v1/rerank":
                raise
        part = self._scores(send, body, len(inputs), "v1/rerank")
        self._path = "v1/rerank"
        return part


def part_of(reply: Any, count: int) -> Part:
    """Return the scores of a reply in the documents' order, (count, 1), and the tokens it names.

    A document without a score is NaN. Raises KeyError, TypeError or IndexError for other forms.
    """
    outer = reply if isinstance(reply, dict) else {}
    rows = reply if isinstance(reply, list) else outer["results" if "results" in outer else "data"]
    scores = np.full((count, 1), np.nan, np.float32)
    for row in rows:
        index = row["index"]
        if not 0 <= index < count:
            raise IndexError(index)
        scores[index] = row["relevance_score"] if "relevance_score" in row else row["score"]
    return Part(scores, (outer.get("usage") or {}).get("total_tokens"))
