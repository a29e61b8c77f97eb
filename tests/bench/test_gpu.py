"""`python -m bench.gpu`, rehearsed without a GPU: every part runs, and the checks can fail."""

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
from bench.gpu import packed, right
from bench.gpu.driver import PARTS
from bench.gpu.pack import KINDS
from bench.gpu.run import Run
from bench.gpu.table import tables
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
    assert {row["way"] for row in found if row["part"] == "passes"} == {"padded", "flat", "graphs"}
    assert {row["lost"] for row in found if row["part"] == "lost"} == {
        "in a pass", "while it loads",
    }  # fmt: skip
    table = (tmp_path / "table.md").read_text()
    assert table.strip() == tables(tmp_path / "result.jsonl")
    assert all(f"## {part}\n" in table for part in PARTS) and table in f"{done.stdout}\n"


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
