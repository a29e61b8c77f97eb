"""What each fault of a provider leads to."""

import logging
import re
import socket
import threading
import time

import pytest
import requests

from circuit_breaker import CircuitBreaker
from config import ModelSpec
from embedders import build, http_client, retry
from embedders.base import Prompt
from embedders.providers import Providers
from errors import (
    BadRequest,
    ModelUnavailable,
    ProviderBusy,
    ProviderError,
    ProviderTimeout,
    ServiceError,
)
from observability import metrics
from tests.providers import server as wrong
from tests.providers.conftest import loopback
from tests.providers.server import KEY

SECRET = "a text that nobody else may read"


@pytest.fixture(autouse=True)
def nothing_leaks(caplog):
    caplog.set_level(logging.DEBUG)
    yield
    assert KEY not in caplog.text
    assert SECRET not in caplog.text


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(retry, "BACKOFF_S", (0.02, 0.04))


def run(embedder, count=3, deadline_s=None):
    items = embedder.prepare([f"{SECRET} {i}" for i in range(count)], Prompt(), "right")
    end = None if deadline_s is None else time.monotonic() + deadline_s
    return embedder.encode(items, end)


def failure(embedder, kind=ServiceError, **kwargs):
    with pytest.raises(kind) as caught:
        run(embedder, **kwargs)
    shown = f"{caught.value} {caught.value!r} {caught.value.__dict__}"
    assert KEY not in shown
    assert SECRET not in shown
    return caught.value


# -- it fails ------------------------------------------------------------------------------


@pytest.mark.fault("Providers")
@pytest.mark.parametrize("fault", [(500, {}), (503, {}), (429, {}), wrong.reset, wrong.cut_off])
def test_two_faults_in_a_row_are_ridden_out(remote, provider, fault):
    """A provider answers 429, 5xx or not at all, twice -> the call is repeated, and succeeds."""
    provider.script += [fault, fault]
    assert len(run(remote()).vectors) == 3
    assert len(provider.seen) == 3


@pytest.mark.fault("Providers")
@pytest.mark.parametrize(
    ("fault", "kind", "status"),
    [
        ((500, {}), ProviderError, 502),
        ((429, {}), ProviderBusy, 503),
        (wrong.reset, ProviderError, 502),
        (wrong.cut_off, ProviderError, 502),
    ],
)
def test_it_gives_up_after_two_retries(remote, provider, fault, kind, status):
    """A provider answers 429, 5xx or not at all, three times -> an error after two retries, within
    the deadline.
    """
    provider.always = fault
    error = failure(remote(), kind)
    assert error.status == status
    assert len(provider.seen) == 3


def test_retries_are_at_most_a_tenth_of_the_calls_and_a_few(remote, provider, monkeypatch):
    monkeypatch.setattr(retry, "REFILL_PER_S", 0)
    monkeypatch.setattr(retry, "BACKOFF_S", (0, 0))
    embedder = remote()
    embedder.host.breaker._limit = 10**6  # so that it is the budget which spares the host
    provider.always = (500, {})
    for _ in range(100):
        assert failure(embedder).status == 502
    assert 100 + 15 <= len(provider.seen) <= 100 + 20, "300 without the budget"
    provider.script += [(500, {})]
    provider.always = "good"
    for _ in range(11):
        try:
            run(embedder)
        except ProviderError:
            continue
    provider.script += [(500, {})]
    run(embedder)  # ten calls have earned it


def test_a_quiet_service_has_its_retries_back_after_a_while(monkeypatch):
    budget = retry.RetryBudget()
    assert [budget.spend() for _ in range(12)] == [True] * 10 + [False] * 2
    monkeypatch.setattr(retry, "REFILL_PER_S", 1e9)
    assert budget.spend()


def number(name, **labels):
    """The value of one series now."""
    for line in metrics.exposition().decode().splitlines():
        series, _, value = line.rpartition(" ")
        found = dict(re.findall(r'(\w+)="([^"]*)"', series))
        if series.partition("{")[0] == f"embedding_{name}" and found == labels:
            return float(value)
    return 0.0


def test_every_call_is_counted_with_what_came_of_it_and_timed(remote, provider):
    outcomes = ("ok", "provider_error", "provider_busy", "bad_request", "provider_timeout")

    def counts():
        calls = [number("provider_calls_total", provider="openai", outcome=o) for o in outcomes]
        return [*calls, number("provider_seconds_count", provider="openai")]

    before = counts()
    embedder = remote()
    provider.script += [(500, {}), (429, {})]
    run(embedder)
    provider.script += [(400, {})]
    failure(embedder, BadRequest)
    provider.always = wrong.drip_body
    failure(embedder, ProviderTimeout, deadline_s=1)
    assert [b - a for a, b in zip(before, counts(), strict=True)] == [1, 1, 1, 1, 1, 5]


