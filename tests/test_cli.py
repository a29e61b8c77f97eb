"""`python cli.py`, which joins the command lines."""

import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from cli import app
from tests.store.faults import ROOT, opened


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "cli.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_it_runs_both(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as store:
        store.create("docs", 8)
    listed = cli("store", "--dir", str(tmp_path / "store"), "list")
    assert listed.returncode == 0 and "docs" in listed.stdout, listed.stderr
    (tmp_path / "texts.txt").write_text("a text\n")
    nowhere = cli("embed", "--url", "nowhere", str(tmp_path / "texts.txt"), "out.npy")
    assert nowhere.returncode == 1 and "nowhere" in nowhere.stderr
    for words in (["embed"], ["store"], ["nope"]):
        assert CliRunner().invoke(app, words).exit_code == 2
