"""The common part of every remote model: splitting, sending, retrying, checking, counting.

An adapter is one file with one class and one method, `ask`: it sends the inputs of one part in the
provider's form and returns a `Part`. The rest is here: a request is split to the provider's limits,
its parts go out together up to a cap, within one total deadline, and every reply is checked before
it is used. No key, text or wording of a provider reaches a log or an error.
"""

import contextlib
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np
import orjson

from config import ModelSpec
from config.models import ProviderState
from embedders.base import (
    Embedder,
    Encoded,
    Facts,
    Gone,
    Input,
    Item,
    Prompt,
    Truncate,
    Vectors,
)
from embedders.providers import Providers, missing_key
from embedders.retry import RETRIES, raise_for_status
from errors import BadRequest, ModelUnavailable, ProviderError, ProviderTimeout, ServiceError

Payload = Sequence[int] | str
Headers = Mapping[str, str]
Send = Callable[[str, Headers, Mapping[str, Any]], tuple[Any, Headers]]
TRIAL_S = 15.0
REFUSED_S = 60.0  # until a refused key is tried again, if no request tries it sooner
FORMS = {"Content-Type": "application/json", "Accept": "application/json"}


@dataclass(frozen=True)
class Part:
    """A provider's reply to one part: one row an input, and the tokens it says it read."""

    rows: Any
    tokens: int | None = None


