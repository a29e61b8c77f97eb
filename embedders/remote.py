"""What every remote model shares: splitting, sending, retrying, checking, counting.

An adapter is one file with one class and one method, `ask`: the inputs of one part go out in the
provider's own form, `Part` comes back. All else is here: requests are split to the provider's
limits, parts go out together up to a cap (each over its host's `Link`, which tries again), inside
one total deadline, and what comes back is believed only after it was checked. Neither keys nor
texts nor a provider's words ever reach a log or an error.
"""

import contextlib
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np
import orjson

from config import ModelSpec
from embedders.base import Embedder, Encoded, Facts, Input, Item, Prompt, Truncate, Vectors
from embedders.http_client import Answer
from embedders.providers import Providers, missing_key
from embedders.replies import raise_for_status
from embedders.retry import RETRIES
from errors import BadRequest, ModelUnavailable, ProviderError, ProviderTimeout, ServiceError

Payload = Sequence[int] | str
TRIAL_S = 15.0
REFUSED_S = 60.0  # from one try of a key that was refused to the next, if nobody makes one
Send = Callable[..., tuple[Any, Mapping[str, str]]]


@dataclass(frozen=True)
class Part:
    """A provider's reply to one part: rows in order, and the tokens it says it read."""

    rows: Any
    tokens: int | None = None


