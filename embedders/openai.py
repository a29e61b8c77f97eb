"""OpenAI's embeddings API: OpenAI, Azure, and every server with the same API, this one included."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from config import ModelSpec
from embedders.base import Vectors
from embedders.providers import Providers
from embedders.remote import Part, Payload, RemoteEmbedder, Send


class OpenAIEmbedder(RemoteEmbedder):
    """`POST {base}/embeddings`; with `api_version`, a deployment at Azure."""

    provider = "openai"
    home = "https://api.openai.com/v1"
    max_texts = 2048
    max_bytes = 300_000
    max_tokens = 8192
    takes_ids = True
    known_dimensions = {
        "text-embedding-3-small": 1536,
        "text-embedding-3-large": 3072,
        "text-embedding-ada-002": 1536,
    }

    def __init__(self, spec: ModelSpec, providers: Providers) -> None:
        super().__init__(spec, providers)
        if self.base != self.home and not spec.api_version:
            # OpenAI and Azure refuse what is too long; what another server does is not known.
            self.cuts = ("auto", "right")

    def ask(self, send: Send, inputs: list[Payload], variant: str) -> Part:
        """Ask for base64, a third of the bytes of JSON. A reply with floats is read too."""
        url, headers = f"{self.base}/embeddings", self.authorization()
        if self.spec.api_version:
            url += f"?api-version={self.spec.api_version}"
            if "Authorization" in headers:
                headers = {"api-key": headers["Authorization"].removeprefix("Bearer ")}
        reply, reply_headers = send(url, headers, self.body(inputs))
        self.check_headers(reply_headers)
        data = sorted(reply["data"], key=lambda row: row["index"])
        if [row["index"] for row in data] != list(range(len(inputs))):
            raise ValueError("not one row for each input")
        usage = reply.get("usage") or {}
        return Part([_row(row["embedding"]) for row in data], usage.get("prompt_tokens"))

    def body(self, inputs: list[Payload]) -> dict[str, Any]:
        """Return the JSON body of a request."""
        body: dict[str, Any] = {"model": self.spec.model_name, "input": inputs}
        body["encoding_format"] = "base64"
        if self.spec.dimensions:
            body["dimensions"] = self.spec.dimensions
        return body

    def check_headers(self, headers: Mapping[str, str]) -> None:
        """Raise ProviderError if the headers name another embedding space. OpenAI names none."""


def _row(value: Any) -> Vectors:
    if isinstance(value, str):
        return np.frombuffer(base64.b64decode(value, validate=True), "<f4")
    return np.asarray(value, np.float32)
