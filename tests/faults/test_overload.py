"""Twice as much as the service can do, from callers who do not wait for each other."""

import json
import os
import subprocess
import sys

import pytest

from bench.overload import Answer, Report, judge
from rate_limits import Permits
from tests.conftest import ROOT

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
# `make overload` is the full form. Here for a few seconds, beside whatever else this machine does:
# before requests were refused, /health took 1,200 ms under the same load.
SECONDS = os.environ.get("OVERLOAD_SECONDS", "8")
LIMIT_MS = os.environ.get("OVERLOAD_LIMIT_MS", "800")


@pytest.mark.fault("Overload")
@pytest.mark.long
def test_twice_the_capacity_is_borne(serve) -> None:
    """Twice the capacity is offered -> refusals are 429 and counted; no accepted one is lost."""
    # So few threads that a slow machine too has work for all of them within the seconds.
    url = serve(
        SUPPORTED_MODELS=MODEL, DEVICE="cpu", CACHE="none", LOG_LEVEL="WARNING", THREADS="40"
    )
    done = subprocess.run(
        [sys.executable, "-m", "bench.overload", "--port", url.rpartition(":")[2],
         "--seconds", SECONDS, "--limit-ms", LIMIT_MS],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    statuses = json.loads(done.stdout)["statuses"]
    assert statuses["200"] > 10 and statuses["429"] > 10


def test_what_must_not_happen_would_be_seen() -> None:
    """The control: each kind of failure is one line."""
    answers = [Answer(0, 0, 1.0), Answer(0, 429, 90.0), Answer(0, 500, 1.0)]
    report = judge(1, 2, answers, [Answer(0, 503, 99.0)], [0.0], [])
    assert len(report.problems(50)) == 7
    assert not Report(statuses={"200": 1, "429": 1}).problems(50)


@pytest.mark.parametrize(("threads", "most"), [(2, 1), (4, 3), (16, 14), (128, 112)])
def test_some_threads_are_kept_for_saying_no(threads: int, most: int) -> None:
    assert Permits(threads).most == most
