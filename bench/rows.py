"""Writing to a file store and opening it again, measured beside what the disk itself does."""

import sys
import threading
import time
from pathlib import Path
from typing import Any, cast

import numpy as np

from bench.vectors import show, sync_ms
from store import Item
from store.file import FileStore
from store.record_file import Fsync, Options

BATCH = 500


def items(rows: np.ndarray, first: int) -> list[Item]:
    """Return rows as the store takes them, with a field of twenty values."""
    return [Item(f"{i}", row, None, {"n": i % 20}) for i, row in enumerate(rows, first)]


def ingest(store: FileStore, data: np.ndarray, result: dict[str, Any]) -> None:
    """Fill the collection."""
    began = time.perf_counter()
    for start in range(0, len(data), BATCH):
        part = data[start : start + BATCH]
        store.upsert("docs", items(part, start))
        if sys.stderr.isatty():
            print(f"\r  writing {start + len(part)} of {len(data)}", end="", file=sys.stderr)
    rate = len(data) / (time.perf_counter() - began)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    result["ingest_rows_per_s"] = round(rate)
    show(f"ingest, batches of {BATCH}, fsync always", f"{rate:,.0f} rows/s")


def single_rows(folder: Path, dim: int, result: dict[str, Any]) -> None:
    """Measure writers of one row at a time, each answer durable."""
    vector = np.random.default_rng(0).standard_normal(dim).astype(np.float32)
    runs: tuple[tuple[Fsync, int], ...] = (
        ("always", 1),
        ("always", 8),
        ("always", 32),
        ("never", 8),
    )
    for mode, writers in runs:
        disk = sync_ms(folder)  # each time anew: it drifts
        with FileStore(
            folder / f"single-{mode}-{writers}", options=Options(fsync=cast(Any, mode))
        ) as store:
            store.create("docs", dim)
            stop = time.perf_counter() + 3
            counts = [0] * writers

            def write(me: int) -> None:
                while time.perf_counter() < stop:  # noqa: B023 - joined before the next turn
                    store.upsert("docs", [Item(f"{me}-{counts[me]}", vector)])  # noqa: B023
                    counts[me] += 1  # noqa: B023

            began = time.perf_counter()
            threads = [threading.Thread(target=write, args=(me,)) for me in range(writers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            rate = sum(counts) / (time.perf_counter() - began)
            assert store.count("docs") == sum(counts)
        result[f"single_row_{writers}_{mode}_per_s"] = round(rate)
        result[f"fdatasync_before_{writers}_{mode}_ms"] = round(disk, 3)
        ratio = f"fdatasync {disk:.3f} ms: {rate * disk / 1000:.2f} rows in the time of one"
        show(f"{writers} writers of one row, fsync {mode}", f"{rate:,.0f} rows/s", ratio)


def reopen(folder: Path, result: dict[str, Any]) -> None:
    """Measure opening, the first filter, and memory."""
    began = time.perf_counter()
    with FileStore(folder) as store:
        store.count("docs")
        result["open_s"] = round(time.perf_counter() - began, 3)
        began = time.perf_counter()
        store.count("docs", {"n": 3})
        result["first_filter_s"] = round(time.perf_counter() - began, 3)
    show("open", f"{result['open_s']:.2f} s")
    show("first filter on a field", f"{result['first_filter_s']:.2f} s")
