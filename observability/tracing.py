"""Where a request's time goes: its stages, for `Server-Timing` and for OpenTelemetry if enabled.

Code marks a stage by `with stage("tokenize"):`. The reply has the sum of each stage; with
OTEL_ENABLED each is a span too, inside the caller's own trace. A span holds names, counts and
times, never a text, key or address. A thread without a request (a background job) leaves no trace.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

PROPAGATED = ("traceparent", "tracestate")  # W3C Trace Context

_tracer: Any = None  # OpenTelemetry's, once `open_tracing` was called
_current: ContextVar["Trace | None"] = ContextVar("trace", default=None)


class Trace:
    """One request: the times of its stages, facts about it, and its span if it is recorded."""

    def __init__(self, name: str, carrier: Mapping[str, str]) -> None:
        self.times: dict[str, float] = {}  # seconds by stage
        self.facts: dict[str, str | int] = {}
        self._zero_ns = time.time_ns() - time.monotonic_ns()
        self._span: Any = None  # of the whole request, if it is recorded
        if _tracer is None:
            return
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        outer = TraceContextTextMapPropagator().extract(carrier)
        span = _tracer.start_span(name, outer, kind=SpanKind.SERVER)
        if span.is_recording():
            self._span, self._context = span, set_span_in_context(span, outer)

    @property
    def id(self) -> str | None:
        """The trace's id in hexadecimal; None if it is not recorded."""
        return None if self._span is None else f"{self._span.get_span_context().trace_id:032x}"

    def note(self, name: str, started: float, ended: float, *, failed: bool = False) -> None:
        """Add a stage, from one `time.monotonic()` to another."""
        self.times[name] = self.times.get(name, 0.0) + ended - started
        if self._span is None:
            return
        span = _tracer.start_span(
            name, self._context, attributes=self._named(), start_time=self._ns(started)
        )
        _close(span, failed, self._ns(ended))

    def end(self, attributes: Mapping[str, str | int], *, failed: bool) -> None:
        """End the request's span."""
        if self._span is not None:
            self._span.set_attributes({**attributes, **self._named()})
            _close(self._span, failed, None)

    def server_timing(self, total_s: float, *, stages: bool) -> str:
        """Return the value of the `Server-Timing` header, in milliseconds."""
        rows = {**(self.times if stages else {}), "total": total_s}
        return ", ".join(f"{name};dur={took * 1000:.1f}" for name, took in rows.items())

    def _named(self) -> dict[str, str | int]:
        return {f"embedding.{name}": value for name, value in self.facts.items()}

    def _ns(self, monotonic: float) -> int:
        return int(monotonic * 1e9) + self._zero_ns


def begin(name: str, header: Callable[[str], str | None]) -> Trace:
    """Start the trace of this thread's request, inside the caller's if a header names one."""
    trace = Trace(name, {key: value for key in PROPAGATED if (value := header(key))})
    _current.set(trace)
    return trace


def forget() -> None:
    """End this thread's request."""
    _current.set(None)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Add the time inside as a stage of this thread's request."""
    trace = _current.get()
    if trace is None:
        yield
        return
    started, failed = time.monotonic(), True
    try:
        yield
        failed = False
    finally:
        trace.note(name, started, time.monotonic(), failed=failed)


def note(name: str, started: float, ended: float) -> None:
    """Add a stage of this thread's request that was done elsewhere."""
    if trace := _current.get():
        trace.note(name, started, ended)


def describe(**facts: str | int) -> None:
    """Add facts about this thread's request: a model's id, counts; never what a client wrote."""
    if trace := _current.get():
        trace.facts.update(facts)


def open_tracing(endpoint: str, service: str, version: str) -> None:
    """Send every request's spans to a collector, by OTLP over HTTP.

    A thread of its own sends them; while the collector is down they are dropped. OpenTelemetry's
    own variables say which requests are recorded (OTEL_TRACES_SAMPLER) and how spans are batched.
    """
    global _tracer
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    about = {"service.name": service, "service.version": version}
    provider = TracerProvider(resource=Resource.create(about))
    exporter = OTLPSpanExporter(endpoint=endpoint.rstrip("/") + "/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = provider.get_tracer("embedding-service", version)


def _close(span: Any, failed: bool, at_ns: int | None) -> None:
    if failed:
        from opentelemetry.trace import StatusCode

        span.set_status(StatusCode.ERROR)
    span.end(at_ns)
