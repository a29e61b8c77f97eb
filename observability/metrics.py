"""Every metric of the service, and the text and the summary made of them.

To add one, declare it here beside its kind, named `embedding_<what>_<unit>`, and write its line in
docs/deploy.md. A label's values come from a closed set (the route table, the configured models, the
error codes), never from a request: a series lives as long as the service. Under gunicorn the values
are in files that any worker can add up (`PROMETHEUS_MULTIPROC_DIR`, which the master sets before
this module is imported), so a gauge must name its `multiprocess_mode`, and `Info`, `Enum` and
`set_function` cannot be used.
"""

import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from observability.machine import Gpus, Processes, facts_of
from observability.names import series_name

Mode = Literal["livesum", "livemin", "livemax", "livemostrecent"]
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
PASS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
LANES = ("interactive", "bulk")
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)

_own = CollectorRegistry()


class _OfModels(MetricWrapperBase):
    """A metric that shows a model, its first label, by a name that anybody may read."""

    def labels(self, *values: Any, **named: Any) -> Self:
        """Return the series of these values; a model is given by its id."""
        if values and self._labelnames[:1] == ("model",):
            values = (series_name(values[0]), *values[1:])
        return super().labels(*values, **named)


class _Counter(_OfModels, Counter):
    """A counter."""


class _Gauge(_OfModels, Gauge):
    """A gauge."""


class _Histogram(_OfModels, Histogram):
    """A histogram."""


def _counter(name: str, text: str, *labels: str) -> Counter:
    return _Counter(f"embedding_{name}", text, labels, registry=_own)


def _gauge(name: str, text: str, *labels: str, mode: Mode = "livesum") -> Gauge:
    return _Gauge(f"embedding_{name}", text, labels, registry=_own, multiprocess_mode=mode)


def _histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...]) -> Histogram:
    return _Histogram(f"embedding_{name}", text, labels, registry=_own, buckets=buckets)


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
QUEUED = _gauge("queue_requests", "Requests waiting for a model.", "model", "lane")
QUEUED_TEXTS = _gauge("queue_texts", "Inputs waiting for a model.", "model", "lane")
QUEUED_TOKENS = _gauge("queue_tokens", "Tokens waiting for a model.", "model", "lane")
QUEUE_SECONDS = _histogram(
    "queue_seconds", "Time of a request until its first pass.", "model", "lane", buckets=SECONDS
)
MODEL_SECONDS = _histogram(
    "model_seconds", "Time from a request's parsed body to its vectors, cached ones too.",
    "model", "lane", buckets=SECONDS,
)  # fmt: skip
PROMISE_MISSED = _counter(
    "promise_missed_total", "Interactive requests that took longer than was promised.", "model"
)
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
MODEL_BYTES = _gauge("model_bytes", "Bytes of the weights of a loaded model.", "model")
MODEL_LOADS = _counter("model_loads_total", "Loads of models.", "model", "outcome")
MODEL_UNLOADS = _counter(
    "model_unloads_total", "Models unloaded until their next use.", "model", "reason"
)
# ---- model processes: each shows its own, as they are no children of gunicorn's master
MODEL_PROCESS_MEMORY = _gauge("model_process_memory_bytes", "Memory of the model processes.")
MODEL_PROCESS_CPU = _counter(
    "model_process_cpu_seconds_total", "Time on the CPU of the model processes, dead ones too."
)
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


# The readiness that a worker shows for a model it does not serve: the minimum over all workers is
# then that of the others. A series cannot be removed from the workers' files.
_NOT_SERVED = math.inf

_shown: set[tuple[str, str]] = set()  # the labels, model and default, that were ever shown


def show_ready(ready: Mapping[str, bool], default: str) -> None:
    """Show which of the served models can encode, and no other model. Call from one thread."""
    now = {(model, str(model == default).lower()): float(is_) for model, is_ in ready.items()}
    _shown.update(now)
    for labels in _shown:
        MODEL_READY.labels(*labels).set(now.get(labels, _NOT_SERVED))


