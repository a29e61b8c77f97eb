"""`python -m store`, as a person types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from store.__main__ import app, main
from tests.store.faults import ROOT, contents, opened, put, vector


def run(*arguments: str) -> int:
    """Return the exit code of one command."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


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
    assert run("--help") == 0
    said = capsys.readouterr().out
    assert len(app.registered_commands) == 9
    for each in app.registered_commands:
        assert each.callback and (each.name or each.callback.__name__) in said
    assert "examples:\n    python -m store list\n" in said


def test_a_wrong_command_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in [[], ["nope"], ["--wait", "x", "list"], ["compact"], ["backup", "docs"]]:
        assert run(*arguments) == 2
        out, err = capsys.readouterr()
        assert not out and "Usage: python -m store" in err


def test_every_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def done(*arguments: str) -> str:
        assert run("--dir", str(folder), *arguments) == 0
        return capsys.readouterr().out

    assert done("verify") == "docs: ok, 30 rows\n"
    assert "bytes freed" in done("compact", "docs")
    assert json.loads(done("stats"))["collections"] == 1
    assert json.loads(done("--json", "stats", "docs"))["rows"] == 30
    assert "30 rows" in done("backup", "docs", str(tmp_path / "backup"))
    assert "again" in done("restore", str(tmp_path / "backup"), "--name", "again")
    done("export", "docs", str(tmp_path / "docs.jsonl"))
    assert "copy" in done("import", str(tmp_path / "docs.jsonl"), "--name", "copy")
    assert sorted(i["name"] for i in json.loads(done("--json", "list"))) == [
        "again",
        "copy",
        "docs",
    ]
    with opened(folder) as store:
        wanted = contents(store)
        assert {r.id: r.text for r in store.scroll("copy").records} == wanted
    assert done("repair", "docs") == "docs: ok, 30 rows\n"


@pytest.fixture
def damaged(folder: Path) -> Path:
    """The folder with one record whose vector has changed."""
    (path,) = (folder / "c").glob("*/records.db")
    path.write_bytes(path.read_bytes().replace(vector(21).tobytes(), b"?" * 32))
    return folder


def test_damage_is_named_and_repaired(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--dir", str(damaged), "verify") == 1
    assert "DAMAGED" in (said := capsys.readouterr().out) and "'k20'" in said
    assert run("--dir", str(damaged), "repair") == 0
    assert "29 records were saved" in capsys.readouterr().out
    assert run("--dir", str(damaged), "verify") == 0


def test_an_export_of_what_is_damaged_ends_with_1(
    damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--dir", str(damaged), "export", "docs", str(tmp_path / "out")) == 1
    assert "'k20'" in capsys.readouterr().err


@pytest.mark.parametrize("page", [0, 1, 2, 3, 4, 5])
def test_a_damaged_catalogue_is_repaired(
    folder: Path, page: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names whose entries are lost come back under names made of their folders'."""
    catalog = folder / "catalog.db"
    data = bytearray(catalog.read_bytes())
    data[page * 4096 : page * 4096 + 4096] = b"?" * 4096
    catalog.write_bytes(data)
    assert run("--dir", str(folder), "list") in (0, 1)  # what it needs may be undamaged
    capsys.readouterr()
    assert run("--dir", str(folder), "repair") == 0
    assert "catalog" in capsys.readouterr().out
    with opened(folder) as store:
        (name,) = store.names()
        assert (name == "docs" or name.startswith("recovered.")) and store.info(name).count == 30
        put_somewhere = store.create("another", 8)[0]
        assert put_somewhere.count == 0
    assert list((folder / "damaged").iterdir())


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
    assert run("--dir", str(folder), *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Traceback" not in said


def test_a_wrong_folder_is_not_made_into_a_store(tmp_path: Path) -> None:
    assert run("--dir", str(tmp_path / "typo"), "list") == 2
    assert not (tmp_path / "typo").exists()
