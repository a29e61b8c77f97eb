"""The roles of a text that clients name, and the sides of a retrieval that they mean."""

from collections.abc import Mapping, Sequence
from typing import Literal

Side = Literal["query", "document"]
# The names that models and other services (Cohere, Jina, NVIDIA, Gemini, E5, Nomic) have for the
# two sides of a retrieval. A side takes the first of the model's prompts here that has a text.
SIDES: Mapping[Side, Sequence[str]] = {
    "query": ("query", "search_query", "retrieval.query", "retrieval_query", "retrieval-query"),
    "document": (
        "document", "passage", "corpus", "search_document", "retrieval.passage",
        "retrieval.document", "retrieval_document", "retrieval-document",
    ),
}  # fmt: skip
# Other roles that clients name. A model without a prompt for one reads the text as it is.
USES = (
    "classification", "clustering", "separation", "text-matching", "image", "code.query",
    "code.passage", "semantic_similarity",
)  # fmt: skip


def side_of(role: str | None) -> Side | None:
    """Return the side of a retrieval that a role or a prompt's name means, or None."""
    word = (role or "").lower()
    return next((side for side, words in SIDES.items() if word in words), None)
