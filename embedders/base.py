"""What every embedder is: inputs prepared in the caller's thread, then encoded in a batch.

Owns the two currencies that pass between the rooms: `Item` (one prepared input) and `Encoded`
(vectors with the tokens they cost). Knows nothing of models in particular, of HTTP or of batching.
A new embedder is one file with one class; it passes `tests/contracts.py` unchanged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from errors import BadRequest

Vectors = NDArray[np.float32]  # (n, d), C-contiguous
Input = str | Sequence[int]  # a text, or its token ids in the model's own vocabulary
Truncate = Literal["right", "left", "error"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """An instruction put before every text; `name` is how it was chosen, if by name."""

    text: str = ""
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One input, ready to be encoded.

    `payload` is the embedder's own: token ids for a local model, the text for a remote one.
    `tokens` is what it costs; `truncated` says that something of the input was cut off; the first
    `skip` tokens (a prompt's) are read by the model but left out of the pooled vector.
    """

    payload: Sequence[int] | str
    tokens: int
    truncated: bool = False
    skip: int = 0


@dataclass(frozen=True, slots=True)
class Encoded:
    """Vectors (n, d) float32, not yet normalised or shortened, and the tokens of each input."""

    vectors: Vectors
    tokens: Sequence[int]


@dataclass(frozen=True)
class Facts:
    """What is known of a loaded model, for `/models`, for limits and for cache keys.

    A remote model's `dimension` is 0 until its first reply, unless its entry or its name tells.
    """

    dimension: int
    max_tokens: int | None
    device: str
    dtype: str
    fingerprint: str
    backend: str = "torch"
    revision: str | None = None
    pooling: str | None = None
    vocabulary: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None


# What clients of other services call the two sides of a retrieval (Cohere, Jina, E5).
ROLES = {
    "search_query": "query",
    "search_document": "document",
    "retrieval.query": "query",
    "retrieval.passage": "document",
    "passage": "document",
}


class OutOfMemory(Exception):
    """A pass was too large for the device; a smaller one may fit."""


class DeviceBroken(Exception):
    """The device failed in a way that every later call of this process will meet too."""


class Embedder:
    """Turns prepared inputs into vectors. Safe to call from many threads at once."""

    # A batched embedder encodes several callers' inputs in one pass; others go out per request.
    batched: ClassVar[bool] = True
    # Whether inputs of one pass are padded to the longest, so that like lengths belong together.
    pads: bool = True
    # Tokens of one pass that suit it best, padding included; None leaves it to the device's kind.
    pass_tokens: int | None = None
    # Whether a prompt's tokens are read but left out of the pooled vector (`Item.skip`).
    skips_prompts: bool = False
    facts: Facts

    def stand_in_for(self, own: "Embedder") -> None:
        """Become a further copy of `own`, the first replica. Most need nothing for that."""

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Make each input ready to encode, in order.

        Raises InputTooLong when `truncate` is "error" and an input exceeds the limit, BadRequest
        for token ids that the model does not have; both name the input's index.
        """
        raise NotImplementedError

    def encode(self, items: Sequence[Item], deadline: float | None = None) -> Encoded:
        """Encode prepared inputs, in order. `deadline` is a `time.monotonic()` value."""
        raise NotImplementedError

    def obstacle(self) -> str | None:
        """Say why nothing can be encoded just now although all is loaded (a key is missing)."""
        return None

    def encode_exactly(self, items: Sequence[Item]) -> Encoded:
        """Encode once more at the highest precision, after rows came out that are not finite."""
        return self.encode(items)

    def close(self) -> None:
        """Give back what the embedder holds (memory, sessions). Called once, when it is idle."""

    def prompt(self, name: str | None, text: str | None) -> Prompt:
        """Choose a prompt by name (or role, as other services call it) or by its own text.

        Raises BadRequest with the known names for one that is not known.
        """
        if text is not None:
            return Prompt(text)
        known = self.facts.prompts
        if name is None:
            name = self.facts.default_prompt_name
            return Prompt(known[name], name) if name else Prompt()
        for candidate in (name, ROLES.get(name, name)):
            if candidate in known:
                return Prompt(known[candidate], candidate)
        names = ", ".join(sorted(known)) or "none"
        raise BadRequest(
            f"unknown prompt {name[:64]!r}; this model knows: {names}", param="prompt_name"
        )
