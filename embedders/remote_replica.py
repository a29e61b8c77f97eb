"""A second copy of this service as a replica of a local model: the same weights, another machine.

What our own copy would encode, token ids or a text, goes out as it is. Each reply must name the
fingerprint of our own copy, else it is not used: vectors of two spaces never stand in one list.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from config import ModelSpec
from embedders.base import Embedder, Encoded, Input, Item, Prompt, Truncate
from embedders.openai import OpenAIEmbedder
from embedders.providers import Providers
from embedders.remote import Payload
from errors import BadRequest, ProviderError

FINGERPRINT = "X-Embedding-Fingerprint"


class TwinEmbedder(OpenAIEmbedder):
    """A local model's copy behind another service's `/v1`. Of use once it stands in for ours."""

    provider = "replica"

    def __init__(self, spec: ModelSpec, providers: Providers) -> None:
        super().__init__(spec, providers)
        self._own: Embedder | None = None

    def stand_in_for(self, own: Embedder) -> None:
        """Become a replica of `own`: prepared inputs and the embedding space are its."""
        self._own = own
        self.facts = replace(own.facts, device="remote")

    def obstacle(self) -> str | None:
        """Say that a key is missing, or that token ids cannot tell all that is to be encoded."""
        if self._own is not None and not self._own.portable:
            return "its own copy reads more than token ids, which no other service can be told"
        return super().obstacle()

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Prepare as our own copy does."""
        assert self._own is not None, "stands in for nothing"
        return self._own.prepare(inputs, prompt, truncate)

    def encode(self, items: Sequence[Item], deadline: float | None = None) -> Encoded:
        """Have the items encoded there. Raises ProviderError and its kin, ModelUnavailable."""
        try:
            return super().encode([_framed(item) for item in items], deadline)
        except BadRequest as exc:  # our own copy takes them: it is the other that is at fault
            raise ProviderError(exc.message, permanent=True) from None

    def body(self, inputs: list[Payload]) -> dict[str, Any]:
        """Ask for vectors as the model makes them, with no prompt of that service's own."""
        body = {"model": self.spec.model_name, "input": inputs, "encoding_format": "base64"}
        return {**body, "normalize": False, "prompt": ""}

    def prove(self, headers: Mapping[str, str]) -> None:
        """Refuse a reply that is not of our own copy's space."""
        theirs = headers.get(FINGERPRINT, "")
        if theirs != self.facts.fingerprint:
            told = theirs if theirs.isalnum() and len(theirs) <= 64 else "not told"
            raise ProviderError(
                f"its fingerprint is {told}, ours {self.facts.fingerprint}: it does not serve the "
                "same model in the same way",
                permanent=True,
            )


def _framed(item: Item) -> Item:
    """Put a text behind the line on which remote models say how it is to be sent: an empty one."""
    return replace(item, payload=f"\n{item.payload}") if isinstance(item.payload, str) else item
