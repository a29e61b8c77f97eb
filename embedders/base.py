"""The interface of every embedder: `prepare` in the caller's thread, then `encode` in a batch.

`Item` is one prepared input, `Encoded` the results of several with the tokens they cost. A new
embedder is one file with one class; it passes `tests/contracts.py` unchanged.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from config.models import ProviderState
from config.serving import Lane
from embedders.roles import SIDES, USES, side_of
from errors import BadRequest

Vectors = NDArray[np.float32]  # (n, d), C-contiguous


class Pair(NamedTuple):
    """A query and a document, which a reranker reads together."""

    query: str
    document: str


class Sparse(NamedTuple):
    """The weights of a text's terms: `indices` (k,) int32 ascending, `values` (k,) float32."""

    indices: NDArray[np.int32]
    values: NDArray[np.float32]


class Token(NamedTuple):
    """A token of a text: its id, and the characters of the text that it is of.

    `text` is what it stands for there, or its own name if it is a special one that was added, which
    has no place. Both places are in the prompt and the text together, of a pair in its own text.
    """

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


Input = str | Sequence[int]  # a text, or its token ids in the model's own vocabulary
# What a model gives for an input: a vector (d,) float32, `Sparse`, the vectors of its tokens
# (t, d) float32, a reranker's or classifier's raw scores (labels,) float32, the states of a dense
# model's tokens before they are pooled (t, d) float32, or vectors of the chunks of a document
# (c, d) float32. The last two are of no model's `outputs`: see `Facts`.
Output = Literal["dense", "sparse", "multi_vector", "score", "tokens", "chunks"]
# What a model is; all but "classifier" can be configured as a model's type.
Kind = Literal["sentence_transformer", "reranker", "classifier", "sparse", "multi_vector"]
# What a model's scores are made of its raw ones by: 1 / (1 + e^-x), or e^x / sum of e^x.
Activation = Literal["identity", "sigmoid", "softmax"]
Value = Vectors | Sparse
Row = Mapping[Output, Value]  # all that one input was asked for
Column = Vectors | Sequence[Value | None]
DENSE: tuple[Output, ...] = ("dense",)
Gone = Callable[[], bool]  # whether the caller has hung up
# What happens to an input over the limit: "auto" cuts the side that the model's tokenizer cuts.
Truncate = Literal["auto", "right", "left", "error"]
# The two sides of a retrieval, as sentence-transformers calls them.
Task = Literal["query", "document"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """An instruction that goes before every text.

    `name` is the name it was chosen by, if any. `task` is the side of a retrieval that the texts
    are on: some models choose a length limit or a network by it. `limit` is the most tokens of an
    input, special ones included, and `document_limit` of a pair's document alone, where a request
    wants fewer than the model reads.
    """

    text: str = ""
    name: str | None = None
    task: Task | None = None
    limit: int | None = None
    document_limit: int | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One input, ready to be encoded.

    `payload` is what the embedder encodes: token ids for a local model, a text for a remote one.
    `tokens` is the cost, `truncated` whether a part of the input was cut off. The first `skip`
    tokens, a prompt's, are left out of the pooled vector. `prompt` and `side` (which side is cut)
    are set where the library itself prepares the text. `variant` is what else a provider is sent.
    `outputs` is what the caller wants of a model that gives several; `second` is where the second
    text of a pair begins, 0 for one text. `spans` has where the tokens of each chunk of a document
    begin and end. `lane` is that of its request, and changes no result.
    """

    payload: Sequence[int] | str
    tokens: int
    truncated: bool = False
    skip: int = 0
    prompt: Prompt = Prompt()
    side: Truncate = "auto"
    variant: str = ""
    outputs: tuple[Output, ...] = DENSE
    second: int = 0
    spans: tuple[tuple[int, int], ...] = ()
    lane: Lane = "interactive"


@dataclass(frozen=True, slots=True)
class Encoded:
    """The results of several inputs, and the tokens of each.

    `columns` has for each output one value an input, in order: `dense` (n, d) and `score`
    (n, labels) as one float32 array, neither normalised nor shortened, the others as lists, with
    None where an input was not asked for it.
    """

    columns: Mapping[Output, Column]
    tokens: Sequence[int]

    @classmethod
    def dense(cls, vectors: Vectors, tokens: Sequence[int]) -> "Encoded":
        """Return the vectors (n, d) float32 of a model that gives nothing else."""
        return cls({"dense": vectors}, tokens)

    @property
    def vectors(self) -> Vectors:
        """The dense vectors, (n, d) float32."""
        dense = self.columns["dense"]
        assert isinstance(dense, np.ndarray)
        return dense

    def row(self, index: int) -> dict[Output, Value]:
        """Return all values of one input; of an output that it was not asked for there is none."""
        values = ((output, column[index]) for output, column in self.columns.items())
        return {output: value for output, value in values if value is not None}


class Small(NamedTuple):
    """What runs passes of up to so many tokens, where it is not what runs all others."""

    most_tokens: int
    backend: str
    cores: int


@dataclass(frozen=True)
class Facts:
    """Facts of a loaded model, for `/models`, for limits and for cache keys.

    A remote model's `dimension` is 0 until its first reply, unless its entry or name gives it.
    """

    dimension: int
    max_tokens: int | None
    device: str
    dtype: str
    fingerprint: str
    backend: str = "torch"
    # What runs small passes, the smallest first, where that is faster than the backend.
    small_passes: Sequence[Small] = ()
    outputs: tuple[Output, ...] = DENSE
    labels: tuple[str, ...] = ()  # the names of the scores, if the model gives scores
    activation: Activation = "identity"  # of the scores; `encode` returns them raw
    revision: str | None = None
    pooling: str | None = None
    vocabulary: int | None = None
    # Whether the model ends with a Normalize module; `encode` returns the vectors before it.
    normalizes: bool = False
    # How many numbers the state of a token has, if the model gives them; 0 if it does not.
    token_dimension: int = 0
    # Whether it gives the chunks of a document vectors, each the mean of the chunk's states.
    pools_chunks: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    notes: Sequence[str] = ()  # what the operator should know, one line each

    @property
    def kind(self) -> Kind:
        """What the model is."""
        if "score" in self.outputs:
            return "classifier" if len(self.labels) > 1 else "reranker"
        if self.outputs == ("sparse",):
            return "sparse"
        return "multi_vector" if self.outputs == ("multi_vector",) else "sentence_transformer"


class Preparer(Protocol):
    """What makes items of inputs without the model's weights, so that any process can do it."""

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """See `Embedder.prepare`."""

    def prepare_pairs(
        self, pairs: Sequence[Pair], prompt: Prompt, truncate: Truncate
    ) -> list[Item]:
        """See `Embedder.prepare_pairs`."""

    def prepare_chunks(
        self, documents: Sequence[Sequence[str]], prompt: Prompt, truncate: Truncate | None
    ) -> list[Item]:
        """See `Embedder.prepare_chunks`."""

    def tokenize(
        self, inputs: Sequence[str | Pair], prompt: Prompt, *, special: bool
    ) -> list[list[Token]]:
        """See `Embedder.tokenize`."""

    def detokenize(self, ids: Sequence[Sequence[int]], *, skip_special: bool) -> list[str]:
        """See `Embedder.detokenize`."""

    def recipe(self) -> dict[str, Any]:
        """Return JSON from which `embedders.tokens.preparer_of` makes an equal one."""


NO_CHUNKS = (
    "late chunking: it is not known here where in a text this model's tokens are; send the chunks "
    "without it"
)


def no_tokens() -> BadRequest:
    """Return the error of a model whose tokenizer cannot be asked."""
    return BadRequest("this model's tokens are not known here", param="model")


class OutOfMemory(Exception):
    """A pass was too large for the device's memory; a smaller one may fit."""


class DeviceBroken(Exception):
    """The device failed, and every later call of this process will fail too."""


class Embedder:
    """Turns prepared inputs into vectors. Safe to call from many threads at once."""

    # Whether one pass holds the inputs of several callers; else each request is encoded alone.
    batched: ClassVar[bool] = True
    # Whether the inputs of one pass are padded to the longest, so that like lengths go together.
    pads: bool = True
    # The best number of tokens for one pass, padding included; None: the default of the device.
    pass_tokens: int | None = None
    # The most inputs of one pass, unless the configuration gives another number.
    pass_items: int = 512
    # Whether an item's payload alone decides its vector, so that another service can encode it.
    portable: bool = True
    # Whether it gives nothing but dense vectors, whatever the model whose copy it is gives.
    dense_only: ClassVar[bool] = False
    # How many passes may be under way at once: a GPU computes one while the next is copied to it.
    in_flight: int = 1
    # What the weights take on their device, once whoever loaded the model has counted them.
    memory_bytes: int | None = None
    # What `prepare` does, where it needs no weights; None where the library itself prepares texts.
    preparer: Preparer | None = None
    facts: Facts

    def become_replica_of(self, primary: "Embedder") -> None:
        """Act as a replica of `primary`. Does nothing unless the embedder depends on it."""

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Return each input ready to encode, in order.

        Raises InputTooLong if `truncate` is "error" and an input exceeds the limit, BadRequest
        for token ids outside the vocabulary, both with the input's index.
        """
        raise NotImplementedError

    def prepare_pairs(
        self, pairs: Sequence[Pair], prompt: Prompt, truncate: Truncate
    ) -> list[Item]:
        """Return each pair ready to encode, in order, as `prepare` does. Only rerankers take them.

        What is cut of a pair that is too long is the document.
        """
        raise NotImplementedError

    def prepare_chunks(
        self, documents: Sequence[Sequence[str]], prompt: Prompt, truncate: Truncate | None
    ) -> list[Item]:
        """Return each document ready to encode, with its chunks' `spans`. Here the preparer does.

        Raises Invalid for a chunk without a token of its own, InputTooLong unless `truncate`
        lets the document be cut, both with the index of the chunk among those of all documents.
        """
        if self.preparer is None:
            raise BadRequest(NO_CHUNKS, param="model")
        return self.preparer.prepare_chunks(documents, prompt, truncate)

    def tokenize(
        self, inputs: Sequence[str | Pair], prompt: Prompt, *, special: bool
    ) -> list[list[Token]]:
        """Return the tokens of each whole input, with the `special` ones that the model adds.

        Here the preparer reads them. Raises BadRequest where the tokens are not known here.
        """
        if self.preparer is None:
            raise no_tokens()
        return self.preparer.tokenize(inputs, prompt, special=special)

    def detokenize(self, ids: Sequence[Sequence[int]], *, skip_special: bool) -> list[str]:
        """Return the text of each list of token ids. Raises BadRequest as `tokenize`."""
        if self.preparer is None:
            raise no_tokens()
        return self.preparer.detokenize(ids, skip_special=skip_special)

    def encode(
        self, items: Sequence[Item], deadline: float | None = None, gone: Gone | None = None
    ) -> Encoded:
        """Return what each prepared input asks for, in order. `deadline` is `time.monotonic()`."""
        raise NotImplementedError

    def launch(self, items: Sequence[Item]) -> Callable[[], Encoded]:
        """Begin to encode; return what waits for the results. Here they are there at once.

        Asked only where `in_flight` is more than 1.
        """
        encoded = self.encode(items)
        return lambda: encoded

    def trial(self, text: str = "ok") -> list[Item]:
        """Return one short input, ready to encode, by which a model is tried."""
        return self.prepare([text], Prompt(), "right")

    def terms(self, indices: Sequence[int]) -> list[str]:
        """Return the terms at these indices of a sparse vector, as the vocabulary writes them.

        Here the preparer reads it. Raises BadRequest where it cannot be read.
        """
        read: Callable[[Sequence[int]], list[str]] | None = getattr(self.preparer, "terms", None)
        if read is None:
            raise BadRequest(
                "sparse_format: this model's terms cannot be written; ask for their indices",
                param="sparse_format",
            )
        return read(indices)

    def encode_exactly(self, items: Sequence[Item]) -> Encoded:
        """Return the same at the highest precision, for rows that came out not finite."""
        return self.encode(items)

    def not_ready_reason(self) -> str | None:
        """Return why a loaded model cannot encode now, such as a missing key, or None."""
        return None

    def failing_reason(self) -> str | None:
        """Return why encoding will probably fail, although it may be tried, or None."""
        return self.not_ready_reason()

    def provider_state(self) -> tuple[str, ProviderState] | None:
        """Return the name of its provider and how that is; None for a model that runs here."""
        return None

    def close(self) -> None:
        """Free what the embedder holds (memory, connections). Called once, when it is idle."""

    def prompt(self, name: str | None, text: str | None, role: str | None = None) -> Prompt:
        """Return the prompt with this text, of exactly this name, or for this role.

        An exact name comes before one in another case; a role may have none. Without any of them
        it is the model's default. Raises BadRequest with the known names for an unknown one.
        """
        known, default = self.facts.prompts, self.facts.default_prompt_name
        # A late-interaction model marks either side; documents are the many.
        other: Task | None = "document" if self.facts.kind == "multi_vector" else None
        if text is not None:
            if (word := role or name) and not side_of(word):
                raise BadRequest(f"prompt and {word[:64]!r} contradict each other", param="prompt")
            return Prompt(text, None, side_of(role or name) or other)
        if name is not None and name in known:
            return Prompt(known[name], name, side_of(name) or other)
        wanted = name if name is not None else role
        if wanted is None and default is None:
            wanted = other
        named = side_of(wanted)
        side = named or other
        if wanted is not None:
            own = {each.lower(): each for each in known} | {each: each for each in known}
            words = (wanted, wanted.lower(), *(SIDES[side] if side else ()))
            found = [own[word] for word in words if word in own]
            if found:
                chosen = next((word for word in found if known[word]), found[0])
                return Prompt(known[chosen], chosen, side)
            if not named and wanted.lower() not in USES:
                names = ", ".join(sorted(known)) or "none"
                raise BadRequest(
                    f"unknown prompt {wanted[:64]!r}; this model knows: {names}",
                    param="input_type" if name is None else "prompt_name",
                )
            return Prompt("", None, side)
        return Prompt(known[default] if default else "", default or None, side)
