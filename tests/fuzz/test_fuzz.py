"""Coverage-guided fuzzing of all that reads what strangers send or what may have been damaged.

The three targets run side by side, a minute in all; `FUZZ_SECONDS=3600` is the long form. Atheris
has wheels for Python 3.11 to 3.13 on x86-64 Linux only.
"""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

SECONDS = int(os.environ.get("FUZZ_SECONDS", "60"))
TARGETS = ("requests", "credentials", "values")
# How many inputs each must have tried at least; alone it is 5 000 and more a second.
LEAST = 1000
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        importlib.util.find_spec("atheris") is None,
        reason=f"atheris has no wheel for Python {sys.version_info[0]}.{sys.version_info[1]} here",
    ),
]


def start(target: str, folder: Path, *flags: str) -> subprocess.Popen[str]:
    log = (folder / "log").open("w")
    command = [sys.executable, "-m", "tests.fuzz.run", target, str(folder), *flags]
    with log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, text=True)


def ended(process: subprocess.Popen[str], folder: Path, limit_s: float) -> tuple[int, str]:
    try:
        process.wait(limit_s)
    finally:
        process.kill()
        process.wait()
    return process.returncode, (folder / "log").read_text(errors="replace")


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[int, str]]]:
    """How each target ended, and what it printed."""
    folders = {target: tmp_path_factory.mktemp(target) for target in TARGETS}
    flags = [f"-max_total_time={SECONDS}", "-seed=1", "-max_len=4096"]
    running = {target: start(target, folder, *flags) for target, folder in folders.items()}
    limit_s = SECONDS + 120
    yield {target: ended(running[target], folders[target], limit_s) for target in TARGETS}


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_found(target: str, fuzzed: dict[str, tuple[int, str]]) -> None:
    code, log = fuzzed[target]
    assert code == 0, log[-6000:]
    done = re.search(r"Done (\d+) runs", log)
    assert done and int(done[1]) >= LEAST, log[-2000:]
    first, last = (int(each) for each in (covered(log)[0], covered(log)[-1]))
    assert last > first, f"coverage stayed at {first}: it is not guided"


def covered(log: str) -> list[str]:
    """Return the coverage at each of the fuzzer's reports."""
    return re.findall(r"cov: (\d+)", log)


def test_a_planted_fault_is_found(tmp_path: Path) -> None:
    """The control: four bytes deep, with the input printed."""
    process = start("planted", tmp_path, "-max_total_time=300", "-seed=1")
    code, log = ended(process, tmp_path, 420)
    assert code != 0 and "unpack requires a buffer" in log, log[-2000:]
    assert re.search(r"FOUND b'\\xe5z\\x13\\x99", log), log[-2000:]
