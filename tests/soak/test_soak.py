"""All that `make soak` does, in two minutes."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.servers.fixtures import need
from tests.servers.redis import Redis
from tests.soak.__main__ import Sample, growth, too_much

MINUTES = os.environ.get("SOAK_MINUTES", "1.5")


@pytest.mark.fault("Process and machine")
@pytest.mark.long
def test_nothing_grows_and_nothing_is_wrong_while_things_break() -> None:
    """Hours of load while things break -> nothing grows by more than 2 %, see below."""
    need(Redis)
    command = [sys.executable, "-m", "tests.soak", "--minutes", MINUTES]
    limit = float(MINUTES) * 60 + 240
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 wrong" in done.stdout and "'workers killed': 2" in done.stdout


def test_growth_would_be_seen() -> None:
    """The control."""
    samples = [Sample(100 + i, 20 + i // 3, 30 + i // 5, 5) for i in range(30)]
    grown = ["memory_mb", "files", "threads"]
    assert [problem.split()[0] for problem in too_much(growth(samples))] == grown
    steady = [Sample(100, 38 + i // 10, 28 + i // 15, 5) for i in range(30)]
    assert too_much(growth(steady)) == []