class RemoteEmbedder(Embedder):
    """A model behind a provider's API."""

    batched = False
    provider: ClassVar[str]
    home: ClassVar[str]  # the provider's own address
    max_texts: ClassVar[int]
    max_bytes: ClassVar[int | None] = None  # of one part; no token is shorter than a byte
    max_tokens: ClassVar[int | None] = None
    takes_ids: ClassVar[bool] = False
    prompts: ClassVar[Mapping[str, str]] = {}
    known_dimensions: ClassVar[Mapping[str, int]] = {}

    def __init__(self, spec: ModelSpec, providers: Providers) -> None:
        own = spec.base_url or (spec.base_urls[0] if spec.base_urls else None)
        self.spec = spec
        self.base = (own or self.home).rstrip("/")
        self._providers = providers
        providers.door.check(self.base)
        host = urlsplit(self.base).netloc
        # A key goes to the provider's own host, elsewhere only if the entry names whose it is.
        self.key_of = spec.provider or (None if own else self.provider)
        if spec.api_version and spec.provider is None:
            self.key_of = "azure"
        name = self.key_of or self.provider
        self._name = name
        self.link, self._pool = providers.enrol(name, host)
        alternatives = len(spec.base_urls) + len(spec.devices)
        self._retries = 0 if alternatives > 1 else RETRIES  # a replica is better than a retry
        space = spec.base_urls[0] if spec.base_urls else self.base
        known = None if own else self.known_dimensions.get(spec.model_name)
        self._learning = threading.Lock()
        self.facts = Facts(
            dimension=spec.dimensions or known or 0,
            max_tokens=spec.max_seq_length or self.max_tokens,
            device="remote",
            dtype="float32",
            backend=self.provider,
            fingerprint=fingerprint(spec, space),
            prompts={**self.prompts, **spec.prompts},
            default_prompt_name=spec.default_prompt_name,
        )

    # -- before ------------------------------------------------------------------------------------

    def obstacle(self) -> str | None:
        """Say that the key is missing, if one is needed."""
        if self.key_of is None:
            return None
        try:
            return None if self._providers.key(self.key_of) else missing_key(self.key_of)
        except ModelUnavailable as exc:
            return exc.message

    def trouble(self) -> str | None:
        """Say also that the key was refused. It is tried again unasked, which no provider charges:

        a service that counts as unwell gets no requests that would show it to be well again.
        """
        if reason := self.obstacle():
            return reason
        if not self.link.refused:
            return None
        if self.link.rested(REFUSED_S):
            with contextlib.suppress(RuntimeError):  # the threads are at their end, as we are
                self._pool.submit(self._try_again)
        return self.link.problem

    def _try_again(self) -> None:
        with contextlib.suppress(ServiceError):
            item = self._item(0, "ping", Prompt(), self.variant(Prompt(), "auto"))
            self._deliver([item], time.monotonic() + TRIAL_S, threading.Event())

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Keep the texts with what else decides their vectors: a cache may key by the payload."""
        variant = self.variant(prompt, truncate)
        return [self._item(i, given, prompt, variant) for i, given in enumerate(inputs)]

    def _item(self, index: int, given: Input, prompt: Prompt, variant: str) -> Item:
        if isinstance(given, str):
            text = prompt.text + given
            return Item(f"{variant}\n{text}", max(1, len(text.encode()) // 4))
        if not self.takes_ids or prompt.text:
            reason = "with a prompt" if self.takes_ids else f"by {self._name}"
            raise BadRequest(
                f"input {index}: token ids are not taken {reason}; send text", param="input"
            )
        if any(token < 0 or token >= 2**31 for token in given):
            raise BadRequest(f"input {index}: token ids must be in 0..{2**31 - 1}", param="input")
        return Item(tuple(given), max(1, len(given)))

    def variant(self, prompt: Prompt, truncate: Truncate) -> str:
        """Return what beside the text goes to the provider and changes its vector, on one line."""
        return ""

    # -- sending -----------------------------------------------------------------------------------

    def ask(self, send: Send, inputs: list[Payload], variant: str) -> Part:
        """Send one part in the provider's form. The adapter's own, the only thing it must have.

        `send(url, headers, body)` returns the parsed JSON and the reply's headers. What it raises
        is to be passed on; KeyError, TypeError, ValueError and IndexError say "malformed reply".
        """
        raise NotImplementedError

    def encode(self, items: Sequence[Item], deadline: float | None = None) -> Encoded:
        """Send out all items, in parts. Raises ProviderError and its kin, ModelUnavailable."""
        if not items:
            return Encoded(np.empty((0, self.facts.dimension), np.float32), [])
        if reason := self.obstacle():
            raise ModelUnavailable(reason)
        end = time.monotonic() + self._providers.config.provider_timeout_s
        end = end if deadline is None else min(end, deadline)
        parts = list(self._split(items))
        answers = self._gather(parts, end)
        vectors = np.concatenate([vectors for vectors, _ in answers])
        tokens: list[int] = []
        for part, (_, total) in zip(parts, answers, strict=True):
            tokens += spread(total, [item.tokens for item in part])
        return Encoded(vectors, tokens)

    def _split(self, items: Sequence[Item]) -> Iterator[list[Item]]:
        part: list[Item] = []
        limit = min(self.max_texts, self.spec.max_batch_size or self.max_texts)
        room = self.max_bytes
        size = 0
        for item in items:
            cost = self._cost(item)
            full = len(part) >= limit or (room is not None and size + cost > room)
            if part and (full or _variant(part[0]) != _variant(item)):
                yield part
                part, size = [], 0
            part.append(item)
            size += cost
        yield part

    def _cost(self, item: Item) -> int:
        payload = item.payload
        size = len(payload.encode()) if isinstance(payload, str) else len(payload)
        return min(size, self.max_tokens or size)

    def _gather(self, parts: list[list[Item]], end: float) -> list[tuple[Vectors, int]]:
        """Send the parts, several at once; the first failure ends all."""
        waiting = deque(enumerate(parts))
        running: dict[Future[tuple[Vectors, int]], int] = {}
        done: dict[int, tuple[Vectors, int]] = {}
        stop = threading.Event()
        try:
            while waiting or running:
                while waiting and len(running) < self._providers.config.provider_parallel:
                    index, part = waiting.popleft()
                    running[self._pool.submit(self._deliver, part, end, stop)] = index
                # a little more than the deadline: the thread that sends knows better what went on
                left = max(0.0, end - time.monotonic()) + 0.2
                ready, _ = wait(running, left, FIRST_COMPLETED)
                if not ready:
                    raise ProviderTimeout(f"{self._name} did not answer in time")
                for future in ready:
                    done[running.pop(future)] = future.result()
        finally:
            stop.set()
            for future in running:
                future.cancel()
        return [done[i] for i in range(len(parts))]

    def _deliver(self, part: list[Item], end: float, stop: threading.Event) -> tuple[Vectors, int]:
        return self.link.call(lambda: self._checked(part, end), self._retries, end, stop)

    def _checked(self, part: list[Item], end: float) -> tuple[Vectors, int]:
        def send(
            url: str, headers: Mapping[str, str], body: Mapping[str, Any]
        ) -> tuple[Any, Mapping[str, str]]:
            whole = {"Content-Type": "application/json", "Accept": "application/json", **headers}
            answer = self._providers.door.post(url, whole, orjson.dumps(body), end)
            return self._parsed(answer), answer.headers

        inputs: list[Payload] = [_bare(item) for item in part]
        try:
            with np.errstate(over="ignore"):  # what overflows is seen by the check
                reply = self.ask(send, inputs, _variant(part[0]))
                vectors = np.asarray(reply.rows, np.float32)
            tokens = reply.tokens
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError):
            raise ProviderError(
                f"{self._name} answered in a form that is not its own", permanent=True
            ) from None
        self._check(vectors, len(part))
        if not isinstance(tokens, int) or tokens < 0:
            tokens = sum(item.tokens for item in part)  # it does not say: an estimate
        return np.ascontiguousarray(vectors), tokens

    def _parsed(self, answer: Answer) -> Any:
        raise_for_status(self._name, answer, keyed=self.key_of is not None)
        try:
            return orjson.loads(answer.body)
        except ValueError:
            raise ProviderError(
                f"{self._name} answered 200 with something that is not JSON", permanent=True
            ) from None

    def _check(self, vectors: Vectors, count: int) -> None:
        """Refuse what is not one finite vector a text, each as long as ever."""
        problem = None
        if vectors.ndim != 2 or len(vectors) != count or not vectors.shape[1]:
            problem = f"with the shape {vectors.shape} to {count} texts"
        elif not np.isfinite(vectors).all():
            problem = "with numbers that are not finite"
        else:
            with self._learning:
                if not self.facts.dimension:
                    self.facts = replace(self.facts, dimension=int(vectors.shape[1]))
            if vectors.shape[1] != self.facts.dimension:
                problem = f"with {vectors.shape[1]} dimensions in place of {self.facts.dimension}"
        if problem:
            raise ProviderError(f"{self._name} answered {problem}", permanent=True)

    def authorization(self) -> dict[str, str]:
        """Return the header that carries the key, if this model sends one."""
        key = self._providers.key(self.key_of) if self.key_of else None
        return {"Authorization": f"Bearer {key}"} if key else {}


def fingerprint(spec: ModelSpec, url: str) -> str:
    """Name the embedding space: vectors of equal fingerprints can be compared.

    The whole address counts, as one host may serve many models under one name: a gateway's teams,
    an Azure resource's deployments.
    """
    parts = urlsplit(url)
    place = parts.netloc + parts.path.rstrip("/")
    identity = (spec.type, spec.model_name, place, spec.api_version or "", str(spec.dimensions))
    return hashlib.sha256("\n".join(identity).encode()).hexdigest()[:16]


def spread(total: int, weights: Sequence[int]) -> list[int]:
    """Share `total` out by weight so that the sum is exact."""
    whole = sum(weights)
    marks = [0]
    for weight in weights:
        marks.append(marks[-1] + weight)
    cuts = [total * mark // whole for mark in marks]
    return [high - low for low, high in zip(cuts, cuts[1:], strict=False)]


def _variant(item: Item) -> str:
    return item.payload.partition("\n")[0] if isinstance(item.payload, str) else ""


def _bare(item: Item) -> Payload:
    return item.payload.partition("\n")[2] if isinstance(item.payload, str) else list(item.payload)
