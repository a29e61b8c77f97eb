"""Another copy of this service as a replica of a local model: the same weights on another machine.

What the local model would encode, token ids or a text, is sent as it is. Each reply must carry the
local model's fingerprint, else it is refused: a list never mixes vectors of two spaces.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from config import ModelSpec
from embedders.base import Embedder, Encoded, Gone, Input, Item, Prompt, Truncate
from embedders.openai import OpenAIEmbedder
from embedders.providers import Providers
from embedders.remote import Headers, Part, Payload, Send
from errors import BadRequest, ProviderError

FINGERPRINT = "X-Embedding-Fingerprint"


class RemoteReplica(OpenAIEmbedder):
    """A local model's copy behind another service's `/v1`. Needs `become_replica_of` first."""

    provider = "replica"
    dense_only = True

    def __init__(self, spec: ModelSpec, providers: Providers) -> None:
        super().__init__(spec, providers)
        self._primary: Embedder | None = None

    def become_replica_of(self, primary: Embedder) -> None:
        """Take over the prepared inputs and the embedding space of the local model."""
        self._primary = primary
        self.facts = replace(primary.facts, device="remote")

    def not_ready_reason(self) -> str | None:
        """Return that a key is missing, or that token ids alone do not decide a vector."""
        if self._primary is not None and not self._primary.portable:
            return "the local model reads more than token ids, and no more can be sent"
        return super().not_ready_reason()

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Prepare as the local model does."""
        assert self._primary is not None, "become_replica_of was not called"
        return self._primary.prepare(inputs, prompt, truncate)

    def encode(
        self, items: Sequence[Item], deadline: float | None = None, gone: Gone | None = None
    ) -> Encoded:
        """Return the vectors that the copy made. Raises ProviderError, ModelUnavailable."""
        try:
            sent = [replace(item, variant=item.lane) for item in items]
            return super().encode(sent, deadline, gone)
        except BadRequest as exc:  # the local model takes these inputs, so the copy is at fault
            raise ProviderError(exc.message, permanent=True) from None

    def ask(self, send: Send, inputs: list[Payload], variant: str) -> Part:
        """Ask in the lane of the request, which is the `variant` here."""

        def in_lane(url: str, headers: Headers, body: Mapping[str, Any]) -> tuple[Any, Headers]:
            return send(url, {**headers, "X-Priority": variant} if variant else headers, body)

        return super().ask(in_lane, inputs, variant)

    def body(self, inputs: list[Payload]) -> dict[str, Any]:
        """Return a body that asks for vectors before Normalize, without the copy's own prompt."""
        body = {"model": self.spec.model_name, "input": inputs, "encoding_format": "base64"}
        return {**body, "normalize": False, "prompt": ""}

    def check_headers(self, headers: Mapping[str, str]) -> None:
        """Raise ProviderError for a reply of another embedding space."""
        theirs = headers.get(FINGERPRINT, "")
        if theirs != self.facts.fingerprint:
            shown = theirs if theirs.isalnum() and len(theirs) <= 64 else "missing"
            raise ProviderError(
                f"its fingerprint is {shown}, ours {self.facts.fingerprint}: it does not serve the "
                "same model in the same way",
                permanent=True,
            )
