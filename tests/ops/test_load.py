"""The load tests that users run: locust's is run small, k6's is parsed."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.ops.conftest import Watched


def test_locusts_load_is_served_without_a_failure(watched: Watched, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "locust", "-f", str(ROOT / "locustfile.py"), "--headless",
         "-u", "4", "-r", "4", "-t", "4s", "-H", f"http://127.0.0.1:{watched.port}",
         "--csv", str(tmp_path / "load")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {
        row["Name"]: row
        for row in csv.DictReader((tmp_path / "load_stats.csv").read_text().splitlines())
    }
    assert int(rows["single"]["Request Count"]) > int(rows["batch"]["Request Count"]) > 0
    assert rows["Aggregated"]["Failure Count"] == "0"


def test_k6s_script_can_be_parsed(tmp_path: Path) -> None:
    script = tmp_path / "k6_test.mjs"  # as a module, which it is
    shutil.copy(ROOT / "k6_test.js", script)
    done = subprocess.run(["node", "--check", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
