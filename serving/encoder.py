"""What requests encode on: an embedder, and what the service needs to know of it.

`Encoder` calls its embedder in the request's own thread, as remote models want it. `Batcher` and
`Replicas` are encoders that share passes and places.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from config import ModelSettings, ModelSpec
from embedders.base import Embedder, Encoded, Gone, Item
from observability import tracing


@dataclass(frozen=True)
class BatchHealth:
    """How the passes through a model go."""

    failing: bool = False  # the last pass gave no request a row
    broken: str | None = None  # why no pass can succeed any more
    busy_s: float = 0.0  # how long the pass under way has taken
    hung: bool = False
    away: str | None = None  # why none can be made for the moment, in another process
    unloaded: bool = False  # in another process: the next pass has the model loaded there

    @property
    def fatal(self) -> str | None:
        """Why only a new process can help, or None."""
        hung = f"a pass through the model has taken {self.busy_s:.0f} s so far"
        return self.broken or (hung if self.hung else None)


class Limits(NamedTuple):
    """What may change while a model serves; None is what suits the model."""

    max_items: int | None = None  # of a pass
    max_queue_tokens: int | None = None  # that wait in each lane
    promise_ms: float | None = None  # to interactive requests; None: nothing is promised

    @classmethod
    def of(cls, spec: ModelSpec, settings: ModelSettings) -> "Limits":
        """Return the limits of a configured model."""
        return cls(
            spec.max_batch_size or settings.max_batch_size,
            settings.max_queue_tokens,
            settings.interactive_p99_ms,
        )

    def put_into(self, spec: ModelSpec, settings: ModelSettings) -> tuple[ModelSpec, ModelSettings]:
        """Return an entry and settings that have these limits."""
        of_entry = {"max_batch_size": self.max_items}
        of_all = {
            "max_queue_tokens": self.max_queue_tokens, "interactive_p99_ms": self.promise_ms,
        }  # fmt: skip
        return spec.model_copy(update=of_entry), settings.model_copy(update=of_entry | of_all)


class Encoder:
    """Encodes on one embedder. Safe from many threads."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    def encode(
        self, items: Sequence[Item], deadline: float | None = None, gone: Gone | None = None
    ) -> Encoded:
        """Return what `items` ask for, in order.

        `deadline` is a `time.monotonic()` value; a waiting request whose caller is `gone` is
        dropped. Raises what the embedder raises.
        """
        with tracing.stage("encode"):
            return self.embedder.encode(items, deadline, gone)

    def failing_reason(self) -> str | None:
        """Return why encoding will probably fail, or None."""
        return self.embedder.failing_reason()

    def health(self) -> BatchHealth:
        """Return how its passes go."""
        return BatchHealth()

    def limit(self, limits: Limits) -> None:
        """Change the limits of a pass and of the queue."""

    def keep(self, keep_s: float) -> None:
        """Wish that a model in another process is unloaded after so long without a request."""

    def stop(self) -> None:
        """Refuse what waits and what comes: the process ends."""

    def close(self) -> None:
        """Free what the embedder holds."""
        self.embedder.close()

    def status(self) -> list[dict[str, object]] | None:
        """Return each replica's state as JSON, or None where there is one place."""
        return None

    @property
    def places(self) -> Sequence["Place"]:
        """Where it encodes: here one place."""
        return (Place(self),)


class Elsewhere(Embedder):
    """An embedder whose passes are formed where it runs, in another process."""

    batched: ClassVar[bool] = False

    def encoder(self, spec: ModelSpec, settings: ModelSettings) -> Encoder:
        """Return what requests encode on."""
        raise NotImplementedError


class Place(NamedTuple):
    """One place where a model runs: its encoder, and its name and state if it is a replica."""

    encoder: Encoder
    name: str = ""
    away: str | None = None  # why it gets no requests