@pytest.mark.parametrize(
    ("status", "kind"), [(400, BadRequest), (401, ModelUnavailable), (404, ProviderError)]
)
def test_a_refusal_is_not_repeated(remote, provider, status, kind):
    provider.always = (status, {})
    failure(remote(), kind)
    assert len(provider.seen) == 1


@pytest.mark.fault("Providers")
def test_the_breaker_opens_lets_one_through_and_closes(remote, provider, monkeypatch):
    """A provider keeps failing -> its circuit breaker opens, lets one call through and closes on
    success.
    """
    embedder = remote()
    provider.always = (500, {})
    failure(embedder)
    failure(embedder)
    assert embedder.host.breaker.state == "open"
    calls = len(provider.seen)
    assert failure(embedder, ProviderBusy).retry_after_s >= 1
    assert len(provider.seen) == calls
    monkeypatch.setattr(embedder.host.breaker, "_until", time.monotonic())  # the pause is over
    assert embedder.host.breaker.state == "half-open"
    provider.always = "good"
    run(embedder)
    assert embedder.host.breaker.state == "closed"


def test_of_many_calls_at_once_a_half_open_breaker_lets_one_through():
    breaker = CircuitBreaker("host", failures=1, pauses=(0.0,))
    breaker.failed(TimeoutError())
    assert breaker.state == "half-open"
    gate, outcomes = threading.Barrier(10), []

    def call():
        gate.wait()
        outcomes.append(breaker.allow())

    threads = [threading.Thread(target=call) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(True) == 1


def test_a_deadline_that_passed_before_anything_was_sent_is_not_the_hosts_fault(remote, provider):
    embedder = remote()
    for _ in range(2 * retry.FAILURES):
        failure(embedder, ProviderTimeout, deadline_s=-1)
    assert provider.seen == []
    assert embedder.host.breaker.state == "closed"


def test_a_connection_that_is_not_taken_in_time_is_tried_again(remote, provider, monkeypatch):
    tries = []

    def post(*args, **kwargs):
        tries.append(args)
        raise requests.ConnectTimeout

    embedder = remote()
    monkeypatch.setattr(embedder._providers.client._session, "post", post)
    error = failure(embedder, ProviderError)
    assert "the connection to 127.0.0.1 took over 10 s" in error.message
    assert len(tries) == 3


# -- it never ends -------------------------------------------------------------------------


@pytest.mark.fault("Providers")
@pytest.mark.parametrize("fault", [wrong.drip_body, wrong.drip_headers])
def test_the_deadline_holds_against_a_drip(remote, provider, fault):
    """A provider replies a byte at a time -> cut off at the deadline."""
    provider.always = fault
    started = time.monotonic()
    failure(remote(), ProviderTimeout, deadline_s=0.6)
    assert time.monotonic() - started < 5  # it drips for ten


def test_the_deadline_holds_against_a_host_that_says_nothing_in_tls(remote, provider):
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        embedder = remote(base_url=f"https://127.0.0.1:{mute.getsockname()[1]}")
        started = time.monotonic()
        failure(embedder, ProviderError, deadline_s=0.6)
        assert time.monotonic() - started < 5  # it would be ten for a try


@pytest.mark.fault("Providers")
@pytest.mark.parametrize("fault", [wrong.huge, wrong.endless])
def test_a_huge_reply_is_not_read(remote, provider, fault):
    """A provider's reply has no end -> cut off at `PROVIDER_MAX_REPLY_BYTES`."""
    provider.always = fault
    started = time.monotonic()
    embedder = remote(settings={"provider_max_reply_bytes": 4 * 1024 * 1024})
    assert "larger than" in failure(embedder, ProviderError).message
    assert time.monotonic() - started < 8
    assert len(provider.seen) == 1


# -- it asks to wait -----------------------------------------------------------------------


def test_a_wait_within_the_deadline_is_kept(remote, provider):
    provider.script.append((429, {"Retry-After": "1"}))
    started = time.monotonic()
    run(remote())
    assert time.monotonic() - started >= 1


@pytest.mark.fault("Providers")
@pytest.mark.parametrize(("asked", "told"), [("3600", 120), ("30", 30)])
def test_a_longer_one_is_passed_on_and_not_slept(remote, provider, asked, told):
    """`Retry-After: 3600` -> not waited for; passed on, at most 120 s."""
    provider.always = (429, {"Retry-After": asked})
    started = time.monotonic()
    assert failure(remote(), ProviderBusy).retry_after_s == told
    assert time.monotonic() - started < 20  # the least that was asked is 30
    assert len(provider.seen) == 1


# -- it answers nonsense -------------------------------------------------------------------


@pytest.mark.fault("Providers")
@pytest.mark.parametrize(
    "fault",
    [
        wrong.fewer, wrong.more, wrong.same_index, wrong.narrower, wrong.not_a_number,
        wrong.words, wrong.nothing, wrong.html, wrong.half_json, wrong.other_width,
        wrong.nan_in_base64,
        lambda h, b: h.reply(b"null"), lambda h, b: h.reply(b'{"data": {"x": 1}}'),
        lambda h, b: h.reply(b"[" * 100_000),
        lambda h, b: h.reply(b"{}", headers={"Content-Encoding": "gzip"}),
    ],
)  # fmt: skip
def test_nonsense_is_a_502_and_not_repeated(remote, provider, fault):
    """A provider replies with a wrong count or length, NaN, or HTML -> 502, not repeated."""
    embedder = remote(dimensions=8)
    provider.always = fault
    error = failure(embedder, ProviderError)
    assert error.status == 502
    assert error.permanent
    assert len(provider.seen) == 1


@pytest.mark.parametrize("kind", ["cohere", "huggingface"])
@pytest.mark.parametrize(
    "fault",
    [
        wrong.html, wrong.half_json,
        wrong.other_rows(lambda rows: rows.pop()),
        wrong.other_rows(lambda rows: rows.append(rows[0])),
        wrong.other_rows(lambda rows: rows[-1].pop()),
        wrong.other_rows(lambda rows: [row.append(1.0) for row in rows]),
        wrong.other_rows(lambda rows: rows[0].__setitem__(0, 1e39)),
        wrong.other_rows(lambda rows: rows[0].__setitem__(0, "x")),
        lambda h, b: h.reply(b"null"), lambda h, b: h.reply(b'{"embeddings": 7}'),
    ],
)  # fmt: skip
def test_nonsense_of_the_others_is_a_502_too(remote, provider, kind, fault):
    embedder = remote(kind)
    run(embedder)  # their models' width is known by the first reply
    provider.always = fault
    error = failure(embedder, ProviderError)
    assert error.status == 502
    assert error.permanent


@pytest.mark.fault("Providers")
def test_rows_out_of_order_are_put_in_order(remote, provider):
    """A provider replies out of order -> the vectors are put in order."""
    embedder = remote()
    right = run(embedder).vectors
    provider.script.append(wrong.shuffled)
    assert (run(embedder).vectors == right).all()


# -- there is no key -----------------------------------------------------------------------


@pytest.mark.fault("Providers")
def test_a_missing_key_is_told_and_one_that_comes_works_at_once(provider):
    """A provider's key is missing -> 503 that names the key to set."""
    keys: dict[str, str] = {}
    config = loopback()
    spec = ModelSpec(
        id="o", type="openai", model_name="m", base_url=f"{provider.url}/v1", provider="openai"
    )
    providers = Providers(config, keys.get)
    embedder = build(spec, config, providers)
    told = "no key for openai: set OPENAI_API_KEY or POST /providers/openai/api-key"
    assert embedder.not_ready_reason() == told
    assert failure(embedder, ModelUnavailable).message == told
    keys["openai"] = KEY
    run(embedder)
    keys["openai"] = f"{KEY}\r\nX-Evil: 1"
    assert "characters" in failure(embedder, ModelUnavailable).message
    assert len(provider.seen) == 1
    providers.close()


# -- it is somewhere it should not be ------------------------------------------------------


@pytest.mark.fault("Providers")
@pytest.mark.parametrize(
    "url",
    [
        "https://169.254.169.254/latest", "https://localhost/v1", "https://10.0.0.1", "https://[::1]",
        "http://api.openai.com/v1", "https://[::ffff:127.0.0.1]/", "file:///etc/passwd",
        "https://user:pw@api.openai.com/",
    ],
)  # fmt: skip
def test_a_private_address_is_refused_when_it_is_set(url):
    """A provider's address is private -> refused when it is set."""
    config = loopback(provider_networks=(), provider_http_hosts=())
    spec = ModelSpec(id="o", type="openai", model_name="m", base_url=url)
    with pytest.raises(ModelUnavailable) as caught:
        build(spec, config)
    assert "pw" not in caught.value.message


@pytest.mark.fault("Providers")
def test_a_name_that_comes_to_mean_a_private_address_is_refused(remote, provider, monkeypatch):
    """A provider's name changes to a private address -> refused when it is called.

    Rebinding: the name is checked when it is connected to, and what was checked is used.
    """
    port = provider.server_port
    embedder = remote(
        base_url=f"http://rebound.example:{port}/v1",
        settings={"provider_http_hosts": "rebound.example", "provider_networks": ()},
    )
    asked = []

    def resolve(host, *rest):
        asked.append(host)
        family = socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(http_client.socket, "getaddrinfo", resolve)
    assert "private address" in failure(embedder, ProviderError).message
    assert asked == ["rebound.example"]
    assert not provider.seen


@pytest.mark.fault("Providers")
def test_a_redirect_is_not_followed(remote, provider):
    """A provider redirects -> not followed."""
    provider.always = (307, {"Location": f"{provider.url}/secret"})
    assert "redirect" in failure(remote(), ProviderError).message
    assert [path for path, _, _ in provider.seen] == ["/v1/embeddings"]
