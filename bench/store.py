"""Measure the file store against what the machine can do. Prints a table, then one JSON object.

    python bench/store.py                 200,000 x 384; about a minute
    python bench/store.py --rows 1000000  needs 6 GB of memory and 4 GB of disk
    python bench/store.py --install       others to compare with, into bench/out/venv
    bench/out/venv/bin/python bench/store.py --compare

Each figure stands beside what bounds it in the same run: a search beside one read of the matrix,
a commit beside the disk's own fdatasync (a median). Times of searches are the least of many.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from store import Item  # noqa: E402
from store.file import FileStore  # noqa: E402
from store.journal import Fsync  # noqa: E402
from store.ledger import Options  # noqa: E402

OUT = ROOT / "bench" / "out"
OTHERS = ("faiss-cpu", "usearch", "chromadb", "qdrant-client")
BATCH = 500


def best_ms(call: Callable[[], object], repeat: int = 15) -> float:
    """Return the least time of a call, after one that warms up: what others disturb least."""
    call()
    took = []
    for _ in range(repeat):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return min(took) * 1e3


def by_turns(calls: dict[str, Callable[[], object]], repeat: int = 25) -> dict[str, float]:
    """Return the least time of each call, made by turns, so that what disturbs one disturbs all."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeat + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            took[name].append((time.perf_counter() - began) * 1e3)
    return {name: min(times[1:]) for name, times in took.items()}


