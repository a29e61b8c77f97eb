"""What the fault tests share: a writer that reports its acknowledgements, and checks."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from errors import ServiceError
from store import Item
from store.derived import Derived
from store.file import FileStore
from store.record_file import Options
from tests.servers.programs import Program

ROOT = Path(__file__).parents[2]
DIM = 8
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # None: the usual place


def vector(seed: int, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(dim).astype(np.float32)


def put(store: FileStore, ids: list[str], seed: int) -> None:
    store.upsert("docs", [Item(id_, vector(seed + i), f"{seed}") for i, id_ in enumerate(ids)])


def contents(store: FileStore) -> dict[str, str]:
    """Return id -> seed of everything, having checked vectors, matrix and search."""
    cursor, found = None, {}
    while True:
        page = store.scroll("docs", cursor, 1000)
        for record in page.records:
            assert record.vector is not None and record.text is not None
            found[record.id] = record.text
        cursor = page.next_cursor
        if cursor is None:
            break
    report = store.verify("docs")
    assert report.rows == len(found) == store.count("docs")
    assert not [p for p in report.problems if "matrix" in p], report.problems
    return found


def opened(folder: Path, **options: Any) -> FileStore:
    return FileStore(folder, options=Options(**options))


def start(code: str, *args: str, **env: str) -> Program | subprocess.Popen[str]:
    """Start a program; from cold if it has an environment of its own."""
    if not env:
        return Program(code, *args)
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        cwd=ROOT,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"} | env,
        stdout=subprocess.PIPE,
        text=True,
    )


def writer(folder: Path, me: int, seed: int, blind: bool) -> None:
    """Write and delete at random, in batches, until killed.

    A line is printed for each write that was acknowledged (`ack`) and, before it, for each that was
    begun (`begin`).
    """
    if blind:  # the control: the same store, which does not take in what others wrote
        take_in = Derived.catch_up

        def once(self: Derived, connection: Any, alone: bool) -> bool:
            return self.generation >= 0 or take_in(self, connection, alone)

        Derived.catch_up = once  # type: ignore[method-assign]
    rng = random.Random(seed)
    target = opened(folder, compact_rows=200)
    for turn in range(10**6):
        ids = [f"w{me}-{rng.randrange(60)}" for _ in range(rng.randrange(1, 6))]
        ids = list(dict.fromkeys(ids))
        value = seed * 1000 + turn
        change = {"ids": ids, "value": None if rng.random() < 0.25 else value}
        tell("begin", change)
        try:
            if change["value"] is None:
                target.delete("docs", ids)
            else:
                put(target, ids, value)
            if rng.random() < 0.02:
                target.compact("docs")
        except ServiceError as exc:
            tell("failed", str(exc))
            os.kill(os.getpid(), signal.SIGKILL)
        tell("ack", change)


def tell(word: str, what: Any) -> None:
    """Report in one write, so that a kill cannot leave half a line."""
    os.write(1, f"{word} {json.dumps(what)}\n".encode())


def expected(lines: list[str], before: dict[str, str]) -> list[dict[str, str]]:
    """Return the states that a writer's report allows: the last write may be there or not."""
    state = dict(before)
    pending: dict[str, Any] | None = None
    for line in lines:
        word, _, rest = line.partition(" ")
        if word == "begin":
            pending = json.loads(rest)
        elif word == "ack":
            state = applied(state, json.loads(rest))
            pending = None
    return [state] if pending is None else [state, applied(state, pending)]


def applied(state: dict[str, str], change: dict[str, Any]) -> dict[str, str]:
    if change["value"] is None:
        return {id_: v for id_, v in state.items() if id_ not in change["ids"]}
    return state | dict.fromkeys(change["ids"], str(change["value"]))
