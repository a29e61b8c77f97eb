"""Where a request's time goes: told in `Server-Timing`, and to a collector that speaks OTLP."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from config import load_config
from observability import tracing
from tests.conftest import ROOT, free_port, running, write_models
from tests.faults.conftest import Service, until
from tests.ops.test_deploy import COMPOSE, interpolated
from tests.servers.collector import Collector, attributes

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
SPANS_OF_STORING = {"POST /embed-and-store", "cache", "tokenize", "queue", "encode", "store"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("traced")
    file = write_models(folder / "m.json", {"fake": {"type": "fake", "model_name": "tests/fake"}})
    return {
        "HOST": "127.0.0.1", "MODEL_CONFIG": str(file), "LOG_FORMAT": "json",
        "SUPPORTED_MODELS_FILE": str(folder / "none"), "OTEL_ENABLED": "true",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }  # fmt: skip


@contextmanager
def serving(env: dict[str, str], collector: str) -> Iterator[Service]:
    port = free_port()
    env = {**env, "PORT": str(port), "OTEL_EXPORTER_OTLP_ENDPOINT": collector}
    with running([sys.executable, "-m", "gunicorn", "app:app"], port, env) as process:
        yield Service(port, process)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(environment: dict[str, str], collector: Collector) -> Iterator[Service]:
    with serving(environment, collector.url()) as service:
        yield service


def spans_of(headers: dict[str, str], collector: Collector) -> list:
    """The span of the request that was answered with these headers."""
    mine = headers["X-Request-ID"]
    spans = list(collector.spans)
    return [span for span in spans if attributes(span).get("embedding.request_id") == mine]


def test_a_request_is_a_span_in_its_callers_trace(traced, collector) -> None:
    status, headers, _ = traced.ask("/embed", {"texts": ["one two", "three"]}, **CALLER)
    assert status == 200
    until(lambda: spans_of(headers, collector))
    (span,) = spans_of(headers, collector)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.kind == span.SPAN_KIND_SERVER
    assert attributes(span) == {
        "http.request.method": "POST", "http.route": "/embed", "http.response.status_code": 200,
        "embedding.model": "fake", "embedding.texts": 2, "embedding.tokens": 3,
        "embedding.request_id": headers["X-Request-ID"], "embedding.lane": "interactive",
    }  # fmt: skip
    assert collector.resource["service.name"] == "embedding-service"


def test_the_stages_are_spans_inside_the_requests(traced, collector) -> None:
    body = {"collection": "traced", "texts": ["a b", "c"]}
    status, headers, _ = traced.ask("/embed-and-store", body)
    assert status in (200, 201)
    until(lambda: spans_of(headers, collector))
    (whole,) = spans_of(headers, collector)
    mine = [span for span in collector.spans if span.trace_id == whole.trace_id]
    assert {span.name for span in mine} == SPANS_OF_STORING
    for span in mine:
        assert span is whole or span.parent_span_id == whole.span_id
        # clocks are read one after the other: a stage may seem to begin some microseconds early
        assert span.start_time_unix_nano >= whole.start_time_unix_nano - 10**6
        assert span.end_time_unix_nano <= whole.end_time_unix_nano + 10**6
        assert attributes(span)["embedding.model"] == "fake"


def test_an_error_is_marked_and_the_log_names_the_trace(traced, collector) -> None:
    status, headers, _ = traced.ask("/embed", {"texts": 3}, **CALLER)
    assert status == 422

    def told() -> list[str]:
        lines = [json.loads(line) for line in traced.lines if '"trace"' in line]
        return [line["trace"] for line in lines if line["id"] == headers["X-Request-ID"]]

    until(told)  # it is written beside the request
    assert told() == [TRACE]


def test_what_compose_sets_sends_traces_to_its_collector(
    environment: dict[str, str], collector: Collector
) -> None:
    """The profile's settings as compose hands them over, but for the collector's name."""
    given = COMPOSE["services"]["embedding-service"]["environment"]
    ours = {name: interpolated(value, OTEL_ENABLED="true") for name, value in given.items()
            if name.startswith("OTEL_")}  # fmt: skip
    assert set(ours) == {"OTEL_ENABLED", "OTEL_EXPORTER_OTLP_ENDPOINT"}
    there = ours.pop("OTEL_EXPORTER_OTLP_ENDPOINT").replace(
        "http://otel-collector:4318", collector.url()
    )
    with serving({**environment, **ours}, there) as service:
        status, headers, _ = service.ask("/embed", {"texts": ["a"]})
        assert status == 200
        until(lambda: spans_of(headers, collector))


def test_no_text_ever_leaves_in_a_span(traced, collector) -> None:
    traced.ask("/embed/single?text=hushhush", {})
    traced.ask("/v1/embeddings", {"model": "hushhush", "input": "hushhush"})
    traced.ask("/embed", {"texts": ["hushhush"], "prompt": "hushhush"})
    traced.ask("/collections/hushhush/search", {"text": "hushhush"})
    traced.ask("/embed/hushhush?x=hushhush", {}, **{"tracestate": "hush=hush"})
    until(lambda: collector.named("POST none"))  # the last of them has arrived
    assert b"hushhush" not in collector.bytes


def test_a_caller_that_records_nothing_gets_no_spans(traced, collector) -> None:
    other = "0" * 31 + "1"
    traced.ask("/embed", {"texts": "a"}, traceparent=f"00-{other}-{PARENT}-00")
    traced.ask("/batch-embed", {"texts": ["a"]})
    until(lambda: collector.named("POST /batch-embed"))
    assert other not in {span.trace_id.hex() for span in collector.spans}


@pytest.mark.parametrize(
    "header", ["", "00-zz", "\xff", f"00-{'0' * 32}-{'0' * 16}-01", "a" * 5000]
)
def test_a_broken_traceparent_begins_a_trace_of_its_own(traced, header) -> None:
    assert traced.ask("/embed", {"texts": "a"}, traceparent=header)[0] == 200


def test_spans_that_wait_are_sent_on_a_stop(environment, collector) -> None:
    patient = {**environment, "OTEL_BSP_SCHEDULE_DELAY": "60000", "OTEL_SERVICE_NAME": "leaving"}
    with serving(patient, collector.url()) as service:
        assert service.embed("a") == 200
        service.signal(signal.SIGTERM)
        assert service.process.wait(40) == 0
    assert collector.resource["service.name"] == "leaving"


def test_a_collector_that_is_away_harms_neither_a_request_nor_a_stop(environment) -> None:
    with serving(environment, f"http://127.0.0.1:{free_port()}") as service:
        assert [service.embed("a") for _ in range(20)] == [200] * 20
        service.signal(signal.SIGTERM)
        assert service.process.wait(40) == 0


def test_without_the_packages_the_start_ends_and_names_them(tmp_path) -> None:
    """A folder in front of the installed packages hides theirs."""
    hidden = tmp_path / "opentelemetry"
    hidden.mkdir()
    (hidden / "__init__.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", "from config import load_config; load_config()"],
        env={"PYTHONPATH": str(tmp_path), "OTEL_ENABLED": "true"}, cwd=ROOT,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http" in done.stderr
    assert "OTEL_ENABLED" in done.stderr and "Traceback" not in done.stderr


def test_a_reply_tells_what_its_stages_took(fake_client) -> None:
    reply = fake_client.post("/embed", json={"texts": ["a b"]})
    parts = dict(part.split(";dur=") for part in reply.headers["Server-Timing"].split(", "))
    assert list(parts) == ["cache", "tokenize", "queue", "encode", "total"]
    assert sum(map(float, parts.values())) <= 2 * float(parts["total"]) + 0.5  # each is rounded
    assert re.fullmatch(r"total;dur=[\d.]+", fake_client.get("/health").headers["Server-Timing"])


def test_a_stage_outside_a_request_leaves_no_trace() -> None:
    with tracing.stage("encode"):
        tracing.describe(model="fake")
    tracing.note("queue", 0.0, 1.0)
    assert tracing.Trace("x", {}).times == {}


def test_off_is_the_default() -> None:
    assert load_config({}).otel_enabled is False
    assert tracing.Trace("x", {}).id is None
