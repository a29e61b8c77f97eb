"""Embeds a file of any size through a running service: `python embed_file.py texts.jsonl out.npy`.

Streams JSONL, CSV, TXT (a text a line) or Parquet, with several requests at once, waits when told
to (429), and goes on where it stopped after Ctrl-C or a kill: nothing twice, nothing missing.
"""

import argparse
import itertools
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bulk.client import Client
from bulk.rows import Row, Stop, read_rows
from bulk.spool import Counter, Spool, write_output


def batches(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    """Yield rows in lists of `size`."""
    while batch := list(itertools.islice(rows, size)):
        yield batch


def run(args: argparse.Namespace) -> None:
    """Do the whole job, or go on with one that was begun. Raises Stop."""
    source = Path(args.input)
    total = sum(1 for _ in read_rows(source, args.field, args.id_field))
    stat = source.stat()
    identity = {"input": source.name, "bytes": stat.st_size, "rows": total, "model": args.model,
                "field": args.field, "url": args.url}  # fmt: skip
    client = Client(args.url, args.model, os.environ.get("EMBEDDING_API_KEY"), args.parallel)
    progress: Spool | Counter
    if args.store:
        progress = Counter(source.with_name(source.name + f".{args.store}.part.json"), identity)
    else:
        progress = Spool(Path(args.output), identity)
    rows = itertools.islice(read_rows(source, args.field, args.id_field), progress.done, None)
    bar = tqdm(total=total, initial=progress.done, unit="text", disable=args.quiet)
    with ThreadPoolExecutor(args.parallel) as pool, bar:
        for batch, result in in_order(pool, client, batches(rows, args.batch), args):
            if isinstance(progress, Counter):
                progress.add(len(batch))
            else:
                progress.append(result)
            bar.update(len(batch))
    if isinstance(progress, Spool):
        write_output(Path(args.output), read_rows(source, args.field, args.id_field), progress)
    progress.remove()


def in_order(
    pool: ThreadPoolExecutor, client: Client, work: Iterator[list[Row]], args: argparse.Namespace
) -> Iterator[tuple[list[Row], Any]]:
    """Send batches side by side and yield each with its answer, in input order."""
    waiting: deque[tuple[list[Row], Future[Any]]] = deque()

    def send(batch: list[Row]) -> Future[Any]:
        if args.store:
            return pool.submit(client.store, args.store, Path(args.input).stem, batch)
        return pool.submit(client.embed, batch)

    try:
        for batch in itertools.chain(work, itertools.repeat(None, args.parallel * 2)):
            if batch is not None:
                waiting.append((batch, send(batch)))
            if waiting and (batch is None or len(waiting) >= args.parallel * 2):
                done, future = waiting.popleft()
                yield done, future.result()
    finally:
        for _, future in waiting:
            future.cancel()


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="embed_file.py",
        description="Embed a JSONL, CSV, TXT or Parquet file through a running service.",
        epilog="Run the same command again to go on after an interruption. "
        "EMBEDDING_API_KEY holds the key, if the service asks for one.",
    )
    parser.add_argument(
        "input", help="the file of texts: .jsonl, .csv, .txt (a line each), .parquet"
    )
    parser.add_argument("output", nargs="?", help="where vectors go: .npy, .jsonl or .parquet")
    parser.add_argument("--store", metavar="COLLECTION", help="store texts there instead of a file")
    parser.add_argument("--url", default="http://localhost:8001", help="(default: %(default)s)")
    parser.add_argument("--model", help="the model (default: the service's)")
    parser.add_argument("--field", default="text", help="field of the text (default: %(default)s)")
    parser.add_argument("--id-field", default="id", help="field of the id (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="texts a request (default: 64)")
    parser.add_argument("--parallel", type=int, default=4, help="requests at once (default: 4)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)
    if bool(args.output) == bool(args.store):
        parser.error("give an output file, or --store COLLECTION")
    if args.output and Path(args.output).suffix not in (".npy", ".jsonl", ".parquet"):
        parser.error("the output must end in .npy, .jsonl or .parquet")
    if not 1 <= args.batch <= 2048 or not 1 <= args.parallel <= 64:
        parser.error("--batch takes 1 to 2048, --parallel 1 to 64")
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    try:
        run(args)
    except (Stop, OSError, UnicodeDecodeError) as exc:
        print(f"embed_file.py: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