class ModelProcessMetrics:
    """The memory and the time of this process, a model process."""

    def __init__(self) -> None:
        self._cpu_s = 0.0

    def show(self) -> None:
        """Show them as they are now. Call from one thread."""
        facts = facts_of(os.getpid())
        MODEL_PROCESS_MEMORY.set(facts.get("memory_bytes", 0.0))
        now = facts.get("cpu_seconds", self._cpu_s)
        MODEL_PROCESS_CPU.inc(now - self._cpu_s)
        self._cpu_s = now


class ModelMetrics:
    """The numbers of one model's queue and passes, reported by its batcher."""

    def __init__(self, model: str = "unnamed") -> None:
        gauges = (QUEUED, QUEUED_TEXTS, QUEUED_TOKENS)
        self._waiting = {lane: [each.labels(model, lane) for each in gauges] for lane in LANES}
        self._waited = {lane: QUEUE_SECONDS.labels(model, lane) for lane in LANES}
        PROMISE_MISSED.labels(model)  # shown as 0 before the first one
        self._done, self._cost = TEXTS_EMBEDDED.labels(model), TOKENS.labels(model)
        self._padding, self._size = PADDING.labels(model), PASS_SIZE.labels(model)
        self._fill, self._time = PASS_FILL.labels(model), PASS_TIME.labels(model)

    def waiting(self, lane: str, requests: int, texts: int, tokens: int) -> None:
        """Count into the queue of a lane, or out of it with negative numbers."""
        for gauge, more in zip(self._waiting[lane], (requests, texts, tokens), strict=True):
            gauge.inc(more)

    def waited(self, lane: str, seconds: float) -> None:
        """Record how long a request waited for its first pass."""
        self._waited[lane].observe(seconds)

    def passed(self, tokens: list[int], took_s: float, *, padded: bool = True) -> None:
        """Count a pass over inputs of these lengths in tokens, padded to the longest or not."""
        total = sum(tokens)
        self._done.inc(len(tokens))
        self._cost.inc(total)
        self._padding.inc(max(tokens, default=0) * len(tokens) - total if padded else 0)
        self._size.observe(len(tokens))
        self._time.observe(took_s)

    def filled(self, share: float) -> None:
        """Record a pass's share of the largest allowed one, in tokens or in inputs."""
        self._fill.observe(share)


def exposition(*, hosts: bool = True) -> bytes:
    """Return every series of every worker in Prometheus's text format.

    `hosts` includes those that name the providers' hosts.
    """
    return generate_latest(_Everything(hosts))


def summary() -> dict[str, Any]:
    """Return the sums that a person asks for first, as JSON has them."""
    samples = [sample for metric in _Everything().collect() for sample in metric.samples]

    def total(name: str, **labels: str) -> float:
        wanted = [s for s in samples if s.name == f"embedding_{name}"]
        return sum(s.value for s in wanted if labels.items() <= s.labels.items())

    requests = total("request_seconds_count")
    counted = ("errors_total", "texts_total", "tokens_total", "truncated_inputs_total",
               "queue_texts", "queue_tokens")  # fmt: skip
    return {
        "requests_total": int(requests),
        "average_request_ms": round(1000 * total("request_seconds_sum") / max(requests, 1), 2),
        **{name: int(total(name)) for name in counted},
        "cache_hits_total": int(total("cache_total", outcome="hit")),
        "memory_bytes": int(total("process_memory_bytes")),
        "cpu_seconds": round(total("process_cpu_seconds_total"), 2),
    }


class _Everything(Collector):
    """The metrics of this module, over all workers that share a directory, and the machine's."""

    def __init__(self, hosts: bool = True) -> None:
        self._hosts = hosts

    def collect(self) -> Iterator[Metric]:
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        for family in _merged(Path(folder)) if folder else _own.collect():
            if family.name == "embedding_provider_open" and not self._hosts:
                continue
            if family.name == "embedding_model_ready":
                family.samples = [s for s in family.samples if s.value != _NOT_SERVED]
            yield family
        yield from Processes().collect()
        yield from Gpus().collect()


def _merged(folder: Path) -> Iterable[Metric]:
    files = []
    for file in folder.glob("*.db"):
        with contextlib.suppress(FileNotFoundError):  # a dead worker's gauges may go at any moment
            if file.stat().st_size:  # one that a worker is just making is empty, and not readable
                files.append(str(file))
    return MultiProcessCollector.merge(files, accumulate=True)  # type: ignore[no-any-return, no-untyped-call]