def reads(data: np.ndarray) -> dict[str, Callable[[], object]]:
    """Return ways to read all of the data once, with all cores; the fastest is what counts."""
    parts = np.array_split(data.reshape(-1), os.cpu_count() or 1)
    ones = np.ones(data.shape[1], np.float32)

    def parallel(work: Callable[[np.ndarray], object]) -> None:
        threads = [threading.Thread(target=work, args=(part,)) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return {
        "read by max": lambda: parallel(np.max),
        "read by dot": lambda: parallel(lambda part: np.dot(part, part)),
        "read by gemv": lambda: data @ ones,
    }


def sync_ms(folder: Path) -> float:
    """Return the disk's own time for an append of 2 KB and a fdatasync."""
    fd = os.open(folder / "probe", os.O_CREAT | os.O_RDWR, 0o600)
    at = [0]

    def once() -> None:
        os.pwrite(fd, b"x" * 2048, at[0])
        at[0] += 2048
        os.fdatasync(fd)

    took = []
    for _ in range(500):
        began = time.perf_counter()
        once()
        took.append(time.perf_counter() - began)
    os.close(fd)
    return statistics.median(took) * 1e3


def clustered(rows: int, dim: int) -> np.ndarray:
    """Return vectors like those of texts: many clusters of unlike size, unit length."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((1000, dim), np.float32)
    out = np.empty((rows, dim), np.float32)
    for start in range(0, rows, 50_000):
        part = out[start : start + 50_000]
        chosen = (rng.pareto(1.2, len(part)) * 50).astype(np.int64) % 1000
        part[:] = centres[chosen] + 0.9 * rng.standard_normal(part.shape, np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return out


def show(name: str, value: str, beside: str = "") -> None:
    """Print one line of the table."""
    print(f"{name:<42} {value:>16}   {beside}", flush=True)


def ingest(store: FileStore, data: np.ndarray, result: dict[str, Any]) -> None:
    """Fill the collection."""
    began = time.perf_counter()
    for start in range(0, len(data), BATCH):
        part = data[start : start + BATCH]
        store.upsert(
            "docs",
            [Item(f"{start + i}", v, None, {"n": (start + i) % 20}) for i, v in enumerate(part)],
        )
        if sys.stderr.isatty():
            print(f"\r  writing {start + len(part)} of {len(data)}", end="", file=sys.stderr)
    rate = len(data) / (time.perf_counter() - began)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    result["ingest_rows_per_s"] = round(rate)
    show(f"ingest, batches of {BATCH}, fsync always", f"{rate:,.0f} rows/s")


def searches(store: FileStore, data: np.ndarray, result: dict[str, Any]) -> None:
    """Measure searches beside one read of the matrix."""
    _, entry = store._find("docs")
    shot = store._collection(entry).snapshot()
    rng = np.random.default_rng(1)
    noise = 0.5 * rng.standard_normal((64, data.shape[1]), np.float32)
    queries = data[rng.integers(0, len(data), 64)] + noise
    turn = iter(range(10**9))

    def one(**asked: Any) -> object:
        return store.search("docs", queries[next(turn) % 64], 10, include=[], **asked)

    read = 0.0

    def beside(name: str, key: str, took: float) -> None:
        result[f"{key}_ms"] = round(took, 3)
        show(name, f"{took:.2f} ms", f"{took / read:.2f} of a read")

    full = lambda: store.search("docs", queries[next(turn) % 64], 10)  # noqa: E731
    times = by_turns(reads(shot.matrix) | {"search": one, "full": full})
    read = min(taken for name, taken in times.items() if name.startswith("read"))
    gbs = shot.matrix.nbytes / read / 1e6
    show("one read of the matrix", f"{read:.2f} ms", f"{gbs:.1f} GB/s")
    result |= {"read_ms": round(read, 3), "read_gb_per_s": round(gbs, 1)}
    plain = times["search"]
    beside("top 10, one query", "search", plain)
    result["search_per_read"] = round(plain / read, 3)
    beside("  with text and metadata", "search_full", times["full"])

    def bare() -> None:
        for start in range(0, len(shot.matrix), 8192):
            block = queries @ shot.matrix[start : start + 8192].T
            np.argpartition(block, -10, axis=1)

    both = by_turns(
        {"ours": lambda: store.search("docs", queries, 10, include=[]), "gemm": bare}, 7
    )
    beside("top 10, batch of 64", "batch64", both["ours"])
    beside("  per query", "batch64_per_query", both["ours"] / 64)
    beside("  bare GEMM and argpartition by chunks", "chunked_gemm64", both["gemm"])
    filtered = best_ms(lambda: one(filter={"n": 7}), 31)
    beside("top 10 of the 5 % that match", "filtered5", filtered)
    result["filtered_per_plain"] = round(filtered / plain, 3)
    show("  of the unfiltered time", f"{filtered / plain:.2f}")
    exact = shot.matrix @ queries.T
    wanted = [set(map(str, np.argpartition(exact[:, i], -10)[-10:].tolist())) for i in range(64)]
    found = store.search("docs", queries, 10, include=[]).hits
    same = sum(len(w & {h.id for h in hits}) for w, hits in zip(wanted, found, strict=True)) / 640
    result["recall_at_10"] = same
    show("recall@10", f"{same:.4f}")


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


def compare(data: np.ndarray, folder: Path, result: dict[str, Any]) -> None:
    """Measure others on the same data, those that are installed."""
    rng = np.random.default_rng(1)
    noise = 0.5 * rng.standard_normal((64, data.shape[1]), np.float32)
    queries = data[rng.integers(0, len(data), 64)] + noise
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    turn = iter(range(10**9))
    for name, build in (
        ("faiss", _faiss),
        ("usearch", _usearch),
        ("chroma", _chroma),
        ("qdrant", _qdrant),
    ):
        try:
            search = build(data, folder)
        except ImportError as exc:
            show(name, "-", f"not installed: {exc.name}; --install")
            continue
        took = best_ms(lambda: search(queries[next(turn) % 64][None]), 9)  # noqa: B023
        result[f"{name}_ms"] = round(took, 3)
        show(f"{name}, one query", f"{took:.2f} ms", f"{took / result['search_ms']:.2f} of ours")


def _faiss(data: np.ndarray, folder: Path) -> Callable[[np.ndarray], object]:
    import faiss

    index = faiss.IndexFlatIP(data.shape[1])
    index.add(data)
    return lambda query: index.search(query, 10)


def _usearch(data: np.ndarray, folder: Path) -> Callable[[np.ndarray], object]:
    from usearch.index import MetricKind, search  # type: ignore[attr-defined, unused-ignore]

    return lambda query: search(data, query, 10, MetricKind.IP, exact=True)


def _chroma(data: np.ndarray, folder: Path) -> Callable[[np.ndarray], object]:
    import chromadb
    from chromadb.config import Settings

    client = chromadb.PersistentClient(str(folder / "chroma"), Settings(anonymized_telemetry=False))
    docs = client.create_collection("docs", metadata={"hnsw:space": "ip"})
    for start in range(0, len(data), 5000):
        part = data[start : start + 5000]
        docs.add([str(start + i) for i in range(len(part))], embeddings=part)
    return lambda query: docs.query(query_embeddings=query, n_results=10, include=["distances"])


def _qdrant(data: np.ndarray, folder: Path) -> Callable[[np.ndarray], object]:
    from qdrant_client import QdrantClient, models

    client = QdrantClient(":memory:")  # its fastest: on a path it commits each point by itself
    params = models.VectorParams(size=data.shape[1], distance=models.Distance.DOT)
    client.create_collection("docs", vectors_config=params)
    for start in range(0, len(data), 5000):
        part = data[start : start + 5000]
        batch = models.Batch(ids=list(range(start, start + len(part))), vectors=part.tolist())
        client.upsert("docs", batch)
    return lambda query: client.query_points("docs", query[0].tolist(), limit=10)


def install() -> None:
    """Make bench/out/venv with the others in it."""
    OUT.mkdir(exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", OUT / "venv"], check=True)
    pip = [str(OUT / "venv" / "bin" / "python"), "-m", "pip", "install", "-q"]
    subprocess.run([*pip, f"numpy=={np.__version__}", *OTHERS], check=True)


def machine() -> str:
    """Return the processor's name and the cores."""
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000, help="rows to search (default 200000)")
    parser.add_argument("--dim", type=int, default=384, help="dimensions (default 384)")
    parser.add_argument("--compare", action="store_true", help="measure the others too")
    parser.add_argument("--install", action="store_true", help=f"install {', '.join(OTHERS)}")
    parser.add_argument("--folder", type=Path, help="where to write (default: bench/out)")
    args = parser.parse_args()
    if args.install:
        return install()
    OUT.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=args.folder or OUT))
    result: dict[str, Any] = {"machine": machine(), "rows": args.rows, "dim": args.dim}
    result["date"] = time.strftime("%Y-%m-%d")
    print(f"{result['machine']}, numpy {np.__version__}, {args.rows:,} x {args.dim}")
    try:
        data = clustered(args.rows, args.dim)
        with FileStore(folder / "store") as store:
            store.create("docs", args.dim)
            ingest(store, data, result)
            searches(store, data, result)
        reopen(folder / "store", result)
        single_rows(folder, args.dim, result)
        if args.compare:
            compare(data, folder, result)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
