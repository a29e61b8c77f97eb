"""Measure the file store against what the machine can do, and against others.

    python -m bench.store                    every part, 200,000 x 384
    python -m bench.store searches http      some of them: searches rivals http writers ann
    python -m bench.store searches --rows 1000000   (12 GB of memory, 8 GB of disk)

Each figure stands beside what bounds it in the same run: a search beside one read of the matrix,
a commit beside the disk's own fdatasync, a request beside the same call of the bare store. Who is
compared runs in a process of its own, and by turns; the others' virtual environment is made on its
first use in bench/out/vectors (650 MB). The last line is one JSON object.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench import vectors
from bench.rows import ingest, reopen, single_rows
from bench.store_http import over_http
from bench.vector_rivals import NAMES, Rival, start_all
from bench.vectors import by_turns, show
from store.file import FileStore
from store.record_file import Options

OUT = Path(__file__).parent / "out"
PARTS = ("searches", "rivals", "http", "writers", "ann")
Result = dict[str, Any]


class Run:
    """One store, its data and queries, and what has been measured so far."""

    def __init__(self, store: FileStore, data: np.ndarray, result: Result) -> None:
        self.store, self.data, self.result = store, data, result
        self.queries = vectors.asked(data)
        self.right = vectors.right_answers(data, self.queries)
        entry = store.catalog.look_up("docs")
        with store.files.using(entry) as collection, collection.current() as shot:
            self.matrix = shot.matrix
        self.read_ms = float("nan")
        self._turn = 0

    def query(self, turn: int | None = None, **asked: Any) -> object:
        """Search for the next query, or for a certain one."""
        self._turn = (self._turn + 1) % len(self.queries) if turn is None else turn
        asked = {"include": [], "exact": True, **asked}
        return self.store.search("docs", self.queries[self._turn], 10, **asked)

    def batch(self, **asked: Any) -> object:
        """Search for all queries at once."""
        return self.store.search("docs", self.queries, 10, include=[], **{"exact": True, **asked})

    def keep(self, name: str, key: str, took: float) -> None:
        """Note a time beside a read."""
        self.result[f"{key}_ms"] = round(took, 3)
        beside = f"{took / self.read_ms:.2f} of a read" if self.read_ms == self.read_ms else ""
        show(name, f"{took:.2f} ms", beside)

    def ratio(self, name: str, key: str, value: float, most: float) -> None:
        """Note a ratio beside the most that it should be."""
        self.result[key] = round(value, 3)
        show(f"  {name}", f"{value:.2f}", f"aim: at most {most}")

    def recall(self, **asked: Any) -> float:
        """Return the share of the true ten best that are found."""
        found = self.store.search("docs", self.queries, 10, include=[], **asked).hits
        return vectors.recall([[int(hit.id) for hit in hits] for hits in found], self.right)


def searches(run: Run) -> None:
    """Measure exact searches beside one read of the matrix."""
    calls = vectors.reads(run.matrix) | {
        "search": run.query,
        "full": lambda: run.query(include=["text", "metadata"]),
        "filtered": lambda: run.query(filter={"n": 7}),
    }
    times = by_turns(calls, 25 if len(run.data) < 500_000 else 9)
    run.read_ms = min(taken for name, taken in times.items() if name.startswith("read"))
    rate = run.matrix.nbytes / run.read_ms / 1e6
    show("one read of the matrix", f"{run.read_ms:.2f} ms", f"{rate:.1f} GB/s")
    run.result |= {"read_ms": round(run.read_ms, 3), "read_gb_per_s": round(rate, 1)}
    run.keep("top 10, one query", "search", times["search"])
    run.ratio("of a read", "search_per_read", times["search"] / run.read_ms, 1.15)
    run.keep("  with text and metadata", "search_full", times["full"])
    run.keep("top 10 of the 5 % that match", "filtered5", times["filtered"])
    share = times["filtered"] / times["search"]
    run.ratio("of the unfiltered time", "filtered_per_plain", share, 0.2)


def batches(run: Run) -> None:
    """Measure a batch beside a bare product by chunks."""

    def bare() -> None:
        for start in range(0, len(run.matrix), 8192):
            block = run.queries @ run.matrix[start : start + 8192].T
            np.argpartition(block, -min(10, block.shape[1]), axis=1)

    times = by_turns({"ours": run.batch, "gemm": bare}, 9 if len(run.data) < 500_000 else 4)
    run.keep("top 10, batch of 64", "batch64", times["ours"])
    run.keep("  bare GEMM and argpartition by chunks", "chunked_gemm64", times["gemm"])
    run.ratio("of the bare GEMM's time", "batch_per_gemm", times["ours"] / times["gemm"], 1)
    run.result["recall_at_10"] = run.recall(exact=True)
    show("recall@10, exact", f"{run.result['recall_at_10']:.4f}")


def approximate(run: Run) -> None:
    """Measure the approximate index: its making, its time and its recall."""
    began = time.perf_counter()
    while run.store.search("docs", run.queries[0], 10, include=[]).exact:
        time.sleep(0.5)
    run.result["ann_build_s"] = round(time.perf_counter() - began, 1)
    show("approximate index made in", f"{run.result['ann_build_s']:.0f} s")
    times = by_turns({"one": lambda: run.query(exact=False), "64": lambda: run.batch(exact=False)})
    run.keep("approximate top 10, one query", "ann", times["one"])
    run.keep("  batch of 64", "ann_batch64", times["64"])
    run.result["ann_recall_at_10"] = run.recall(exact=False)
    show("  recall@10", f"{run.result['ann_recall_at_10']:.4f}", "aim: at least 0.99")


def compare(run: Run, rivals: list[Rival], rounds: int) -> None:
    """Measure ours and the others by turns."""
    one = by_turns({"ours": run.query, **{each.name: each.one for each in rivals}}, rounds)
    batch = by_turns({"ours": run.batch, **{each.name: each.batch for each in rivals}}, 3)
    for each in rivals:
        found = vectors.recall(each.answers(), run.right)
        ours = {"ours_per_it": round(one["ours"] / one[each.name], 3),
                "ours_per_its_batch64": round(batch["ours"] / batch[each.name], 3)}  # fmt: skip
        run.result["rivals"][each.name] = ours | {
            "version": each.version, "fill_s": each.fill_s, "ms": round(one[each.name], 3),
            "batch64_ms": round(batch[each.name], 1), "recall_at_10": found,
        }  # fmt: skip
        beside = f"batch of 64 {batch[each.name]:.0f} ms, recall@10 {found:.4f}"
        show(f"{each.name} {each.version}, one query", f"{one[each.name]:.2f} ms",
             f"{beside}, filled in {each.fill_s:.0f} s")  # fmt: skip
    run.result["beside_rivals_ms"] = round(one["ours"], 3)
    run.result["batch64_beside_rivals_ms"] = round(batch["ours"], 1)
    show("ours in these turns, one query", f"{one['ours']:.2f} ms",
         f"batch of 64 {batch['ours']:.0f} ms")  # fmt: skip


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--rows", type=int, default=200_000, help="rows to search (default 200000)")
    parser.add_argument("--dim", type=int, default=384, help="dimensions (default 384)")
    parser.add_argument("--rivals", nargs="+", choices=NAMES, default=NAMES, help="with whom")
    parser.add_argument("--fill-s", type=float, default=600, help="give up one not filled by then")
    parser.add_argument("--folder", type=Path, help="where to write (default: bench/out)")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    args.parts = args.parts or PARTS
    return args


def collection_parts(args: argparse.Namespace, folder: Path, result: Result) -> None:
    """Measure what needs a filled collection."""
    data = vectors.clustered(args.rows, args.dim)
    with FileStore(folder / "store") as store:
        store.create("docs", args.dim)
        ingest(store, data, result)
        run = Run(store, data, result)
        if "searches" in args.parts:
            searches(run)
            batches(run)
        if "rivals" in args.parts:
            with start_all(data, run.queries, folder, args.rivals, args.fill_s, result) as rivals:
                compare(run, rivals, 15 if args.rows < 500_000 else 7)
        if "http" in args.parts:
            over_http(run, folder, result)
    if "searches" in args.parts:
        reopen(folder / "store", result)
    if "ann" in args.parts:
        with FileStore(folder / "store", options=Options(ann_above=1)) as store:
            run.store = store
            approximate(run)


def main() -> None:
    """Run what the command line asks for."""
    args = arguments()
    OUT.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=args.folder or OUT))
    result: Result = {"machine": vectors.machine(), "rows": args.rows, "dim": args.dim}
    result |= {"date": time.strftime("%Y-%m-%d"), "numpy": np.__version__, "rivals": {}}
    print(f"{result['machine']}, numpy {np.__version__}, {args.rows:,} x {args.dim}")
    try:
        if set(args.parts) - {"writers"}:
            collection_parts(args, folder, result)
        if "writers" in args.parts:
            single_rows(folder, args.dim, result)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
