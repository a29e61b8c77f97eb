"""The load tests that users run: locust's is run small, k6's is parsed."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.ops.conftest import Watched
from tests.ops.test_metrics import value


def locust(watched: Watched, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "locust", "-f", str(ROOT / "bench/locustfile.py"), "--headless",
         "-H", f"http://127.0.0.1:{watched.port}", "--csv", str(folder / "load")],
        capture_output=True, text=True, timeout=90,
        env={**os.environ, "DURATION_S": "4", "PEAK_USERS": "4", "P95_SINGLE_MS": "60000",
             "P95_BATCH_MS": "60000", **env},
    )  # fmt: skip


def texts_embedded(watched: Watched) -> float:
    return value(watched.get("/metrics")[0].decode(), 'embedding_texts_total{model="fake"}')


def test_locusts_load_is_served_without_a_failure_and_every_text_is_new(
    watched: Watched, tmp_path: Path
) -> None:
    before = texts_embedded(watched)
    done = locust(watched, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {
        row["Name"]: row
        for row in csv.DictReader((tmp_path / "load_stats.csv").read_text().splitlines())
    }
    assert int(rows["single"]["Request Count"]) > int(rows["batch"]["Request Count"]) > 0
    assert rows["Aggregated"]["Failure Count"] == "0"
    if watched.workers == 1:
        assert texts_embedded(watched) > before
        slow = locust(watched, tmp_path, P95_SINGLE_MS="0.001")
        assert slow.returncode == 1 and "FAILED: 95 % of single" in slow.stdout


def test_the_load_tests_send_no_text_twice() -> None:
    """A cache would answer it. The sources are read: locust would patch this process."""
    for file, marks in {
        "bench/locustfile.py": ("{self.mark}", "next(self.numbers)", "uuid.uuid4()"),
        "k6_test.js": ("${__VU}", "${__ITER}", "${run}", "Date.now()"),
    }.items():
        text = (ROOT / file).read_text()
        assert all(mark in text for mark in marks), file


def test_k6s_script_can_be_parsed(tmp_path: Path) -> None:
    script = tmp_path / "k6_test.mjs"  # as a module, which it is
    shutil.copy(ROOT / "k6_test.js", script)
    done = subprocess.run(["node", "--check", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
