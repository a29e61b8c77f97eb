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
# What happens to an input over the limit: "auto" cuts the end that the model's tokenizer cuts.
Truncate = Literal["auto", "right", "left", "error"]
# The two sides of a retrieval, as sentence-transformers calls them.
Task = Literal["query", "document"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """An instruction put before every text.

    `name` is how it was chosen, if by name. `task` is the side of a retrieval that the texts are
    on: some models choose a length or a network of their own by it.
    """

    text: str = ""
    name: str | None = None
    task: Task | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One input, ready to be encoded.

    `payload` is the embedder's own: token ids for a local model, the text for a remote one.
    `tokens` is what it costs; `truncated` says that something of the input was cut off; the first
    `skip` tokens (a prompt's) are read by the model but left out of the pooled vector. `prompt` and
    `side` (which end was cut) are set where the payload is a text that the library itself prepares.
    """

    payload: Sequence[int] | str
    tokens: int
    truncated: bool = False
    skip: int = 0
    prompt: Prompt = Prompt()
    side: Truncate = "auto"


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
    # Whether the model ends with a Normalize: `encode` gives the vectors before it.
    normalizes: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    notes: Sequence[str] = ()  # what its operator should know, a line each


# What models and clients of other services (Cohere, Jina, NVIDIA, Gemini, E5, Nomic) call the two
# sides of a retrieval. Of a model's prompts the first with a text is the side's.
SIDES: Mapping[Task, Sequence[str]] = {
    "query": ("query", "search_query", "retrieval.query", "retrieval_query", "retrieval-query"),
    "document": (
        "document", "passage", "corpus", "search_document", "retrieval.passage",
        "retrieval.document", "retrieval_document", "retrieval-document",
    ),
}  # fmt: skip
# Other uses that clients name. A model without a prompt for one reads the text as it is.
USES = (
    "classification", "clustering", "separation", "text-matching", "image", "code.query",
    "code.passage", "semantic_similarity",
)  # fmt: skip


def side_of(role: str | None) -> Task | None:
    """Return the side of a retrieval that a role or a prompt's name is a word for."""
    word = (role or "").lower()
    return next((side for side, words in SIDES.items() if word in words), None)


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
    # Whether an item's payload alone decides its vector, so that another service can encode it.
    portable: bool = True
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

    def trouble(self) -> str | None:
        """Say why it is likely that nothing can be encoded, though it may be tried."""
        return self.obstacle()

    def encode_exactly(self, items: Sequence[Item]) -> Encoded:
        """Encode once more at the highest precision, after rows came out that are not finite."""
        return self.encode(items)

    def close(self) -> None:
        """Give back what the embedder holds (memory, sessions). Called once, when it is idle."""

    def prompt(self, name: str | None, text: str | None, role: str | None = None) -> Prompt:
        """Choose a prompt by its own text, by exact name, or by a role as other services call it.

        Without any of them it is the model's default. Raises BadRequest with the known names for
        one that is not known.
        """
        known = self.facts.prompts
        if text is not None:
            return Prompt(text, None, side_of(role or name))
        if name is not None and name in known:
            return Prompt(known[name], name, side_of(name))
        wanted = name if name is not None else role
        if wanted is not None:
            return self._of_role(wanted, param="input_type" if name is None else "prompt_name")
        name = self.facts.default_prompt_name
        return Prompt(known[name], name) if name else Prompt()

    def _of_role(self, role: str, param: str) -> Prompt:
        known, side = self.facts.prompts, side_of(role)
        words = (role, role.lower(), *SIDES.get(side, ())) if side else (role, role.lower())
        there = [word for word in words if word in known]
        if there:
            chosen = next((word for word in there if known[word]), there[0])
            return Prompt(known[chosen], chosen, side)
        if side or role.lower() in USES:
            name = self.facts.default_prompt_name
            return Prompt(known[name] if name else "", name, side)
        names = ", ".join(sorted(known)) or "none"
        raise BadRequest(f"unknown prompt {role[:64]!r}; this model knows: {names}", param=param)
