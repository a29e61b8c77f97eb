"""The command that embeds a file of any size through a running service.

Streams the rows, sends several requests at once, waits when the service asks for it (429), and goes
on where it stopped after Ctrl-C or a kill: no row is sent twice into the output, none is missing.
"""

import itertools
import os
import signal
import sys
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from tools.client import Answer, Client
from tools.output import base_of, beside, write_output, write_rejects
from tools.plan import Plan, checked_prefix, prefix_of
from tools.progress import Counter, RefusedLog, Spool
from tools.records import Stop
from tools.rows import TEXT_FIELDS, Row, Source

Progress = Spool | Counter

OUTPUTS = (".npy", ".jsonl", ".parquet")
MAX_STORED = 1000  # texts that one request may store
MAX_CHARS = 8 << 20  # of the texts of one request: an eighth of what the service takes
ROWS_LEFT_OUT = 3  # exit code of a run that left rows out
INTERRUPTED = 130  # exit code of a run that was stopped


class OnError(StrEnum):
    """What to do with a row that cannot be read, or that the service refuses."""

    stop = "stop"
    skip = "skip"


@dataclass(frozen=True)
class Job:
    """What the command line asks for."""

    base: Path  # what the names of all files that the run writes begin with
    collection: str | None
    batch: int
    parallel: int
    quiet: bool


def run(job: Job, client: Client, plan: Plan) -> int:
    """Do the whole job, or continue one that was interrupted; return the exit code. Raises Stop."""
    source, base = plan.source, job.base
    report(source.blank, f"blank line{'s' * (source.blank > 1)} left out")
    report(len(plan.earlier), "of the rows left out: a later one has the same id")
    identity = {"rows": plan.count, "digest": plan.digest, "model": client.model}
    progress: Progress
    if job.collection:
        identity |= {"url": client.url}
        progress = Counter(beside(base, ".part.json"), identity)
    else:
        progress = Spool(base, identity)
    with closing(progress):
        # Fewer stored than counted: records were deleted meanwhile, so everything is sent again.
        if job.collection and client.stored(job.collection) < progress.done:
            progress.done = 0
        log = RefusedLog(beside(base, ".part.refused"), identity, progress.done > 0)
        if log.reasons and not plan.skip:
            raise source.stop(next(plan.left_out(log.reasons)))
        send(job, client, plan, progress, log)
        if isinstance(progress, Spool):
            kept = (row for row in plan.rows() if row.index not in log.reasons)
            write_output(base, kept, progress)
        rejects = beside(base, ".rejects.jsonl")
        rejects.unlink(missing_ok=True)
        left_out = plan.refused + len(log.reasons)
        if left_out:
            write_rejects(rejects, source.path, plan.left_out(log.reasons))
        report(left_out, f"of the rows left out: {rejects} has each, its line and the reason")
        progress.remove()
        log.remove()
    return ROWS_LEFT_OUT if left_out else 0


def report(count: int, what: str) -> None:
    """Print how many rows were treated differently, if any were."""
    if count:
        print(f"{count:,} {what}", file=sys.stderr)


def send(job: Job, client: Client, plan: Plan, progress: Progress, log: RefusedLog) -> None:
    """Send what is not done yet, and note each finished batch in input order. Raises Stop."""
    known = frozenset(log.reasons)
    left = (row for row in plan.rows() if row.index not in known)
    rows = itertools.islice(left, progress.done, plan.count - len(known))
    work = batches(rows, min(job.batch, MAX_STORED) if job.collection else job.batch)
    sent = cut = 0
    try:
        with (
            tqdm(
                total=plan.count, initial=progress.done + len(known),
                unit="text", disable=job.quiet, miniters=1,
            ) as bar,
            ThreadPoolExecutor(job.parallel) as pool,
            # Closed before the pool waits for its threads, so that none of them waits any longer.
            closing(client),
            closing(in_order(pool, client, work, job, plan.skip)) as answers,
        ):  # fmt: skip
            client.on_wait = bar.set_postfix_str
            with explain_interrupt(client):
                for answer in answers:
                    sent += len(answer.kept)
                    cut += answer.cut
                    note(answer, plan, progress, log)
                    bar.set_postfix_str("", refresh=False)
                    bar.update(len(answer.kept) + len(answer.refused))
    finally:
        were = "was" if cut == 1 else "were"
        report(cut, f"of {sent:,} texts {were} longer than the model takes and {were} cut")


