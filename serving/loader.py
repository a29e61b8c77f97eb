"""Builds a model, with an embedder for each place where it runs."""

import functools
import logging
import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from config import ModelSettings, ModelSpec
from embedders.base import Embedder
from embedders.device import GPU_TOKENS, described
from errors import ServiceError
from observability import metrics
from serving.batcher import Batcher
from serving.encoder import Elsewhere, Encoder, Limits
from serving.model import Loaded
from serving.replicas import Missing, Replicas

log = logging.getLogger("models")

Build = Callable[[ModelSpec, ModelSettings], Embedder]


@runtime_checkable
class Spreading(Protocol):
    """A build that knows the devices on which a model runs that names none."""

    def devices(self, spec: ModelSpec, settings: ModelSettings) -> tuple[str, ...]:
        """Return them; none for one place, as the model's entry and the settings have it."""


# Padded tokens of one pass. Larger passes gain nothing on a CPU and make others wait.
BATCH_TOKENS = {"cpu": 1024, "mps": 8192, "cuda": GPU_TOKENS}


def build_model(spec: ModelSpec, settings: ModelSettings, build: Build) -> Loaded:
    """Return the model, ready to encode. Raises what its only place, or the first one, raised.

    Of several places those where it does not load are left out and tried again later, and
    `/health` says why.
    """
    started = time.monotonic()
    spread = build.devices(spec, settings) if isinstance(build, Spreading) else ()
    if spread and spread != spec.devices:
        try:
            return build_model(spec.model_copy(update={"devices": spread}), settings, build)
        except ServiceError as exc:
            if (spec.device or settings.device) != "auto":
                raise
            log.warning("%s runs on none of %s (%s)", spec.id, ", ".join(spread), exc.message)
    embedders: list[tuple[str, Embedder]] = []
    failures: list[tuple[str, ModelSpec, Exception]] = []
    places = replicas_of(spec)
    for name, place in places:
        try:
            embedders.append((name, build(place, settings)))
        except Exception as exc:
            failures.append((name, place, exc))
    own = [name for name, _ in places[: len(spec.devices)]]  # others are compared to these
    if not embedders or (own and embedders[0][0] not in own):
        for _, embedder in embedders:
            embedder.close()
        failure = failures[0][2]
        failures.clear()
        try:
            raise failure
        finally:
            del failure  # else it holds this frame, and this frame it: the model is never freed
    first = embedders[0][1]
    for _, embedder in embedders[1:]:
        embedder.become_replica_of(first)

    def load(place: ModelSpec) -> Encoder:
        embedder = build(place, settings)
        embedder.become_replica_of(first)
        return encoder_of(spec, settings, embedder)

    missing = [Missing(n, reason_of(exc), functools.partial(load, at)) for n, at, exc in failures]
    failures.clear()  # an exception's traceback holds this frame, which holds it
    encoders = [(name, encoder_of(spec, settings, each)) for name, each in embedders]
    several = len(encoders) + len(missing) > 1
    encoder = Replicas(encoders, missing) if several else encoders[0][1]
    return Loaded(encoder, time.monotonic() - started)


def reason_of(exc: Exception) -> str:
    """Return why a model did not load, in one line."""
    return exc.message if isinstance(exc, ServiceError) else f"it failed to load ({described(exc)})"


def replicas_of(spec: ModelSpec) -> list[tuple[str, ModelSpec]]:
    """Return the places where a model runs, by name: one for each device and each address."""
    places = [(f"{d}#{i}", {"device": d}) for i, d in enumerate(spec.devices)]
    places += [(url, {"base_url": url}) for url in spec.base_urls]
    return [(name, spec.model_copy(update=u)) for name, u in places] or [("", spec)]


def encoder_of(spec: ModelSpec, settings: ModelSettings, embedder: Embedder) -> Encoder:
    """Return a batcher for embedders that share passes between requests, else a plain encoder."""
    if isinstance(embedder, Elsewhere):
        return embedder.encoder(spec, settings)
    if not embedder.batched:
        return Encoder(embedder)
    kind = embedder.facts.device.partition(":")[0]
    suits = embedder.pass_tokens or BATCH_TOKENS.get(kind, 1024)
    return Batcher(
        embedder,
        max_tokens=settings.max_batch_tokens or suits,
        limits=Limits.of(spec, settings),
        hung_after_s=settings.encode_timeout_s,
        numbers=metrics.ModelMetrics(spec.id),
    )
