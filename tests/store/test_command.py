"""`python -m store`, as a person types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from store.__main__ import HELP, main
from tests.store.faults import ROOT, contents, opened, put


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with opened(tmp_path / "store") as store:
        store.create("docs", 8, model="minilm", indexed=["lang"])
        put(store, [f"k{i}" for i in range(30)], 1)
        put(store, [f"k{i}" for i in range(10)], 2)
        store.alias("live", "docs")
    return tmp_path / "store"


def test_it_works_from_the_shell(folder: Path) -> None:
    command = [sys.executable, "-m", "store", "--dir", str(folder), "list"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split() == [
        "docs", "30", "8", "cosine", "minilm", "lang", "live",
    ]  # fmt: skip


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert all(command in said for command in HELP) and "examples:" in said


def test_every_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> str:
        assert main(["--dir", str(folder), *arguments]) == 0
        return capsys.readouterr().out

    assert run("verify") == "docs: ok, 30 rows\n"
    assert "bytes freed" in run("compact", "docs")
    assert json.loads(run("stats"))["collections"] == 1
    assert json.loads(run("--json", "stats", "docs"))["rows"] == 30
    assert "30 rows" in run("backup", "docs", str(tmp_path / "backup"))
    assert "again" in run("restore", str(tmp_path / "backup"), "--name", "again")
    run("export", "docs", str(tmp_path / "docs.jsonl"))
    assert "copy" in run("import", str(tmp_path / "docs.jsonl"), "--name", "copy")
    assert sorted(i["name"] for i in json.loads(run("--json", "list"))) == [
        "again",
        "copy",
        "docs",
    ]
    with opened(folder) as store:
        wanted = contents(store)
        assert {r.id: r.text for r in store.scroll("copy").records} == wanted
    assert run("repair", "docs") == "docs: ok, 30 rows\n"


def test_damage_is_told_and_repaired(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (journal,) = (folder / "c").glob("*/journal.*")
    data = bytearray(journal.read_bytes())
    data[60] ^= 1
    journal.write_bytes(data)
    assert main(["--dir", str(folder), "verify"]) == 1
    assert "DAMAGED" in (said := capsys.readouterr().out) and "byte 8" in said
    assert main(["--dir", str(folder), "repair"]) == 0
    assert "are lost" in capsys.readouterr().out
    assert main(["--dir", str(folder), "verify"]) == 0


def test_an_export_of_what_is_damaged_says_that_it_is_not_all(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (journal,) = (folder / "c").glob("*/journal.*")
    data = bytearray(journal.read_bytes())
    data[60] ^= 1
    journal.write_bytes(data)
    assert main(["--dir", str(folder), "export", "docs", str(tmp_path / "out")]) == 1
    assert "that is not all" in (said := capsys.readouterr().err) and "byte 8" in said


def test_a_repair_of_one_flipped_byte_loses_one_record_of_a_compacted_journal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(tmp_path / "s") as store:
        store.create("docs", 8)
        put(store, [f"k{i:03}" for i in range(500)], 1)
        store.compact("docs")  # all rows are in one frame
    (journal,) = (tmp_path / "s" / "c").glob("*/journal.*")
    data = bytearray(journal.read_bytes())
    data[len(data) // 2] ^= 1
    journal.write_bytes(data)
    assert main(["--dir", str(tmp_path / "s"), "verify"]) == 1
    assert main(["--dir", str(tmp_path / "s"), "repair", "docs"]) == 0
    assert "but for 15 whole records" in capsys.readouterr().out
    with opened(tmp_path / "s") as store:
        assert len(contents(store)) >= 500 - 32 and store.verify("docs").ok
        put(store, ["again"], 2)


@pytest.mark.parametrize("harm", ["damaged", "removed"])
def test_a_catalogue_without_its_manifest_is_repaired(folder: Path, harm: str) -> None:
    manifest = folder / "catalog" / "MANIFEST"
    if harm == "removed":
        manifest.unlink()
    else:
        manifest.write_bytes(b"?" + manifest.read_bytes()[1:])
    assert main(["--dir", str(folder), "list"]) == 1
    assert main(["--dir", str(folder), "repair"]) == 0
    with opened(folder) as store:
        assert store.info("live").count == 30


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", "nope"],
        ["backup", "nope", "x"],
        ["restore", "/nowhere"],
        ["import", "/nowhere"],
        ["export", "docs", "/etc/hostname"],
        ["export", "../docs"],
    ],
)
def test_what_cannot_be_done_is_said_plainly(
    folder: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--dir", str(folder), *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Traceback" not in said


def test_a_wrong_folder_is_not_made_into_a_store(tmp_path: Path) -> None:
    assert main(["--dir", str(tmp_path / "typo"), "list"]) == 2
    assert not (tmp_path / "typo").exists()
