"""Embeds a file of any size through a running service: `python embed_file.py texts.jsonl out.npy`.

Streams JSONL, CSV, TXT (a text a line) or Parquet, with several requests at once, waits when told
to (429), and goes on where it stopped after Ctrl-C or a kill: nothing twice, nothing missing.
"""

import argparse
import hashlib
import itertools
import os
import signal
import sys
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bulk.client import Client
from bulk.rows import Row, Stop, blank_lines, read_rows
from bulk.spool import Counter, Spool, write_output


def batches(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    """Yield rows in lists of `size`."""
    while batch := list(itertools.islice(rows, size)):
        yield batch


def survey(rows: Iterator[Row]) -> tuple[int, str]:
    """Return how many rows there are, and a digest of them: what a resumed run is held to."""
    count, digest = 0, hashlib.blake2b(digest_size=16)
    for row in rows:
        more = f" {row.metadata!r}" if row.metadata else ""
        digest.update(f"{row.id!r} {row.text}{more}\n".encode(errors="surrogatepass"))
        count += 1
    return count, digest.hexdigest()


def rows_of(args: argparse.Namespace) -> Iterator[Row]:
    """Stream the input's rows; with what else it says of them where that is stored."""
    return read_rows(Path(args.input), args.field, args.id_field, metadata=bool(args.store))


def prefix_of(source: Path) -> str:
    """Return the start of the ids of rows without one: the same for this file, and no other's."""
    place = hashlib.blake2b(str(source.resolve()).encode(errors="surrogatepass"), digest_size=4)
    return f"{source.stem}-{place.hexdigest()}"


def run(args: argparse.Namespace) -> None:
    """Do the whole job, or go on with one that was begun. Raises Stop."""
    source = Path(args.input)
    total, digest = survey(rows_of(args))
    if blank := blank_lines(source):
        print(f"{blank} blank line{'s' * (blank > 1)} left out", file=sys.stderr)
    key = os.environ.get("EMBEDDING_API_KEY")
    with tqdm(total=total, unit="text", disable=args.quiet, miniters=1) as bar:
        client = Client(args.url, args.model, key, args.parallel, bar.set_postfix_str)
        identity = {"rows": total, "digest": digest, "model": client.model}
        progress: Spool | Counter
        if args.store:
            beside = source.with_name(f"{source.name}.{args.store}.part.json")
            progress = Counter(beside, {**identity, "url": args.url})
            if client.stored(args.store) < progress.done:  # somebody deleted some: all again
                progress.done = 0
        else:
            progress = Spool(Path(args.output), identity)
        with closing(progress):
            embed(args, client, progress, bar)
            if isinstance(progress, Spool):
                write_output(Path(args.output), rows_of(args), progress)
            progress.remove()


def embed(
    args: argparse.Namespace, client: Client, progress: Spool | Counter, bar: "tqdm[Any]"
) -> None:
    """Send what is not done yet, and note each batch that is, in input order. Raises Stop."""
    bar.initial = bar.n = progress.done
    work = batches(itertools.islice(rows_of(args), progress.done, bar.total), args.batch)
    with (
        ThreadPoolExecutor(args.parallel) as pool,
        closing(client),  # before the pool waits for its threads: none of them waits any longer
        closing(in_order(pool, client, work, args)) as answers,
    ):
        for batch, answer in answers:
            if isinstance(progress, Counter):
                progress.add(len(batch))
            else:
                progress.append(*answer)
            bar.set_postfix_str("", refresh=False)
            bar.update(len(batch))


def in_order(
    pool: ThreadPoolExecutor, client: Client, work: Iterator[list[Row]], args: argparse.Namespace
) -> Generator[tuple[list[Row], Any], None, None]:
    """Send batches side by side and yield each with its answer, in input order."""
    waiting: deque[tuple[list[Row], Future[Any]]] = deque()

    def send(batch: list[Row]) -> Future[Any]:
        if args.store:
            prefix = args.prefix or prefix_of(Path(args.input))
            return pool.submit(client.store, args.store, prefix, batch)
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
    parser.add_argument(
        "--store",
        metavar="COLLECTION",
        help="store texts there instead of a file, their other fields as metadata",
    )
    parser.add_argument("--url", default="http://localhost:8001", help="(default: %(default)s)")
    parser.add_argument("--model", help="the model (default: the service's)")
    parser.add_argument("--field", default="text", help="field of the text (default: %(default)s)")
    parser.add_argument("--id-field", default="id", help="field of the id (default: %(default)s)")
    parser.add_argument(
        "--prefix", help="start of stored ids where rows have none (default: of the file's path)"
    )
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
