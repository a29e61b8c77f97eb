"""Every number the service shows to Prometheus, and the text and summary made of them.

Owns the names, their labels and nothing else; any room may call it, it calls none. To add one:
declare it here beside its kind, named `embedding_<what>_<unit>`, and write its line in
docs/deploy.md. A label's values come from a closed set (the route table, the configured models,
the error codes), never from a request: a series lives as long as the service. Under gunicorn the
numbers lie in files that any worker can add up (`PROMETHEUS_MULTIPROC_DIR`, set by the master
before this module is imported), so a gauge must name its `multiprocess_mode`, and neither `Info`,
`Enum` nor `set_function` may be used.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from observability.machine import Gpus, Processes

Mode = Literal["livesum", "livemin", "livemax", "livemostrecent"]
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
PASS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)

_own = CollectorRegistry()


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(f"embedding_{name}", text, labels, registry=_own)


def _gauge(name: str, text: str, *labels: str, mode: Mode = "livesum") -> Gauge:
    return Gauge(f"embedding_{name}", text, labels, registry=_own, multiprocess_mode=mode)


def _histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...]) -> Histogram:
    return Histogram(f"embedding_{name}", text, labels, registry=_own, buckets=buckets)


# ---- requests: the factory counts these
REQUESTS = _counter("requests_total", "Requests answered.", "route", "method", "status")
REQUEST_SECONDS = _histogram(
    "request_seconds", "Time from first sight to reply.", "route", "status", buckets=SECONDS
)  # the status is its class, as in `2xx`: refusals are quick and would hide slow replies
IN_FLIGHT = _gauge("requests_in_flight", "Requests under way.")
ERRORS = _counter("errors_total", "Errors answered, by code.", "code")
RATE_LIMITED = _counter("rate_limited_total", "Requests refused by a rate limit.", "role")
# ---- models: the registry and the batcher
TEXTS_EMBEDDED = _counter("texts_total", "Inputs embedded.", "model")
TOKENS = _counter("tokens_total", "Tokens that went through a model.", "model")
PADDING = _counter("padding_tokens_total", "Tokens of padding that went along.", "model")
TRUNCATED = _counter("truncated_inputs_total", "Inputs cut to fit their model.", "model")
QUEUED_TEXTS = _gauge("queue_texts", "Inputs waiting for a model.", "model")
QUEUED_TOKENS = _gauge("queue_tokens", "Tokens waiting for a model.", "model")
DROPPED = _counter("queue_dropped_total", "Requests that left the queue unserved.", "reason")
PASS_SIZE = _histogram("pass_texts", "Inputs in one pass.", "model", buckets=TEXTS)
PASS_FILL = _histogram(
    "pass_fill_ratio", "Share of the allowed pass that one filled.", "model", buckets=SHARES
)
PASS_TIME = _histogram("pass_seconds", "Time of one pass.", "model", buckets=PASS_SECONDS)
FAULTS = _counter("model_faults_total", "Passes that went wrong, by what happened.", "fault")
MODEL_READY = _gauge(
    "model_ready", "1 where every worker can encode on it.", "model", "default", mode="livemin"
)
MODEL_LOAD = _gauge("model_load_seconds", "Time the load took.", "model", mode="livemax")
# ---- cache, store and providers
CACHE = _counter("cache_total", "Vectors asked of the cache.", "outcome")
VECTOR_OPERATIONS = _counter(
    "vector_operations_total", "Calls on collections.", "operation", "outcome"
)
STORE_BYTES = _gauge("store_bytes", "Bytes of the store on disk.", mode="livemostrecent")
STORE_COLLECTIONS = _gauge("store_collections", "Collections there are.", mode="livemostrecent")
PROVIDER_CALLS = _counter("provider_calls_total", "Calls to providers.", "provider", "outcome")
PROVIDER_SECONDS = _histogram(
    "provider_seconds", "Time of a call to a provider.", "provider", buckets=SECONDS
)


PROVIDER_OPEN = _gauge(
    "provider_open", "1 where a host is left alone after failures.", "provider", "host",
    mode="livemax",
)  # fmt: skip
# ---- the service itself: routes/health.py shows these
BUILD = _gauge("build_info", "1, for what runs.", "version", "python", "torch", mode="livemax")
DEGRADED = _gauge("degraded", "1 where a part is away, yet requests are served.", "part",
                  mode="livemax")  # fmt: skip
DISK_FREE = _gauge("disk_free_bytes", "Bytes free there.", "folder", mode="livemostrecent")


_GONE = 2.0  # of a model that left: above 0 and 1, so that workers that still have it are shown


def show_ready(ready: Mapping[str, bool], default: str) -> None:
    """Show which of the models served now can encode, and no model besides.

    Call from one thread. A series cannot be taken out of the workers' files, so one of a model
    that left is marked, and left out when the numbers are asked for.
    """
    now = {(model, str(model == default).lower()): float(is_) for model, is_ in ready.items()}
    for labels in _shown - now.keys():
        MODEL_READY.labels(*labels).set(_GONE)
    for labels, value in now.items():
        MODEL_READY.labels(*labels).set(value)
    _shown.update(now)


_shown: set[tuple[str, str]] = set()  # the labels, model and default, that were ever shown


def _served(families: Iterable[Metric], hosts: bool) -> Iterator[Metric]:
    """Leave out the models that serve no more, and what names hosts where that is not wanted."""
    for family in families:
        if family.name == "embedding_provider_open" and not hosts:
            continue
        if family.name == "embedding_model_ready":
            family.samples = [sample for sample in family.samples if sample.value != _GONE]
        yield family


class Lane:
    """The numbers of one model's queue: the batcher reports to it."""

    def __init__(self, model: str = "unnamed") -> None:
        self._texts, self._tokens = QUEUED_TEXTS.labels(model), QUEUED_TOKENS.labels(model)
        self._done, self._cost = TEXTS_EMBEDDED.labels(model), TOKENS.labels(model)
        self._padding, self._size = PADDING.labels(model), PASS_SIZE.labels(model)
        self._fill, self._time = PASS_FILL.labels(model), PASS_TIME.labels(model)

    def waiting(self, texts: int, tokens: int) -> None:
        """Count inputs into the queue, or with negative numbers out of it."""
        self._texts.inc(texts)
        self._tokens.inc(tokens)

    def passed(self, tokens: list[int], took_s: float, *, padded: bool = True) -> None:
        """Count one pass over inputs of these lengths, padded to the longest or not at all."""
        total = sum(tokens)
        self._done.inc(len(tokens))
        self._cost.inc(total)
        self._padding.inc(max(tokens, default=0) * len(tokens) - total if padded else 0)
        self._size.observe(len(tokens))
        self._time.observe(took_s)

    def filled(self, share: float) -> None:
        """Note what share of the largest allowed pass, in tokens or in inputs, one took."""
        self._fill.observe(share)


