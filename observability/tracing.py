"""Where a request's time goes: its stages, for `Server-Timing` and, if wanted, for OpenTelemetry.

`with stage("tokenize"):` is all that a room below writes. What a request's stages took is summed up
and told in its reply; with OTEL_ENABLED each is a span too, inside the caller's own trace. No text,
key or address goes into a span: names, counts and times alone. The factory begins and ends
requests; a thread that serves none (a background job) leaves no trace. Knows no HTTP.
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
    """One request: what its stages took, what it is about, and its span if it has one."""

    def __init__(self, name: str, carrier: Mapping[str, str]) -> None:
        self.times: dict[str, float] = {}  # seconds by stage
        self.facts: dict[str, str | int] = {}
        self._zero_ns = time.time_ns() - time.monotonic_ns()
        self._span, self._context = _server_span(name, carrier)

    @property
    def id(self) -> str | None:
        """The trace's id, as a person looks for it; None where nothing is recorded."""
        return None if self._span is None else f"{self._span.get_span_context().trace_id:032x}"

    def note(self, name: str, started: float, ended: float, *, failed: bool = False) -> None:
        """Count a stage, from one `time.monotonic()` to another."""
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
        """Return the value of the `Server-Timing` header, in milliseconds; `stages` if wanted."""
        rows = {**(self.times if stages else {}), "total": total_s}
        return ", ".join(f"{name};dur={took * 1000:.1f}" for name, took in rows.items())

    def _named(self) -> dict[str, str | int]:
        return {f"embedding.{name}": value for name, value in self.facts.items()}

    def _ns(self, monotonic: float) -> int:
        return int(monotonic * 1e9) + self._zero_ns


def begin(name: str, header: Callable[[str], str | None]) -> Trace:
    """Begin the trace of this thread's request, inside the caller's if a header names one."""
    trace = Trace(name, {key: value for key in PROPAGATED if (value := header(key))})
    _current.set(trace)
    return trace


def forget() -> None:
    """Let go of this thread's request."""
    _current.set(None)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Count what is done inside as one stage of this thread's request."""
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
    """Count as a stage of this thread's request what was done for it elsewhere."""
    if trace := _current.get():
        trace.note(name, started, ended)


def describe(**facts: str | int) -> None:
    """Say what this thread's request is about: a model's id, counts; never what a client wrote."""
    if trace := _current.get():
        trace.facts.update(facts)


def open_tracing(endpoint: str, service: str, version: str) -> None:
    """Send every request's spans to a collector, by OTLP over HTTP.

    They go out from a thread of their own; while the collector is away they are dropped. Which
    requests are recorded (OTEL_TRACES_SAMPLER) and how spans are batched is read by OpenTelemetry.
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


def _server_span(name: str, carrier: Mapping[str, str]) -> tuple[Any, Any]:
    """Begin a request's span and return it with its context; neither where none is recorded."""
    if _tracer is None:
        return None, None
    from opentelemetry.trace import SpanKind, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    outer = TraceContextTextMapPropagator().extract(carrier)
    span = _tracer.start_span(name, outer, kind=SpanKind.SERVER)
    return (span, set_span_in_context(span, outer)) if span.is_recording() else (None, None)


def _close(span: Any, failed: bool, at_ns: int | None) -> None:
    if failed:
        from opentelemetry.trace import StatusCode

        span.set_status(StatusCode.ERROR)
    span.end(at_ns)
