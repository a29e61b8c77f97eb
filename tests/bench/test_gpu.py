"""`python -m bench.gpu`, rehearsed without a GPU: every part runs, and the checks can fail."""

import errno
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from bench.corpus import model_folder
from bench.gpu import driver, packed, right
from bench.gpu import pack as make_pack
from bench.gpu.driver import PARTS
from bench.gpu.pack import KINDS
from bench.gpu.run import Run
from bench.gpu.table import tables
from bench.processes import stat
from tests.conftest import ROOT
from tests.faults.conftest import until
from tests.zoo.layouts import LAYOUTS
from tests.zoo.words import prose

KIND = "modernbert_mean"
SOON = 1e9  # a time.monotonic() that no test reaches


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small pack, made by the command: it says that even that is more than one megabyte."""
    folder = tmp_path_factory.mktemp("pack")
    texts = {name: [prose(8, at) for at in range(first, first + 512)]
             for name, first in (("queries", 0), ("docs", 1000))}  # fmt: skip
    every = [*texts["queries"], *texts["docs"]]
    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    counts = [len(each.ids) for each in tokenizer.encode_batch(every)]
    corpus = folder / "corpus.json"
    corpus.write_text(json.dumps({**texts, "tokens": dict(zip(every, counts, strict=True))}))
    command = [sys.executable, "-m", "bench.gpu", "pack", str(folder / "pack"), "--no-wheels",
               "--texts", "12", "--kinds", KIND, "--max-mb", "1"]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "BENCH_CORPUS": str(corpus)},
    )  # fmt: skip
    assert done.returncode == 1 and "more than 1 MB" in done.stderr, done.stderr
    return folder / "pack"


@pytest.fixture
def run(pack: Path, tmp_path: Path) -> Run:
    """The part `right`, on what was packed."""
    data, site = packed.open_pack(pack, tmp_path)
    assert site is None, "there are no wheels in it"
    return Run("right", data, "cpu", 0.2, tmp_path / "result.jsonl", SOON)


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.long
def test_every_part_reports_in_one_call(pack: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.gpu", "--pack", str(pack), "--device", "cpu",
               "--seconds", "0.2", "--seconds-total", "1200"]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OUT": str(tmp_path)}
    )
    found = rows(tmp_path / "result.jsonl")
    outcomes = {row["part"]: row["outcome"] for row in found if "outcome" in row}
    assert outcomes == dict.fromkeys(PARTS, "done"), (tmp_path / "log.txt").read_text()[-4000:]
    assert done.returncode == 0, done.stderr
    assert not [row for row in found if "refused" in row and isinstance(row["refused"], str)]
    assert not [row for row in found if row.get("ok") is False or "left_out" in row]
    for part in PARTS:
        assert [row for row in found if row["part"] == part and "outcome" not in row], part
    assert {row["way"] for row in found if "way" in row and row["part"] == "passes"} == {
        "padded", "flat", "graphs",
    }  # fmt: skip
    assert {row["lost"] for row in found if "lost" in row} == {"in a pass", "while it loads"}
    table = (tmp_path / "table.md").read_text()
    assert table.strip() == tables(tmp_path / "result.jsonl")
    assert all(f"## {part}\n" in table for part in PARTS) and table in f"{done.stdout}\n"


@pytest.mark.long
def test_a_damaged_weight_is_found(run: Run) -> None:
    file = run.data / "minilm" / "model.safetensors"
    weights = load_file(file)
    name = "encoder.layer.3.output.dense.weight"
    weights[name][:, :256] = 0  # a sixth of one matrix of 36
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(SystemExit, match="are not right"):
        right.main(run)
    judged = {(row["model"], row["dtype"]): row["ok"] for row in rows(run.results)}
    assert judged == {
        ("minilm", "float32"): False, ("minilm", "bfloat16"): False,
        (f"zoo/{KIND}", "float32"): True, (f"zoo/{KIND}", "bfloat16"): True,
    }  # fmt: skip


def test_weights_come_back_as_they_were_packed(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.randn(7).to(torch.bfloat16), "b": torch.ones(3, dtype=torch.uint8)}, file)
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        packed.put(archive, file, "one/model.safetensors")
    data, _ = packed.open_pack(tmp_path, tmp_path / "to")
    assert (data / "one" / "model.safetensors").read_bytes() == file.read_bytes()


def test_wheels_are_put_on_the_import_path(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "some-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("some/__init__.py", "HERE = 1")
    with zipfile.ZipFile(tmp_path / "data.zip", "w"):
        pass
    _, site = packed.open_pack(tmp_path, tmp_path / "to")
    assert site and (site / "some" / "__init__.py").read_text() == "HERE = 1"


def test_the_kinds_that_are_packed_exist() -> None:
    assert set(KINDS) <= set(LAYOUTS)


HANGS = """
import subprocess, sys, time
from pathlib import Path
from bench.gpu.driver import ended

