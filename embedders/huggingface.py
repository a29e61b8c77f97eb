"""Hugging Face: its router's feature extraction, or an endpoint of one's own by its URL."""

from typing import Any

import numpy as np

from embedders.base import Prompt, Truncate
from embedders.remote import Part, Payload, RemoteEmbedder, Send
from errors import ProviderError

ROUTER = "https://router.huggingface.co"


class HuggingFaceEmbedder(RemoteEmbedder):
    """`POST` to the model's pipeline at the router, or to exactly the `base_url`."""

    provider = "huggingface"
    home = ROUTER
    max_texts = 32  # what its servers take by default

    def variant(self, prompt: Prompt, truncate: Truncate) -> str:
        """The side that is cut."""
        return truncate

    def ask(self, send: Send, inputs: list[Payload], variant: str) -> Part:
        """Ask for pooled vectors. One vector a token is refused: how to pool it is not known."""
        url = self.base
        if url == ROUTER:
            pipeline = "pipeline/feature-extraction"
            url = f"{ROUTER}/hf-inference/models/{self.spec.model_name}/{pipeline}"
        body: dict[str, Any] = {"inputs": inputs, "truncate": variant != "error"}
        if variant == "left":
            body["truncation_direction"] = "Left"
        if self.spec.dimensions:
            body["dimensions"] = self.spec.dimensions
        reply, headers = send(url, self.authorization(), body)
        return Part(_pooled(reply), _tokens(headers.get("x-compute-tokens")))


def _pooled(reply: Any) -> Any:
    if isinstance(reply[0][0], list):
        if all(len(text) == 1 for text in reply):
            return np.asarray([text[0] for text in reply], np.float32)
        raise ProviderError(
            "huggingface answered with a vector a token: this model is not pooled there, so use "
            "one that is (sentence-transformers models are) or serve it locally",
            permanent=True,
        )
    return reply


def _tokens(header: str | None) -> int | None:
    return int(header) if header and header.isdigit() else None
