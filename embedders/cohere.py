"""Cohere's embed API: v2, or v1 on a server without v2."""

from typing import Any

from embedders.base import Prompt, Truncate
from embedders.remote import Part, Payload, RemoteEmbedder, Send
from embedders.retry import ProviderRefused

# Cohere's name of each role.
INPUT_TYPES = {
    "query": "search_query", "search_query": "search_query",
    "document": "search_document", "search_document": "search_document",
    "classification": "classification", "clustering": "clustering",
}  # fmt: skip
ENDS = {"auto": "END", "right": "END", "left": "START", "error": "NONE"}


class CohereEmbedder(RemoteEmbedder):
    """`POST {base}/v2/embed`, with the role as `input_type`."""

    provider = "cohere"
    home = "https://api.cohere.com"
    max_texts = 96
    prompts = dict.fromkeys(INPUT_TYPES, "")
    known_dimensions = {
        "embed-english-v3.0": 1024, "embed-english-light-v3.0": 384, "embed-v4.0": 1536,
        "embed-multilingual-v3.0": 1024, "embed-multilingual-light-v3.0": 384,
    }  # fmt: skip
    _path = "v2/embed"

    def variant(self, prompt: Prompt, truncate: Truncate) -> str:
        """Return the role and the side that is cut. Both change the vector."""
        return f"{INPUT_TYPES.get(prompt.name or '', 'search_document')} {ENDS[truncate]}"

    def ask(self, send: Send, inputs: list[Payload], variant: str) -> Part:
        """Ask v2. A server that does not have it is asked v1 from then on."""
        role, end = variant.split(" ")
        body: dict[str, Any] = {"model": self.spec.model_name, "texts": inputs}
        body |= {"input_type": role, "truncate": end, "embedding_types": ["float"]}
        newer = dict(body)
        if self.spec.dimensions and self.spec.model_name.startswith("embed-v4"):
            newer["output_dimension"] = self.spec.dimensions
        if self._path == "v2/embed":
            try:
                reply, _ = send(f"{self.base}/v2/embed", self.authorization(), newer)
                return _part(reply)
            except ProviderRefused as exc:
                if exc.http not in (404, 405):
                    raise
        reply, _ = send(f"{self.base}/v1/embed", self.authorization(), body)
        part = _part(reply)
        self._path = "v1/embed"
        return part


def _part(reply: Any) -> Part:
    found = reply["embeddings"]
    units = (reply.get("meta") or {}).get("billed_units") or {}
    tokens = units.get("input_tokens")
    rows = found["float"] if isinstance(found, dict) else found
    return Part(rows, int(tokens) if isinstance(tokens, int | float) else None)