def hang():  # with a server that has left the group, as a model process does
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    Path(sys.argv[1]).write_text(str(child.pid))
    time.sleep(600)

log, now = Path(sys.argv[2]), time.monotonic
print(ended(hang, now() + 2, log))
print(ended(lambda: 1 / 0, now() + 30, log))
print(ended(lambda: __import__("os").kill(__import__("os").getpid(), 9), now() + 30, log))
print(ended(lambda: None, now() + 30, log))
"""


def test_a_part_that_hangs_or_dies_is_told_and_leaves_nothing_running(tmp_path: Path) -> None:
    pid, log = tmp_path / "pid", tmp_path / "log"
    done = subprocess.run(
        [sys.executable, "-c", HANGS, str(pid), str(log)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.split("\n")[:4] == ["out of time", "failed", "killed by signal 9", "done"]
    assert "ZeroDivisionError" in log.read_text()
    until(lambda: not Path(f"/proc/{pid.read_text()}").exists())


@pytest.mark.parametrize("wrong", ["nan", "inf", "-1", "0", "soon"])
@pytest.mark.parametrize("option", ["--seconds", "--seconds-total"])
def test_a_time_is_a_positive_number(
    option: str, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        driver.main([option, wrong])
    assert ended.value.code == 2 and "positive number of seconds" in capsys.readouterr().err


def test_a_folder_that_is_no_pack_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("dear")
    with pytest.raises(SystemExit) as ended:
        make_pack.main([str(tmp_path), "--no-wheels", "--kinds"])
    assert ended.value.code == 2 and "no pack and not empty" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == [letter] and letter.read_text() == "dear"


def test_a_pack_that_fails_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "pack"
    (old / "wheels").mkdir(parents=True)
    with zipfile.ZipFile(old / packed.DATA, "w") as archive:
        archive.writestr("cases.json", "[]")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(make_pack, "_zipped", full)
    with pytest.raises(OSError, match="no space left"):
        make_pack.main([str(old), "--no-wheels", "--kinds"])
    assert packed.is_whole(old) and [*tmp_path.iterdir()] == [old]


def test_an_archive_that_was_cut_off_is_no_pack(tmp_path: Path) -> None:
    assert not packed.is_whole(tmp_path)
    with zipfile.ZipFile(tmp_path / packed.DATA, "w") as archive:
        archive.writestr("model.safetensors", os.urandom(100_000))
        archive.writestr("cases.json", "[]")
    assert packed.is_whole(tmp_path)
    whole = (tmp_path / packed.DATA).read_bytes()
    for kept in 0, 1000, len(whole) - 100:
        (tmp_path / packed.DATA).write_bytes(whole[:kept])
        assert not packed.is_whole(tmp_path)


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_running_one_stays(
    tmp_path: Path,
) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    for pid in gone.pid, os.getpid():
        (tmp_path / f"some-{pid}-x").mkdir()
    with packed.scratch(tmp_path, "some-") as made:
        assert {*tmp_path.iterdir()} == {tmp_path / f"some-{os.getpid()}-x", made}
    assert not made.exists()


KILLED = """
import os, subprocess, sys, time
from pathlib import Path
from bench.gpu.driver import ended

def part():
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    Path(sys.argv[1]).write_text(f"{os.getpid()} {child.pid}\\n")
    time.sleep(600)

ended(part, time.monotonic() + 600, Path(sys.argv[2]))
"""


def test_a_part_ends_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    told, log = tmp_path / "told", tmp_path / "log"
    driving = subprocess.Popen([sys.executable, "-c", KILLED, str(told), str(log)], cwd=ROOT)
    try:
        until(lambda: told.exists() and told.read_text().endswith("\n"))
    finally:
        driving.kill()
        driving.wait()
    part, server = told.read_text().split()
    until(lambda: not running(part) and not running(server))


def running(pid: str) -> bool:
    """Return whether a process runs; one that nobody waits for is none."""
    try:
        return stat(int(pid))[0] != "Z"
    except OSError:
        return False