def batches(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    """Yield rows in lists of `size`, or fewer where the texts are long."""
    batch: list[Row] = []
    chars = 0
    for row in rows:
        if batch and (len(batch) == size or chars + len(row.text) > MAX_CHARS):
            yield batch
            batch, chars = [], 0
        batch.append(row)
        chars += len(row.text)
    if batch:
        yield batch


@contextmanager
def explain_interrupt(client: Client) -> Iterator[None]:
    """Say what an interrupted run still waits for; a second interrupt ends it at once."""
    try:
        yield
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: os._exit(INTERRUPTED))
        what = "are under way: waits for them; Ctrl-C or SIGTERM once more ends it now"
        report(client.under_way, f"requests {what}")
        raise


def note(answer: Answer, plan: Plan, progress: Progress, log: RefusedLog) -> None:
    """Note what became of a batch, durably. Raises Stop at a refused row unless skipping."""
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
    pool: ThreadPoolExecutor, client: Client, work: Iterator[list[Row]], job: Job, skip: bool
) -> Generator[Answer, None, None]:
    """Send batches in parallel and yield what became of each, in input order."""
    waiting: deque[Future[Answer]] = deque()
    try:
        for batch in itertools.chain(work, itertools.repeat(None, job.parallel * 2)):
            if batch and job.collection:
                waiting.append(pool.submit(client.store, job.collection, batch, skip))
            elif batch:
                waiting.append(pool.submit(client.embed, batch, skip))
            if waiting and (batch is None or len(waiting) >= job.parallel * 2):
                yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
opt = typer.Option


@app.command(
    epilog="Run the same command again to continue after an interruption. "
    "EMBEDDING_API_KEY holds the key, if the service needs one."
)
def embed(
    input: Annotated[Path, typer.Argument(
        exists=True, help="File of texts: .jsonl, .csv, .txt (a text a line), .parquet.")],
    output: Annotated[Path | None, typer.Argument(
        help="File for the vectors: .npy, .jsonl or .parquet.")] = None,
    store: Annotated[str | None, opt(
        metavar="COLLECTION",
        help="Store the texts in this collection instead of a file, other fields as metadata.",
    )] = None,
    url: Annotated[str, opt(help="Address of the service.")] = "http://localhost:8001",
    model: Annotated[str | None, opt(help="Model (default: the service's).")] = None,
    field: Annotated[str | None, opt(
        help=f"Field of the text (default: the first of {', '.join(TEXT_FIELDS)}).")] = None,
    id_field: Annotated[str | None, opt(help="Field of the id (default: id).")] = None,
    text_columns: Annotated[str, opt(
        metavar="A,B",
        help="CSV columns that stay text, such as ZIP codes. Other columns in which every cell "
        "that is not empty is a number are stored as numbers.",
    )] = "",
    on_error: Annotated[OnError, opt(
        help="At a row that cannot be read, or that the service refuses: stop and name its line; "
        "or skip it, write it to OUTPUT.rejects.jsonl (with --store: "
        "INPUT.COLLECTION.rejects.jsonl) with the reason, and end with exit code 3.",
    )] = OnError.stop,
    prefix: Annotated[str | None, opt(
        help="Start of stored ids where rows have none (default: of the file's path).")] = None,
    batch: Annotated[int, opt(min=1, max=2048, help="Texts in a request.")] = 64,
    parallel: Annotated[int, opt(min=1, max=64, help="Requests at once.")] = 4,
    quiet: Annotated[bool, opt("--quiet", help="Show no progress bar.")] = False,
) -> None:  # fmt: skip
    """Embed a JSONL, CSV, TXT or Parquet file through a running service."""
    if bool(output) == bool(store):
        raise typer.BadParameter("give an output file, or --store COLLECTION")
    if output and output.suffix not in OUTPUTS:
        raise typer.BadParameter("the output must end in .npy, .jsonl or .parquet")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop as at Ctrl-C
    try:
        columns = [name.strip() for name in text_columns.split(",") if name.strip()]
        source = Source(input, field, id_field, metadata=bool(store), text_columns=columns)
        job = Job(base_of(input, output, store), store, batch, parallel, quiet)
        ids = (checked_prefix(prefix) if prefix else prefix_of(input)) if store else None
        client = Client(url, model, os.environ.get("EMBEDDING_API_KEY"), parallel)
        code = run(job, client, Plan(source, ids, on_error is OnError.skip))
    except (Stop, OSError, MemoryError) as exc:
        reason = str(exc) or "there is too little memory for this"
        line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in reason)
        print(f"embed_file.py: {line}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to continue", file=sys.stderr)
        code = INTERRUPTED
    raise typer.Exit(code)


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit; with 2 if the command itself is wrong."""
    app(argv, prog_name="embed_file.py")
