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
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

from tqdm import tqdm

from tools.client import Answer, Client
from tools.output import write_output, write_rejects
from tools.places import base_of, beside
from tools.plan import Plan, checked_prefix, prefix_of
from tools.records import Stop
from tools.rows import TEXT_FIELDS, Row, Source
from tools.spool import Counter, RefusedLog, Spool

OUTPUTS = (".npy", ".jsonl", ".parquet")
MOST_STORED = 1000  # texts that one request may store
MOST_CHARS = 8 << 20  # of the texts of one request: an eighth of what the service takes
LEFT_OUT = 3  # the exit code of a run that left rows out
INTERRUPTED = 130  # and of one that was stopped


def batches(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    """Yield rows in lists of `size`, or fewer where the texts are long."""
    batch: list[Row] = []
    chars = 0
    for row in rows:
        if batch and (len(batch) == size or chars + len(row.text) > MOST_CHARS):
            yield batch
            batch, chars = [], 0
        batch.append(row)
        chars += len(row.text)
    if batch:
        yield batch


def run(args: argparse.Namespace) -> int:
    """Do the whole job, or go on with one that was begun; return the exit code. Raises Stop."""
    storing = bool(args.store)
    source = Source(
        Path(args.input), args.field, args.id_field,
        metadata=storing, text_columns=args.text_columns,
    )  # fmt: skip
    base = base_of(source.path, args.output, args.store)
    key = os.environ.get("EMBEDDING_API_KEY")
    prefix = None
    if storing:
        prefix = checked_prefix(args.prefix) if args.prefix else prefix_of(source.path)
    client = Client(args.url, args.model, key, args.parallel)
    plan = Plan(source, prefix, args.on_error == "skip")
    tell(source.blank, f"blank line{'s' * (source.blank > 1)} left out")
    tell(len(plan.earlier), "of the rows left out: a later one has the same id")
    identity = {"rows": plan.count, "digest": plan.digest, "model": client.model}
    progress: Spool | Counter
    if storing:
        identity |= {"url": args.url}
        progress = Counter(beside(base, ".part.json"), identity)
    else:
        progress = Spool(base, identity)
    with closing(progress):
        if storing and client.stored(args.store) < progress.done:
            progress.done = 0  # somebody deleted some: all again
        log = RefusedLog(beside(base, ".part.refused"), identity, progress.done > 0)
        if log.reasons and not plan.skip:
            raise source.stop(next(plan.left_out(log.reasons)))
        send(args, client, plan, progress, log)
        if isinstance(progress, Spool):
            kept = (row for row in plan.rows() if row.index not in log.reasons)
            write_output(base, kept, progress)
        rejects = beside(base, ".rejects.jsonl")
        rejects.unlink(missing_ok=True)  # of an earlier run
        left_out = plan.refused + len(log.reasons)
        if left_out:
            write_rejects(rejects, source.path, plan.left_out(log.reasons))
        tell(left_out, f"of the rows left out: {rejects} has each, its line and the reason")
        progress.remove()
        log.remove()
    return LEFT_OUT if left_out else 0


def tell(count: int, what: str) -> None:
    """Say how many are not as one might think, if there are any."""
    if count:
        print(f"{count:,} {what}", file=sys.stderr)


def send(
    args: argparse.Namespace,
    client: Client,
    plan: Plan,
    progress: Spool | Counter,
    log: RefusedLog,
) -> None:
    """Send what is not done yet, and note each batch that is, in input order. Raises Stop."""
    known = frozenset(log.reasons)
    left = (row for row in plan.rows() if row.index not in known)
    rows = itertools.islice(left, progress.done, plan.count - len(known))
    work = batches(rows, min(args.batch, MOST_STORED) if args.store else args.batch)
    sent = cut = 0
    try:
        with (
            tqdm(
                total=plan.count, initial=progress.done + len(known),
                unit="text", disable=args.quiet, miniters=1,
            ) as bar,
            ThreadPoolExecutor(args.parallel) as pool,
            closing(client),  # before the pool waits for its threads: none of them waits any longer
            closing(in_order(pool, client, work, args)) as answers,
        ):  # fmt: skip
            client.told = bar.set_postfix_str
            with told_when_stopped(client):
                for answer in answers:
                    sent += len(answer.kept)
                    cut += answer.cut
                    note(answer, plan, progress, log)
                    bar.set_postfix_str("", refresh=False)
                    bar.update(len(answer.kept) + len(answer.refused))
    finally:
        were = "was" if cut == 1 else "were"
        tell(cut, f"of {sent:,} texts {were} longer than the model takes and {were} cut")


@contextmanager
def told_when_stopped(client: Client) -> Iterator[None]:
    """Say for what a run that is stopped still waits; stopped once more it ends at once."""
    try:
        yield
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: os._exit(INTERRUPTED))
        tell(
            client.under_way,
            "requests are under way: waits for them; Ctrl-C or SIGTERM once more ends it now",
        )
        raise


