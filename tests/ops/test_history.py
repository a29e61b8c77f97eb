"""The last hour of the metrics: one reading for all workers, which outlives each of them."""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError

import pytest
import yaml
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from config import Config
from factory import create_app
from observability import history, metrics, timeline
from observability.history import History
from tests.accounts.conftest import ADMIN, SECRET, bearer, token_of
from tests.conftest import write_models
from tests.faults.conftest import NO_REPLY, starting, until
from tests.ops.conftest import Watched

EVERY_S = history.EVERY_S


def shown(watched: Watched, query: str = "") -> dict:
    return json.loads(watched.get(f"/metrics/history{query}")[0])


def counted(reply: dict, name: str, after: float) -> float:
    """What a column of rates adds up to over the readings after a moment."""
    times, column = reply["times"], reply["columns"][name]
    spans = [b - a for a, b in zip(times, times[1:], strict=False)]
    later = zip(times[1:], spans, column[1:], strict=True)
    return sum(span * (rate or 0.0) for at, span, rate in later if at > after)


def worked(watched: Watched) -> tuple[float, dict]:
    """Ask for 30 times two texts, and wrongly once; return when, and the hour that has it all.

    It is done again where this machine stood still meanwhile, which makes a gap.
    """
    for _ in range(5):
        until(lambda: len(shown(watched)["times"]) >= 2)
        before = shown(watched)["times"][-1]
        for _ in range(30):
            watched.embed(["a b", "c"])
            watched.get("/health/live")
        assert watched.send("POST", "/embed", {"texts": 3}) == 422
        done = time.time()
        until(lambda now=done: shown(watched)["times"][-1] > now)
        reply = shown(watched)
        later = zip(reply["times"], reply["columns"]["requests"], strict=True)
        if None not in [rate for at, rate in later if at > before]:
            return before, reply
    raise AssertionError("this machine stands still too often")


def test_every_worker_tells_the_same_hour_and_it_is_what_was_counted(watched: Watched) -> None:
    before, reply = worked(watched)
    assert counted(reply, "requests", before) == pytest.approx(31, abs=0.2)
    assert counted(reply, "client_errors", before) == pytest.approx(1, abs=0.1)
    assert counted(reply, "texts", before) == pytest.approx(60, abs=0.4)
    assert counted(reply, "tokens", before) == pytest.approx(90, abs=0.6)
    assert reply["models"] == ["fake"]
    for name in ("memory", "p50", "p95", "p99", "wait_p99", "fill"):
        assert max(filter(None, reply["columns"][name])) > 0, name
    for p50, p99 in zip(reply["columns"]["p50"], reply["columns"]["p99"], strict=True):
        assert p50 is None or 0 < p50 <= p99
    for _ in range(8):  # of any worker
        other = shown(watched)
        assert other["times"][: len(reply["times"])] == reply["times"]
        assert other["columns"]["texts"][: len(reply["times"])] == reply["columns"]["texts"]
    mine = shown(watched, "?model=fake&lane=interactive")
    assert counted(mine, "requests", before) == pytest.approx(30, abs=0.2)
    assert mine["columns"]["queue_bulk"] == [None] * len(mine["times"])
    with pytest.raises(HTTPError, match="400"):
        shown(watched, "?model=other")
    assert counted(shown(watched, "?model=fake&lane=bulk"), "requests", before) == 0
    later = shown(watched, f"?since={before}")["times"]
    assert later and min(later) > before


def test_the_hour_outlives_the_workers(tmp_path: Path) -> None:
    """A worker is killed, and then all are replaced: the readings go on where they were."""
    models = {"fake": {"type": "fake", "model_name": "tests/fake"}}
    with starting(write_models(tmp_path / "m.json", models)) as begin:
        service = begin("-w", "2")

        def times() -> list[float]:
            found: list[float] = []
            with contextlib.suppress(*NO_REPLY):  # the worker that was asked is killed
                found = json.loads(service.ask("/metrics/history")[2])["times"]
            return found

        until(lambda: len(times()) >= 2)
        known = times()
        for how, pids in ((signal.SIGKILL, service.workers()[:1]), (signal.SIGHUP, [])):
            old = set(service.workers())
            for pid in pids:
                os.kill(pid, how)
            if not pids:
                service.signal(how)
            until(lambda old=old, pids=pids: not set(pids or old) & set(service.workers()))
            until(lambda known=known: len(times()) > len(known))
            assert times()[: len(known)] == known
            known = times()


