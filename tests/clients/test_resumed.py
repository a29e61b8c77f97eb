"""A run that was killed, anywhere, comes to what one comes to that was not."""

import json
import os
import random
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.clients.command import embed
from tests.clients.gate import REFUSED, Gate
from tests.clients.test_clients import command
from tests.faults.conftest import until

SMALL = ("--batch", "7", "--parallel", "2", "--on-error", "skip")


class Killed(BaseException):
    """Stands for the kill of a run within this process."""


def written(folder: Path, seed: int) -> Path:
    """Write rows with equal ids, lines that are none, and rows that the service refuses."""
    chosen = random.Random(seed)
    lines = []
    for i in range(70):
        row: dict[str, Any] = {"text": f"{i} of {seed}", "id": f"r{chosen.randrange(50)}"}
        if chosen.random() < 0.1:
            row["text"] += REFUSED
        lines.append("no JSON" if chosen.random() < 0.1 else json.dumps(row))
    source = folder / "rows.jsonl"
    source.write_text("\n".join(lines))
    return source


def stored(url: str, name: str) -> list[dict[str, Any]]:
    """Return all that a collection holds, by id."""
    body = {"limit": 1000, "include": ["text", "metadata"]}
    reply = requests.post(f"{url}/collections/{name}/vectors/scroll", json=body, timeout=60)
    requests.delete(f"{url}/collections/{name}", timeout=60)
    return reply.json()["vectors"]


def result(url: str, source: Path, name: str) -> tuple[object, str]:
    """Return what a finished run has made, and what it left out; nothing else may be left."""
    rejects = source.with_name(f"{name}.rejects.jsonl")
    left_out = rejects.read_text()
    rejects.unlink()
    made: object
    if name.startswith("rows"):
        made = stored(url, name.rpartition(".")[2])
    else:
        made = source.with_name(name).read_text()
        source.with_name(name).unlink()
    assert list(source.parent.iterdir()) == [source]
    return made, left_out


MODES = [("out.jsonl", ["out.jsonl"]), ("rows.jsonl.again", ["--store", "again"])]


@pytest.mark.fault("Files")
@pytest.mark.parametrize(("name", "words"), MODES)
def test_a_run_killed_again_and_again_comes_to_the_same(
    fake_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: list[str]
) -> None:
    """The run is killed, again and again -> the same command continues each time, and ends as a run
    without a kill does, with the same rows skipped.
    """
    monkeypatch.chdir(tmp_path)
    source = written(tmp_path, 1)
    with Gate(fake_url) as gate:
        assert embed(gate.url, source, *words, *SMALL).code == 3
        wanted = result(fake_url, source, name)
        for after in random.Random(2).sample(range(2, 7), 2):
            gate.hold_after(after)
            process = subprocess.Popen(
                command(gate.url, source, *words, *SMALL), stderr=subprocess.DEVNULL
            )
            until(lambda: gate.held or process.poll() is not None)  # noqa: B023
            process.kill()
            assert process.wait() == -signal.SIGKILL
            gate.open()
        assert embed(gate.url, source, *words, *SMALL).code == 3
    assert result(fake_url, source, name) == wanted


@pytest.mark.parametrize(("name", "words"), MODES)
def test_whatever_step_it_is_stopped_at_nothing_is_lost(
    fake_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = written(tmp_path, 3)
    words = [*words, "--batch", "25", "--on-error", "skip"]
    with Gate(fake_url) as gate:
        assert embed(gate.url, source, *words).code == 3
        wanted = result(fake_url, source, name)
        steps = steps_until_done(monkeypatch, lambda: embed(gate.url, source, *words).code)
    assert steps > 3
    assert result(fake_url, source, name) == wanted


def steps_until_done(monkeypatch: pytest.MonkeyPatch, run: Callable[[], int]) -> int:
    """Run again and again, each run stopped before its second write to disk; return how many."""
    sync = os.fsync
    left = 0

    def stopping(descriptor: int) -> None:
        nonlocal left
        if not left:
            raise Killed
        left -= 1
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", stopping)
    for attempt in range(1000):
        left = 1 + attempt // 100  # one write a run, or it would end where several are one step
        try:
            assert run() == 3
        except Killed:
            continue
        return attempt
    raise AssertionError("it does not come to its end")


def test_a_run_with_equal_ids_goes_on_with_the_rest_only(fake_url: str, tmp_path: Path) -> None:
    rows = [
        {"id": f"r{i % 90}", "text": f"text {i}"} for i in range(100)
    ]  # the first 10 are dropped
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = (source, "--store", "equal", "--batch", "10", "--parallel", "1")
    try:
        with Gate(fake_url) as gate:
            gate.hold_after(4)
            process = subprocess.Popen(command(gate.url, *words), stderr=subprocess.DEVNULL)
            gate.until_held(1)
            part = tmp_path / "rows.jsonl.equal.part.json"
            until(lambda: part.exists() and json.loads(part.read_text())["done"] >= 30)
            process.kill()
            process.wait()
            done = json.loads(part.read_text())["done"]
            gate.open()
            before = gate.come
            assert embed(gate.url, *words).code == 0
            assert gate.come - before == (90 - done) // 10
        texts = {record["id"]: record["text"] for record in stored(fake_url, "equal")}
        assert len(texts) == 90 and texts["r3"] == "text 93" and texts["r50"] == "text 50"
    finally:
        requests.delete(f"{fake_url}/collections/equal", timeout=60)


def test_a_file_that_changes_meanwhile_is_told(fake_url: str, tmp_path: Path) -> None:
    source, out = tmp_path / "texts.txt", tmp_path / "out.jsonl"
    source.write_text("".join(f"text {i}\n" for i in range(50)))
    with Gate(fake_url) as gate, ThreadPoolExecutor(1) as pool:
        gate.hold_after(0)
        under_way = pool.submit(embed_in_a_process, gate.url, source, out)
        gate.until_held(1)
        with source.open("a") as file:
            file.write("one more\n")
        gate.open()
        done = under_way.result()
    assert done.returncode == 1 and "was changed while it was read" in done.stderr
    assert "Traceback" not in done.stderr and not out.exists()


def embed_in_a_process(url: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run the command where signals and standard error are its own."""
    return subprocess.run(
        command(url, *words, "--quiet"), capture_output=True, text=True, timeout=60
    )