def exposition(*, hosts: bool = True) -> bytes:
    """Return every series of every worker in Prometheus's text format.

    Those that name the providers' hosts are for who may know them.
    """
    return generate_latest(_everything(hosts))


def summary() -> dict[str, Any]:
    """Return the sums a person asks for first, as JSON has them."""
    samples = [sample for metric in _everything().collect() for sample in metric.samples]

    def total(name: str) -> float:
        return sum(s.value for s in samples if s.name == f"embedding_{name}")

    requests = total("request_seconds_count")
    hits = sum(
        s.value
        for s in samples
        if s.name == "embedding_cache_total" and s.labels.get("outcome") == "hit"
    )
    return {
        "requests_total": int(requests),
        "errors_total": int(total("errors_total")),
        "average_request_ms": round(1000 * total("request_seconds_sum") / max(requests, 1), 2),
        "texts_total": int(total("texts_total")),
        "tokens_total": int(total("tokens_total")),
        "truncated_inputs_total": int(total("truncated_inputs_total")),
        "queue_texts": int(total("queue_texts")),
        "queue_tokens": int(total("queue_tokens")),
        "cache_hits_total": int(hits),
        "memory_bytes": int(total("process_memory_bytes")),
        "cpu_seconds": round(total("process_cpu_seconds_total"), 2),
    }


def _everything(hosts: bool = True) -> CollectorRegistry:
    registry = CollectorRegistry()
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        registry.register(_Shared(hosts))
    else:
        registry.register(_Own(hosts))
    registry.register(Processes())
    registry.register(Gpus())
    return registry


class _Own(Collector):
    """The numbers of this process."""

    def __init__(self, hosts: bool) -> None:
        self._hosts = hosts

    def collect(self) -> Iterator[Metric]:
        return _served(_own.collect(), self._hosts)


class _Shared(_Own):
    """The numbers of all workers, added up from their files."""

    def collect(self) -> Iterator[Metric]:
        files = [str(file) for file in _numbers(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))]
        merged = MultiProcessCollector.merge(files, accumulate=True)  # type: ignore[no-untyped-call]
        return _served(merged, self._hosts)


def _numbers(folder: Path) -> Iterator[Path]:
    """Name the files that hold numbers: one that a worker is just making is empty, and the
    library cannot read that; one of a dead worker's gauges may go at any moment.
    """
    for file in folder.glob("*.db"):
        with contextlib.suppress(FileNotFoundError):
            if file.stat().st_size:
                yield file