# ---- in process: workers that count in files, and a clock that is set


class Clock:
    """What the time is said to be."""

    now = 1_800_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(history, "time", clock)
    return clock


class Counting:
    """The files of a worker's counters, as the worker writes them."""

    def __init__(self, folder: Path, slot: int) -> None:
        self._counters = MmapedDict(str(folder / f"counter_{slot}.db"))
        self._histograms = MmapedDict(str(folder / f"histogram_{slot}.db"))

    def texts(self, model: str, more: float) -> None:
        labels = (["model"], [model])
        key = mmap_key("embedding_texts", "embedding_texts_total", *labels, "Inputs.")
        self._counters.write_value(key, self._counters.read_value(key)[0] + more, 0.0)

    def answered(self, seconds: float, times: int = 1, route: str = "/embed") -> None:
        name = "embedding_request_seconds"
        bound = next(b for b in (*metrics.SECONDS, float("inf")) if seconds <= b)
        names, values = ["route", "status"], [route, "2xx"]
        for each in (*metrics.SECONDS, float("inf")):
            label = "+Inf" if each == float("inf") else str(float(each))
            key = mmap_key(name, f"{name}_bucket", [*names, "le"], [*values, label], "Time.")
            before = self._histograms.read_value(key)[0]
            self._histograms.write_value(key, before + times * (each == bound), 0.0)
        key = mmap_key(name, f"{name}_sum", names, values, "Time.")
        before = self._histograms.read_value(key)[0]
        self._histograms.write_value(key, before + times * seconds, 0.0)

    def close(self) -> None:
        self._counters.close()
        self._histograms.close()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[Counting]]:
    both = [Counting(tmp_path, slot) for slot in (0, 1)]
    yield both
    for each in both:
        each.close()


def kept(folder: Path) -> History:
    return History(folder, lambda route: route != "/health")


def after(kept: History, clock: Clock, seconds: float = EVERY_S) -> None:
    """Let the time pass until the next reading."""
    clock.now += seconds
    kept.record()


def end(kept: History) -> None:
    """Let go of the lock, as the end of a process does."""
    assert kept._held is not None
    os.close(kept._held)


def column(kept: History, name: str) -> list[float | None]:
    return [row.get(name) for row in timeline.rows_of(kept.readings())[1]]


def test_who_takes_over_from_a_dead_worker_loses_nothing(
    tmp_path: Path, workers: list[Counting], clock: Clock
) -> None:
    first, second, other = kept(tmp_path), kept(tmp_path), kept(tmp_path)
    workers[0].texts("m", 5)
    first.record()
    workers[1].texts("m", 10)
    second.record()  # the first one does it
    after(first, clock)
    workers[0].texts("m", 20)
    end(first)
    with (tmp_path / "history.rows").open("ab") as rows:
        rows.write(b'{"at":1800000009.0,"counted":{"embedding_te')  # it was killed meanwhile
    assert len(other.readings()) == 2
    after(second, clock)
    assert column(second, "texts") == column(other, "texts") == [None, 2.0, 4.0]
    end(second)


def test_a_time_in_which_nobody_measured_is_empty(
    tmp_path: Path, workers: list[Counting], clock: Clock
) -> None:
    one = kept(tmp_path)
    one.record()
    workers[0].texts("m", 5)
    after(one, clock)
    workers[0].texts("m", 5000)
    after(one, clock, 90)
    workers[0].texts("m", 10)
    after(one, clock)
    assert column(one, "texts") == [None, 1.0, None, None, 2.0]
    assert column(one, "memory")[2] is None
    times, _ = timeline.rows_of(one.readings())
    assert [round(t - times[0]) for t in times] == [0, 5, 90, 95, 100]
    clock.now += 3600
    assert one.readings() == []
    end(one)


