"""The command that embeds a file of any size through a running service.

Streams the rows, sends several requests at once, waits when the service asks for it (429), and goes
on where it stopped after Ctrl-C or a kill: no row is sent twice into the output, none is missing.
"""

import itertools
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from tools.answers import Json, say, told
from tools.client import Answer, Client
from tools.output import base_of, beside, write_output, write_rejects
from tools.pipes import STANDARD, Pipes, opened
from tools.plan import Plan, checked_prefix, prefix_of
from tools.progress import Counter, RefusedLog, Spool
from tools.rows import TEXT_FIELDS, Row, Source
from tools.service import HERE, Key, Url

Progress = Spool | Counter

OUTPUTS = (".npy", ".jsonl", ".parquet")
MAX_STORED = 1000  # texts that one request may store
MAX_CHARS = 8 << 20  # of the texts of one request: an eighth of what the service takes
ROWS_LEFT_OUT = 3  # exit code of a run that left rows out
SHOWN = 20  # rows left out that a dry run names
INTERRUPTED = 130  # exit code of a run that was stopped


class OnError(StrEnum):
    """What to do with a row that cannot be read, or that the service refuses."""

    stop = "stop"
    skip = "skip"


class Format(StrEnum):
    """What comes from standard input."""

    jsonl = "jsonl"
    csv = "csv"
    txt = "txt"


@dataclass(frozen=True)
class Reading:
    """How the command line says that the rows of a file are read."""

    field: str | None
    id_field: str | None
    text_columns: str
    prefix: str | None
    skip: bool


@dataclass(frozen=True)
class Job:
    """What the command line asks for."""

    name: Path  # of the input, in messages
    base: Path  # what the names of all files that the run writes begin with
    rejects: Path
    output: str | None  # as the command line names it
    collection: str | None
    batch: int
    parallel: int
    quiet: bool


@dataclass(frozen=True)
class Outcome:
    """What became of the rows of a file, in numbers."""

    rows: int  # those that were to be sent
    left_out: int  # those that could not be read, or were refused
    cut: int  # of the texts that this run sent, those longer than the model takes


def run(job: Job, client: Client, plan: Plan) -> Outcome:
    """Do the whole job, or continue one that was interrupted. Raises Stop."""
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
        cut = send(job, client, plan, progress, log)
        if isinstance(progress, Spool):
            kept = (row for row in plan.rows() if row.index not in log.reasons)
            write_output(base, kept, progress)
        job.rejects.unlink(missing_ok=True)
        left_out = plan.refused + len(log.reasons)
        if left_out:
            write_rejects(job.rejects, job.name, plan.left_out(log.reasons))
        report(left_out, f"of the rows left out: {job.rejects} has each, its line and the reason")
        progress.remove()
        log.remove()
    return Outcome(plan.count, left_out, cut)


def report(count: int, what: str) -> None:
    """Print how many rows were treated differently, if any were."""
    if count:
        print(f"{count:,} {what}", file=sys.stderr)


def send(job: Job, client: Client, plan: Plan, progress: Progress, log: RefusedLog) -> int:
    """Send what is not done yet, and note each finished batch in input order. Raises Stop.

    Returns how many texts were cut.
    """
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
    return cut


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


def job_of(
    pipes: Pipes, rejects: Path | None, store: str | None, batch: int, parallel: int, quiet: bool
) -> Job:
    """Return the work that the command line asks for. Raises Stop."""
    base = base_of(pipes.name, pipes.output, store)
    left = rejects or pipes.rejects or beside(base, ".rejects.jsonl")
    output = None if store else str(STANDARD if pipes.rejects else base)
    return Job(pipes.name, base, left, output, store, batch, parallel, quiet)


def source_of(pipes: Pipes, reading: Reading, store: str | None) -> tuple[Source, str | None]:
    """Return the file's rows, and where they are stored the start of their ids. Raises Stop."""
    columns = [name.strip() for name in reading.text_columns.split(",") if name.strip()]
    source = Source(
        pipes.source, reading.field, reading.id_field, metadata=bool(store), text_columns=columns
    )
    if not store:
        return source, None
    if reading.prefix:
        return source, checked_prefix(reading.prefix)
    # The same texts from standard input are the same records, and others are others.
    return source, f"stdin-{pipes.digest}" if pipes.digest else prefix_of(pipes.source)


def work(job: Job, client: Client, plan: Plan, as_json: bool) -> int:
    """Do the whole job and, if asked, tell it as JSON; return how many rows were left out."""
    begun = time.monotonic()
    done = run(job, client, plan)
    if as_json:
        facts = {**asdict(done), "rejects": str(job.rejects) if done.left_out else None,
                 "output": job.output, "collection": job.collection,
                 "model": client.model, "seconds": round(time.monotonic() - begun, 3)}  # fmt: skip
        print(json.dumps(facts))
    return done.left_out


