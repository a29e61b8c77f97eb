"""`python cli.py`, the one command."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cli import app
from commands.lazy import COMMANDS
from tests.store.faults import ROOT, opened

NAMES = ("serve", "embed", "search", "pull", "models", "collections", "store", "keys", "check",
         "doctor")  # fmt: skip
HEAVY = ("numpy", "requests", "pydantic", "torch", "transformers", "sqlalchemy", "flask")


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "cli.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def programs() -> dict[str, object]:
    """Every command as it is run, with those of groups as `group command`."""
    found: dict[str, object] = {}
    for name, (place, _) in COMMANDS.items():
        module, _, program = place.partition(":")
        command = typer.main.get_command(getattr(import_module(module), program))
        inner = getattr(command, "commands", None)
        if inner is None:
            found[name] = command
        else:
            found |= {f"{name} {word}": each for word, each in inner.items()}
    return found


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


def test_help_lists_every_command() -> None:
    assert set(NAMES) == COMMANDS.keys()
    said = CliRunner().invoke(app, ["--help"]).stdout
    for name, (_, sentence) in COMMANDS.items():
        assert f"\n  {name} " in said and sentence in said
    assert "examples:\n    embedding-service serve" in said


def test_every_command_takes_json_and_every_one_has_examples_or_a_group_that_has() -> None:
    for name, command in programs().items():
        flags = {flag for option in command.params for flag in option.opts}  # type: ignore[attr-defined]
        assert "--json" in flags or name.startswith("store "), name
        epilog = command.epilog or ""  # type: ignore[attr-defined]
        assert "embedding-service" in epilog or " " in name, name


@pytest.mark.parametrize("name", NAMES)
def test_the_help_of_each_command_can_be_read(name: str) -> None:
    done = CliRunner().invoke(app, [name, "--help"])
    assert done.exit_code == 0 and "Usage:" in done.stdout and "examples:" in done.stdout


def test_help_and_version_import_nothing_heavy() -> None:
    code = (
        "import sys, cli\n"
        "try: cli.app([sys.argv[1]])\n"
        f"except SystemExit: print(sorted(set(sys.modules) & set({HEAVY})), file=sys.stderr)\n"
    )
    for word in ("--help", "--version"):
        command = [sys.executable, "-c", code, word]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.stderr == "[]\n", done.stderr


def test_a_typing_error_is_answered_with_the_command_that_was_meant() -> None:
    done = CliRunner().invoke(app, ["docter"])
    assert done.exit_code == 2 and "Did you mean 'doctor'?" in done.stderr


@pytest.mark.parametrize(
    ("words", "wanted"),
    [("embedding-service se", "serve"), ("embedding-service keys ro", "rotate"),
     ("embedding-service search --mi", "--min-score")],
)  # fmt: skip
def test_a_shell_completes_commands_and_options(words: str, wanted: str) -> None:
    env = {**os.environ, "_EMBEDDING_SERVICE_COMPLETE": "complete_bash", "COMP_WORDS": words,
           "COMP_CWORD": str(words.count(" "))}  # fmt: skip
    code = "import cli; cli.app(prog_name='embedding-service')"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert wanted in done.stdout.split(), done.stdout + done.stderr


def test_the_store_takes_its_options_behind_the_command(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as store:
        store.create("docs", 8)
    for words in (["--dir", str(tmp_path / "store"), "list", "--json"],
                  ["list", f"--dir={tmp_path / 'store'}", "--json", "--wait", "3"]):  # fmt: skip
        done = CliRunner().invoke(app, ["store", *words])
        assert done.exit_code == 0 and '"name": "docs"' in done.stdout
    lacks = CliRunner().invoke(app, ["store", "list", "--dir"])
    assert lacks.exit_code == 2 and "'--dir' requires an argument" in lacks.stderr