def test_a_quantile_is_of_the_differences_of_all_workers(
    tmp_path: Path, workers: list[Counting], clock: Clock
) -> None:
    """The mean of two workers' p99 would be 1 s, and the quantile since the start 2 ms."""
    one = kept(tmp_path)
    workers[0].answered(0.002, 10_000)
    one.record()
    workers[0].answered(0.02, 50)
    workers[1].answered(2.0, 50)
    workers[1].answered(0.002, 10_000, route="/health")
    after(one, clock)
    after(one, clock)
    assert column(one, "requests") == [None, 20.0, 0.0]
    p50, p99 = column(one, "p50")[1], column(one, "p99")[1]
    assert p50 == pytest.approx(0.025) and p99 is not None and 2.4 < p99 < 2.5
    assert column(one, "p99")[2] is None  # nothing was answered
    end(one)


def test_quantiles_are_those_of_prometheus(tmp_path: Path) -> None:
    dice, tests = random.Random(5), []
    for case in range(20):
        counts = [dice.choice((0, 0, 1, 7, 300)) for _ in range(len(metrics.SECONDS) + 1)]
        counts[dice.randrange(len(counts))] += 1
        buckets = [float(sum(counts[: i + 1])) for i in range(len(counts))]
        bounds = [*map(str, map(float, metrics.SECONDS)), "+Inf"]
        series = [{"series": f'h_bucket{{le="{bound}"}}', "values": str(upto)}
                  for bound, upto in zip(bounds, buckets, strict=True)]  # fmt: skip
        asked = []
        for share in (0.5, 0.95, 0.99):
            theirs, ours = (
                f"histogram_quantile({share}, h_bucket)",
                timeline.quantile(share, buckets),
            )
            expr = f"abs({theirs} - {ours}) < bool 1e-9"
            yes = [{"labels": "{}", "value": 1}]
            asked.append({"expr": expr, "eval_time": "0m", "exp_samples": yes})
        tests.append({"name": f"{case}", "input_series": series, "promql_expr_test": asked})
    file = tmp_path / "quantiles.yml"
    file.write_text(yaml.safe_dump({"tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    file.write_text(file.read_text().replace("(0.99,", "(0.98,"))  # the control
    assert subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True).returncode


def test_a_reading_that_fails_is_logged_once_and_the_next_goes_on(
    tmp_path: Path, workers: list[Counting], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """The rows' file cannot be opened for a while: a folder is in its place."""
    monkeypatch.setattr(history, "EVERY_S", 0.05)
    one = kept(tmp_path)
    (tmp_path / "history.rows").mkdir()
    stop = history.follow(one)
    until(lambda: len(caplog.messages) == 1)
    until(lambda: one._held is not None)
    (tmp_path / "history.rows").rmdir()
    until(lambda: len(one.readings()) >= 3)
    stop.set()
    assert len([m for m in caplog.messages if "has a gap" in m]) == 1
    end(one)


def test_the_file_stays_small_and_the_hour_whole(
    tmp_path: Path, workers: list[Counting], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "ROWS", 10)
    one, other = kept(tmp_path), kept(tmp_path)
    lines = []
    for n in range(60):
        workers[n % 2].texts("m", 5.0 * n)
        after(one, clock)
        lines.append((tmp_path / "history.rows").read_bytes().count(b"\n"))
        if n % 7 == 0:
            assert column(other, "texts") == column(one, "texts")
    assert max(lines) <= 21 and min(lines[20:]) >= 10
    assert column(kept(tmp_path), "texts") == [float(n) for n in range(50, 60)]
    monkeypatch.setattr(history, "MOST_BYTES", 1000)
    for _ in range(20):
        workers[0].texts("m", 5)
        after(one, clock)
        assert (tmp_path / "history.rows").stat().st_size < 3000
    end(one)


def test_only_who_may_see_the_metrics_sees_their_history(
    config_of: Callable[..., Config],
) -> None:
    config = config_of(auth_enabled=True, jwt_secret_key=SECRET, admin_password=ADMIN[1])
    client = create_app(config, wait=True).test_client()
    assert client.get("/metrics/history").status_code == 401
    admin = bearer(token_of(client, *ADMIN))
    assert client.get("/metrics/history", headers=admin).json["times"] == []  # none keeps it here
    for wrong, status in (("lane=fast", 422), ("since=nan", 422), ("since=-inf", 422),
                          ("model=nope", 400), ("model=", 400), ("model=fake", 200)):  # fmt: skip
        reply = client.get(f"/metrics/history?{wrong}", headers=admin)
        assert reply.status_code == status, wrong
        assert status == 200 or reply.json["param"] == wrong.partition("=")[0]
