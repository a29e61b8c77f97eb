"""Every example of docs/cli.md is run, and every command has one."""

import re
import shlex
from pathlib import Path

import pytest

from tests.cli.conftest import run
from tests.conftest import ROOT
from tests.servers.hub import Hub
from tests.store.faults import opened, put
from tests.test_cli import programs

PAGE = (ROOT / "docs" / "cli.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
LINES = [line.partition(" #")[0].strip() for block in BLOCKS for line in block.splitlines()]
# Started or installed by the tests of `serve`, of the wheel and of `pull`, which take a real one.
ELSEWHERE = ("pipx install", "--install-completion", " serve", " pull ")
OURS = [line for line in LINES if "embedding-service" in line]
HERE = [line for line in OURS if not any(words in f"{line} " for words in ELSEWHERE)]


@pytest.fixture
def folder(
    empty: Path, guarded: tuple[str, str], hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with the files and the store that the examples name, and a service with accounts."""
    monkeypatch.setenv("EMBEDDING_SERVICE_URL", guarded[0])
    monkeypatch.setenv("EMBEDDING_API_KEY", guarded[1])
    (empty / "texts.jsonl").write_text('{"text": "cancel my order"}\n{"text": "b", "lang": "en"}\n')
    (empty / "texts.csv").write_text("body,lang\nhello,en\n")
    monkeypatch.setenv("DATA_DIR", str(empty / "data"))
    with opened(empty / "data" / "store") as store:
        store.create("docs", 8)
        put(store, ["a", "b"], 1)
    return empty


def words_of(line: str) -> tuple[list[str], str]:
    """Return the words of an example behind the program's name, and its standard input."""
    before, _, command = line.rpartition(" | ")
    (piped,) = [shlex.split(before)[1]] if before else [""]
    return shlex.split(command)[1:], f"{piped}\n" if piped else ""


def test_the_examples_do_what_the_page_says(folder: Path, guarded: tuple[str, str]) -> None:
    """In the page's order, as a reader would type them; the service is the tests' own."""
    assert len(HERE) > 20
    for line in HERE:
        words, piped = words_of(line.replace("http://localhost:8001", guarded[0]))
        done = run(*words, stdin=piped)
        if words[0] == "doctor":
            assert "problems" in done.out  # the port 8001 of this machine may be taken
        elif words[:2] == ["check", "--url"]:
            assert done.code == 1 and "FAIL  meaning" in done.out  # a fake model knows none
        else:
            assert done.code == 0, (line, done)
    assert (folder / "vectors.npy").stat().st_size > 100
    assert (folder / "docs-again.jsonl").is_file() and (folder / "docs-backup").is_dir()


def test_every_command_has_an_example_and_a_line_in_the_table() -> None:
    shown = "\n".join(LINES)
    for name in programs():
        if name not in ("keys rotate", "keys revoke"):  # they need the id of a key
            assert f"embedding-service {name}" in shown, name
        assert f"`{name.split()[0]}`" in PAGE


@pytest.mark.parametrize("line", [line for line in OURS if " serve" in line or " pull " in line])
def test_the_flags_of_the_other_examples_exist(line: str) -> None:
    command = "serve" if " serve" in line else "pull"
    said = run(command, "--help").out
    for flag in re.findall(r" (--[a-z-]+)", line.replace("keys random", "")):
        assert flag in said, flag
