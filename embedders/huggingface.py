"""Hugging Face: feature extraction at its router, or a dedicated endpoint by its URL."""

from typing import Any

from embedders.base import Prompt, Truncate
from embedders.remote import Part, Payload, RemoteEmbedder, Send
from errors import ProviderError

ROUTER = "https://router.huggingface.co"


class HuggingFaceEmbedder(RemoteEmbedder):
    """`POST` to the model's pipeline at the router, or to exactly the `base_url`."""

    provider = "huggingface"
    home = ROUTER
    max_texts = 32  # the default limit of its servers

    def variant(self, prompt: Prompt, truncate: Truncate) -> str:
        """Return which side is cut."""
        return truncate

    def ask(self, send: Send, inputs: list[Payload], variant: str) -> Part:
        """Ask for pooled vectors. A vector for each token is refused: its pooling is not known."""
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
        if isinstance(reply[0][0], list):
            if any(len(text) != 1 for text in reply):
                raise ProviderError(
                    "huggingface answered with a vector for each token: this model is not pooled "
                    "there; use one that is (sentence-transformers models are) or serve it locally",
                    permanent=True,
                )
            reply = [text[0] for text in reply]
        tokens = headers.get("x-compute-tokens", "")
        return Part(reply, int(tokens) if tokens.isdigit() else None)