class RemoteEmbedder(Embedder):
    """A model behind a provider's API."""

    batched = False
    provider: ClassVar[str]
    home: ClassVar[str]  # the provider's own address
    max_texts: ClassVar[int]
    max_bytes: ClassVar[int | None] = None  # of one part; a token has at least one byte
    max_tokens: ClassVar[int | None] = None
    takes_ids: ClassVar[bool] = False
    # What it does, if asked, with an input over its limit: all of it where it refuses each.
    cuts: Collection[Truncate] = ("auto", "right", "left", "error")
    prompts: ClassVar[Mapping[str, str]] = {}
    known_dimensions: ClassVar[Mapping[str, int]] = {}

    def __init__(self, spec: ModelSpec, providers: Providers) -> None:
        own = spec.base_url or (spec.base_urls[0] if spec.base_urls else None)
        self.spec = spec
        self.base = (own or self.home).rstrip("/")
        self._providers = providers
        providers.client.check(self.base)
        # A key goes to the provider's own address; to another only if the entry names the provider.
        self.key_of = spec.provider or (None if own else self.provider)
        if spec.api_version and spec.provider is None:
            self.key_of = "azure"
        self._name = self.key_of or self.provider
        self.host, self._pool = providers.host(self._name, urlsplit(self.base).netloc)
        alternatives = len(spec.base_urls) + len(spec.devices)
        self._retries = 0 if alternatives > 1 else RETRIES  # another replica is tried instead
        space = spec.base_urls[0] if spec.base_urls else self.base
        known = None if own else self.known_dimensions.get(spec.model_name)
        self._learning = threading.Lock()
        self.facts = Facts(
            dimension=spec.dimensions or known or 0,
            max_tokens=spec.max_seq_length or self.max_tokens,
            device="remote", dtype="float32", backend=self.provider,
            fingerprint=fingerprint(spec, space),
            prompts={**self.prompts, **spec.prompts},
            default_prompt_name=spec.default_prompt_name,
        )  # fmt: skip

    def not_ready_reason(self) -> str | None:
        """Return how to set the key, if one is needed and missing."""
        if self.key_of is None:
            return None
        try:
            return None if self._providers.key(self.key_of) else missing_key(self.key_of)
        except ModelUnavailable as exc:
            return exc.message

    def failing_reason(self) -> str | None:
        """Return why the key is missing or was refused, or None.

        A refused key is tried again in the background: an unhealthy service may get no requests
        that would find it accepted. Providers do not charge for that.
        """
        if reason := self.not_ready_reason():
            return reason
        if self.host.refused is None:
            return None
        if self.host.idle_for(REFUSED_S):
            with contextlib.suppress(RuntimeError):  # the threads end together with the process
                self._pool.submit(self._try_again)
        return self.host.problem

    def provider_state(self) -> tuple[str, ProviderState]:
        """Return the provider's name, and how its host is for this model."""
        try:
            key = None if self.key_of is None else self._providers.key(self.key_of)
        except ModelUnavailable:  # it has characters that no key has
            return self._name, "key_wrong"
        return self._name, self.host.state if key or self.key_of is None else "no_key"

    def _try_again(self) -> None:
        with contextlib.suppress(ServiceError):
            items = self.trial("ping")
            self._deliver(items, time.monotonic() + TRIAL_S, threading.Event())

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        """Return the inputs as they are, with estimated token counts.

        Raises BadRequest for token ids that the provider does not take, and as `check_cut`.
        """
        self.check_cut(truncate)
        variant, items = self.variant(prompt, truncate), []
        for index, given in enumerate(inputs):
            refuse_over(prompt.limit, given, prompt.text)
            message = None
            if isinstance(given, str):
                text = prompt.text + given
                items.append(Item(text, max(1, len(text.encode()) // 4), variant=variant))
            elif not self.takes_ids or prompt.text:
                reason = "with a prompt" if self.takes_ids else f"by {self._name}"
                message = f"token ids are not taken {reason}; send text"
            elif any(token < 0 or token >= 2**31 for token in given):
                message = f"token ids must be in 0..{2**31 - 1}"
            else:
                items.append(Item(tuple(given), max(1, len(given)), variant=variant))
            if message:
                raise BadRequest(message, param="input", index=index)
        return items

    def check_cut(self, truncate: Truncate) -> None:
        """Raise BadRequest if the provider cannot be asked for this."""
        if truncate not in self.cuts:
            raise BadRequest(
                f"truncate: {self._name} cannot be asked for {truncate!r} here: send right",
                param="truncate",
            )

    def variant(self, prompt: Prompt, truncate: Truncate) -> str:
        """Return what else is sent with the texts of a part and changes their vectors."""
        return ""

    def ask(self, send: Send, inputs: list[Payload], variant: str) -> Part:
        """Send one part in the provider's form and return its reply. Each adapter has its own.

        `send(url, headers, body)` returns the parsed JSON and the reply's headers. Its errors pass
        through; KeyError, TypeError, ValueError and IndexError mean a malformed reply.
        """
        raise NotImplementedError

    def encode(
        self, items: Sequence[Item], deadline: float | None = None, gone: Gone | None = None
    ) -> Encoded:
        """Return the vectors of all items, sent in parts. Raises ProviderError, ModelUnavailable.

        `gone` is not asked: a part that was sent is paid for.
        """
        if not items:
            return Encoded.dense(np.empty((0, self.facts.dimension), np.float32), [])
        if reason := self.not_ready_reason():
            raise ModelUnavailable(reason)
        end = time.monotonic() + self._providers.config.provider_timeout_s
        end = end if deadline is None else min(end, deadline)
        parts = list(self._split(items))
        answers = self._gather(parts, end)
        tokens: list[int] = []
        for part, (_, total) in zip(parts, answers, strict=True):
            tokens += spread(total, [item.tokens for item in part])
        return Encoded.dense(np.concatenate([vectors for vectors, _ in answers]), tokens)

    def _split(self, items: Sequence[Item]) -> Iterator[list[Item]]:
        """Yield parts within the provider's limits, each of one variant."""
        part: list[Item] = []
        limit = min(self.max_texts, self.spec.max_batch_size or self.max_texts)
        room, size = self.max_bytes, 0
        for item in items:
            payload = item.payload
            cost = len(payload.encode()) if isinstance(payload, str) else len(payload)
            cost = min(cost, self.max_tokens or cost)
            full = len(part) >= limit or (room is not None and size + cost > room)
            if part and (full or part[0].variant != item.variant):
                yield part
                part, size = [], 0
            part.append(item)
            size += cost
        yield part

    def _gather(self, parts: list[list[Item]], end: float) -> list[tuple[Vectors, int]]:
        """Send the parts, several at once. The first failure ends the rest."""
        waiting = deque(enumerate(parts))
        running: dict[Future[tuple[Vectors, int]], int] = {}
        done: dict[int, tuple[Vectors, int]] = {}
        stop = threading.Event()
        try:
            while waiting or running:
                while waiting and len(running) < self._providers.config.provider_parallel:
                    index, part = waiting.popleft()
                    running[self._pool.submit(self._deliver, part, end, stop)] = index
                # A little over the deadline: the error of the thread that sends says more.
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
        return self.host.call(lambda: self._once(part, end), self._retries, end, stop)

    def _once(self, part: list[Item], end: float) -> tuple[Vectors, int]:
        """Return the checked vectors of one part, (n, d) float32, and the tokens they cost."""

        def send(url: str, headers: Headers, body: Mapping[str, Any]) -> tuple[Any, Headers]:
            data = orjson.dumps(body)
            answer = self._providers.client.post(url, {**FORMS, **headers}, data, end)
            raise_for_status(self._name, answer, keyed=self.key_of is not None)
            try:
                return orjson.loads(answer.body), answer.headers
            except ValueError:
                what = f"{self._name} answered 200 with something that is not JSON"
                raise ProviderError(what, permanent=True) from None

        payloads = [item.payload for item in part]
        inputs: list[Payload] = [x if isinstance(x, str) else list(x) for x in payloads]
        try:
            with np.errstate(over="ignore"):  # the check finds what overflows
                reply = self.ask(send, inputs, part[0].variant)
                vectors, tokens = np.asarray(reply.rows, np.float32), reply.tokens
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError):
            what = f"{self._name} answered in a form that is not its own"
            raise ProviderError(what, permanent=True) from None
        self._check(vectors, len(part))
        if not isinstance(tokens, int) or tokens < 0:
            tokens = sum(item.tokens for item in part)  # the provider gives none: an estimate
        return np.ascontiguousarray(vectors), tokens

    def _check(self, vectors: Vectors, count: int) -> None:
        """Raise ProviderError unless there is one finite vector a text, of the known length."""
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
                problem = f"with {vectors.shape[1]} dimensions instead of {self.facts.dimension}"
        if problem:
            raise ProviderError(f"{self._name} answered {problem}", permanent=True)

    def authorization(self) -> dict[str, str]:
        """Return the header with the key, empty if this model sends none."""
        key = self._providers.key(self.key_of) if self.key_of else None
        return {"Authorization": f"Bearer {key}"} if key else {}


def refuse_over(limit: int | None, given: Payload, before: str = "") -> None:
    """Raise BadRequest for what may have more tokens than a request's own limit: a byte has one."""
    if limit is None:
        return
    size = len(f"{before}{given}".encode()) if isinstance(given, str) else len(given)
    if size > limit:
        raise BadRequest(f"a provider cuts inputs at its own limit, not at {limit} tokens")


def fingerprint(spec: ModelSpec, url: str) -> str:
    """Return 16 hex digits that name the embedding space: equal ones can be compared.

    The whole address counts, as one host may serve many models under one name: a gateway's teams,
    an Azure resource's deployments.
    """
    parts = urlsplit(url)
    place = parts.netloc + parts.path.rstrip("/")
    identity = (spec.type, spec.model_name, place, spec.api_version or "", str(spec.dimensions))
    return hashlib.sha256("\n".join(identity).encode()).hexdigest()[:16]


def spread(total: int, weights: Sequence[int]) -> list[int]:
    """Return `total` divided in proportion to the weights, with exactly that sum."""
    whole = sum(weights)
    cuts = [total * mark // whole for mark in accumulate(weights, initial=0)]
    return [high - low for low, high in pairwise(cuts)]
