"""The other vector stores, each filled in a process of its own and asked by turns."""

import json
import select
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.servers import environment
from bench.vectors import show

PROGRAM = Path(__file__).parent / "rivals" / "vector_store.py"
NAMES = ("faiss", "usearch", "qdrant", "chroma")


class Rival:
    """One that was filled and waits."""

    def __init__(self, name: str, process: "subprocess.Popen[str]", facts: dict[str, Any]) -> None:
        self.name, self._process = name, process
        self.version, self.fill_s = facts["version"], facts["fill_s"]
        self._turn = 0

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def one(self) -> float:
        """Ask for the next query; return the ms it took there."""
        self._turn = (self._turn + 1) % 64
        return float(self._ask(f"one {self._turn}")["ms"])

    def batch(self) -> float:
        """Ask for all queries at once; return the ms it took there."""
        return float(self._ask("batch")["ms"])

    def answers(self) -> list[list[int]]:
        """Return the rows found for each query."""
        found: list[list[int]] = self._ask("batch")["found"]
        return found


@contextmanager
def start_all(
    data: np.ndarray,
    queries: np.ndarray,
    folder: Path,
    names: Sequence[str],
    fill_s: float,
    result: dict[str, Any],
) -> Iterator[list[Rival]]:
    """Fill the named ones, one after the other; say which are not measured and why."""
    python = environment("vectors")
    np.save(folder / "data.npy", data)
    np.save(folder / "queries.npy", queries)
    rivals, processes = [], []
    try:
        for name in names:
            process, facts = _start(name, folder, python, fill_s)
            processes.append(process)
            if "version" not in facts:
                result["rivals"][name] = facts
                show(name, "not measured", facts["not_measured"])
            else:
                rivals.append(Rival(name, process, facts))
        yield rivals
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _start(
    name: str, folder: Path, python: Path, fill_s: float
) -> "tuple[subprocess.Popen[str], dict[str, Any]]":
    process = subprocess.Popen(
        [python, PROGRAM, name, folder / "data.npy", folder / "queries.npy", folder / name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    if not select.select([process.stdout], [], [], fill_s)[0]:
        process.kill()
        return process, {"not_measured": f"not filled within {fill_s:g} s"}
    line = process.stdout.readline()
    facts: dict[str, Any] = json.loads(line) if line else {"failed": process.wait()}
    if "failed" in facts:
        return process, {"not_measured": f"it ended with {facts['failed']}"}
    return process, facts