def preview(plan: Plan, job: Job, as_json: bool) -> int:
    """Tell what would be sent, and send nothing; return how many rows would be left out."""
    target = f"collection {job.collection}" if job.collection else job.output
    first = next(plan.rows(), None)
    shown = list(itertools.islice(plan.left_out({}), SHOWN))
    lines = [f"{job.name}: {plan.count:,} rows would go to {target}; nothing was sent"]
    if first:
        lines.append(f"the first: id {first.id!r}, text {first.text[:80]!r}, {first.metadata}")
    lines += [f"{plan.refused:,} rows would be left out:"] if plan.refused else []
    lines += [f"  line {out.line} {out.reason}" for out in shown]
    sample = asdict(first) if first else None
    left_out = [{"line": out.line, "reason": out.reason} for out in shown]
    facts = {"rows": plan.count, "left_out": plan.refused, "rejects": left_out, "first": sample,
             "output": job.output, "collection": job.collection}  # fmt: skip
    say(facts, "\n".join(lines), as_json)
    return plan.refused


EXAMPLES = """\b
examples:
  embedding-service embed texts.jsonl vectors.npy
  embedding-service embed mails.csv --field body --store mails --on-error skip
  embedding-service embed mails.csv --field body --store mails --dry-run
  echo "a text" | embedding-service embed -

\b
Run the same command again to continue after an interruption. The exit code is 3 if rows were left
out, 130 if it was interrupted. EMBEDDING_API_KEY holds the key, if the service needs one.
"""
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
opt = typer.Option


@app.command(epilog=EXAMPLES)
def embed(
    context: typer.Context,
    input: Annotated[Path, typer.Argument(
        metavar="INPUT",
        help="File of texts: .jsonl, .csv, .txt (a text a line), .parquet; - is standard input.")],
    output: Annotated[Path | None, typer.Argument(
        metavar="OUTPUT",
        help="File for the vectors: .npy, .jsonl or .parquet; - prints JSON lines.")] = None,
    store: Annotated[str | None, opt(
        metavar="COLLECTION",
        help="Store the texts in this collection instead of a file, other fields as metadata.",
    )] = None,
    url: Url = HERE,
    key: Key = None,
    model: Annotated[str | None, opt(help="Model (default: the service's).")] = None,
    field: Annotated[str | None, opt(
        help=f"Field of the text (default: the first of {', '.join(TEXT_FIELDS)}).")] = None,
    id_field: Annotated[str | None, opt(help="Field of the id (default: id).")] = None,
    text_columns: Annotated[str, opt(
        metavar="A,B",
        help="CSV columns that stay text, such as ZIP codes. Other columns in which every cell "
        "that is not empty is a number are stored as numbers.",
    )] = "",
    format: Annotated[Format | None, opt(
        help="What standard input is (default: jsonl if it begins with {, else txt).")] = None,
    on_error: Annotated[OnError, opt(
        help="At a row that cannot be read, or that the service refuses: stop and name its line; "
        "or skip it, write it to OUTPUT.rejects.jsonl (with --store: "
        "INPUT.COLLECTION.rejects.jsonl) with the reason, and end with exit code 3.",
    )] = OnError.stop,
    rejects: Annotated[Path | None, opt(help="Another file for the rows left out.")] = None,
    prefix: Annotated[str | None, opt(
        help="Start of stored ids where rows have none (default: of the file's path).")] = None,
    batch: Annotated[int, opt(min=1, max=2048, help="Texts in a request.")] = 64,
    parallel: Annotated[int, opt(min=1, max=64, help="Requests at once.")] = 4,
    dry_run: Annotated[bool, opt("--dry-run", help="Read the file, and send nothing.")] = False,
    quiet: Annotated[bool, opt("--quiet", help="Show no progress bar.")] = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Embed a JSONL, CSV, TXT or Parquet file through a running service."""
    if input != STANDARD and not os.path.exists(input):
        raise typer.BadParameter(f"{str(input)!r} does not exist", param_hint="'INPUT'")
    if output is None and store is None and input == STANDARD:
        output = STANDARD
    if bool(output) == bool(store):
        raise typer.BadParameter("give an output file, or --store COLLECTION")
    if output and output != STANDARD and output.suffix not in OUTPUTS:
        raise typer.BadParameter("the output must end in .npy, .jsonl or .parquet")
    if output == STANDARD and as_json and not dry_run:
        raise typer.BadParameter("--json and - both use standard output; leave one out")
    reading = Reading(field, id_field, text_columns, prefix, on_error is OnError.skip)
    with stoppable(), told(as_json, context.command_path), opened(input, output, format) as pipes:
        job = job_of(pipes, rejects, store, batch, parallel, quiet)
        client = Client(url, model, key, parallel)
        source, ids = source_of(pipes, reading, store)
        plan = Plan(source, ids, reading.skip)
        left_out = preview(plan, job, as_json) if dry_run else work(job, client, plan, as_json)
    raise typer.Exit(ROWS_LEFT_OUT if left_out else 0)


@contextmanager
def stoppable() -> Iterator[None]:
    """End with exit code 130 where SIGTERM or Ctrl-C stops the block."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to continue", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit; with 2 if the command itself is wrong."""
    app(argv, prog_name="embed_file.py")