def note(answer: Answer, plan: Plan, progress: Spool | Counter, log: RefusedLog) -> None:
    """Note what became of a batch, durably. Raises Stop where a row is not to be left out."""
    refused = {row.index: reason for row, reason in answer.refused}
    if refused and not plan.skip:
        raise plan.source.stop(next(plan.left_out(refused)))
    if refused:
        log.add(refused)
    if isinstance(progress, Counter):
        progress.add(len(answer.kept))
    else:
        for vectors, space in answer.vectors:
            progress.append(vectors, space)


def in_order(
    pool: ThreadPoolExecutor,
    client: Client,
    work: Iterator[list[Row]],
    args: argparse.Namespace,
) -> Generator[Answer, None, None]:
    """Send batches side by side and yield what became of each, in input order."""
    waiting: deque[Future[Answer]] = deque()
    skip = args.on_error == "skip"

    def begin(batch: list[Row]) -> Future[Answer]:
        if args.store:
            return pool.submit(client.store, args.store, batch, skip)
        return pool.submit(client.embed, batch, skip)

    try:
        for batch in itertools.chain(work, itertools.repeat(None, args.parallel * 2)):
            if batch is not None:
                waiting.append(begin(batch))
            if waiting and (batch is None or len(waiting) >= args.parallel * 2):
                yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def command_line() -> argparse.ArgumentParser:
    """Return what reads the command line."""
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
    parser.add_argument(
        "--field",
        help=f"field of the text (default: the first there is of {', '.join(TEXT_FIELDS)})",
    )
    parser.add_argument("--id-field", help="field of the id (default: id)")
    parser.add_argument(
        "--text-columns",
        type=lambda given: [name.strip() for name in given.split(",") if name.strip()],
        default=[],
        metavar="A,B",
        help="columns of a CSV that stay text, such as ZIP codes; others in which every cell that "
        "is not empty is a number are stored as numbers",
    )
    parser.add_argument(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="at a row that cannot be read, or that the service refuses: stop and name its line "
        "(default), or leave it out, write it to OUTPUT.rejects.jsonl (with --store: "
        "INPUT.COLLECTION.rejects.jsonl) with the reason, and end with the exit code 3",
    )
    parser.add_argument(
        "--prefix", help="start of stored ids where rows have none (default: of the file's path)"
    )
    parser.add_argument("--batch", type=int, default=64, help="texts a request (default: 64)")
    parser.add_argument("--parallel", type=int, default=4, help="requests at once (default: 4)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = command_line()
    args = parser.parse_args(argv)
    if not os.path.exists(args.input):
        parser.error(f"{args.input}: there is no such file")
    if bool(args.output) == bool(args.store):
        parser.error("give an output file, or --store COLLECTION")
    if args.output and Path(args.output).suffix not in OUTPUTS:
        parser.error("the output must end in .npy, .jsonl or .parquet")
    if not 1 <= args.batch <= 2048 or not 1 <= args.parallel <= 64:
        parser.error("--batch takes 1 to 2048, --parallel 1 to 64")
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    try:
        return run(args)
    except (Stop, OSError, MemoryError) as exc:
        said = str(exc) or "there is too little memory for this"
        line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in said)
        print(f"embed_file.py: {line}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to go on", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
