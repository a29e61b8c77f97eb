"""Builds a model: an embedder for each place where it is to run, and the lane its requests take.

Knows one model at a time, and nothing of those that serve; the registry calls it.
"""

import functools
import logging
import time
from collections.abc import Callable

from config import ModelSettings, ModelSpec
from embedders.base import Embedder
from embedders.device import GPU_TOKENS, told
from errors import ServiceError
from observability import metrics
from serving.batcher import Batcher
from serving.model import Lane, Loaded
from serving.replicas import Missing, Replica, Replicas

log = logging.getLogger("models")

Build = Callable[[ModelSpec, ModelSettings], Embedder]

# Padded tokens of one pass. Larger passes gain nothing on a CPU and make others wait.
BATCH_TOKENS = {"cpu": 1024, "mps": 8192, "cuda": GPU_TOKENS}


def build_model(spec: ModelSpec, settings: ModelSettings, build: Build) -> Loaded:
    """Build a model that can encode. Raises what its only, or its first, place raised.

    Of several places those where it does not load are left out, tried again later, and `/health`
    says why.
    """
    started = time.monotonic()
    embedders: list[tuple[str, Embedder]] = []
    failures: list[tuple[str, ModelSpec, Exception]] = []
    places = replicas_of(spec)
    for name, place in places:
        try:
            embedders.append((name, build(place, settings)))
        except Exception as exc:
            failures.append((name, place, exc))
    own = [name for name, _ in places[: len(spec.devices)]]  # copies elsewhere stand in for these
    if not embedders or (own and embedders[0][0] not in own):
        for _, embedder in embedders:
            embedder.close()
        failure = failures[0][2]
        failures.clear()
        try:
            raise failure
        finally:
            del failure  # else it would hold this frame, and this frame it: a model stays for ever
    first = embedders[0][1]
    for _, embedder in embedders[1:]:
        embedder.stand_in_for(first)

    def replica(name: str, embedder: Embedder) -> Replica:
        return Replica(name, embedder, lane_of(spec, settings, embedder))

    def again(name: str, place: ModelSpec) -> Replica:
        embedder = build(place, settings)
        embedder.stand_in_for(first)
        return replica(name, embedder)

    missing = [
        Missing(name, reason_of(exc), functools.partial(again, name, place))
        for name, place, exc in failures
    ]
    failures.clear()  # an exception's traceback holds this frame, which holds it
    for each in missing:
        log.warning("replica %s of %s is left out: %s", each.name, spec.id, each.reason)
    replicas = [replica(name, each) for name, each in embedders]
    several = len(replicas) + len(missing) > 1
    lane = Replicas(replicas, missing) if several else replicas[0].lane
    return Loaded(first, lane, time.monotonic() - started)


def reason_of(exc: Exception) -> str:
    """Say why a model did not load, in one line that may be shown."""
    return exc.message if isinstance(exc, ServiceError) else f"it failed to load ({told(exc)})"


def replicas_of(spec: ModelSpec) -> list[tuple[str, ModelSpec]]:
    """Return the places where a model runs: one for each device and each address listed."""
    devices = [(f"{d}#{i}", {"device": d}) for i, d in enumerate(spec.devices)]
    addresses = [(url, {"base_url": url}) for url in spec.base_urls]
    places = [*devices, *addresses]
    return [(name, spec.model_copy(update=u)) for name, u in places] or [("", spec)]


def lane_of(spec: ModelSpec, settings: ModelSettings, embedder: Embedder) -> Lane:
    """Return what an embedder's requests go through."""
    if not embedder.batched:
        return embedder
    kind = embedder.facts.device.partition(":")[0]
    suits = embedder.pass_tokens or BATCH_TOKENS.get(kind, 1024)
    return Batcher(
        embedder,
        max_tokens=settings.max_batch_tokens or suits,
        max_items=spec.max_batch_size or settings.max_batch_size,
        max_queue_tokens=settings.max_queue_tokens,
        hung_after_s=settings.encode_timeout_s,
        numbers=metrics.Lane(spec.id),
    )
