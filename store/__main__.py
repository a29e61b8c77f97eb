"""`python -m store`: look after a store by hand, while the service runs or not.

Each command may run beside the service: it takes the same locks. Answers go to standard output,
progress and errors to standard error; the exit code is 0 when all is well, 1 when something is
wrong with what is stored, 2 when the command could not be done.
"""

import itertools
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO
from urllib.parse import unquote, urlsplit

import typer
from tqdm import tqdm
from typer.core import TyperGroup

from config.fields import read_dotenv
from errors import Corrupt, Invalid, NotFound, ServiceError
from store.base import Progress, Report
from store.file import FileStore
from store.pgvector import PostgresStore
from store.record_file import Options
from store.transfer import export_jsonl, import_jsonl
from tools.places import places

# Lines that start with \b are not filled to a paragraph.
EXAMPLES = """\b
examples:
  python -m store list
  python -m store verify
  python -m store backup docs /backups/docs-monday
  python -m store restore /backups/docs-monday --name docs-again
  python -m store export docs | gzip > docs.jsonl.gz
  zcat docs.jsonl.gz | python -m store import - --name docs-copy
"""

Store = FileStore | PostgresStore
Dir = Annotated[
    Path | None, typer.Option(help="The store's folder (default: $STORE_DIR, or data/store).")
]
Url = Annotated[
    str | None, typer.Option(help="Or the URL of a store in PostgreSQL (default: $STORE_URL).")
]
Json = Annotated[bool, typer.Option("--json", help="Print answers as JSON.")]
Wait = Annotated[float, typer.Option(metavar="S", help="Seconds to wait for a lock.")]
Name = Annotated[str | None, typer.Option(help="The new collection's name (default: its old one).")]
OneOrAll = Annotated[str | None, typer.Argument(show_default=False)]
NewFolder = Annotated[Path, typer.Argument(help="A folder that is not there yet.")]
Backup = Annotated[Path, typer.Argument(help="The backup's folder.")]
Output = Annotated[str, typer.Argument(help="Default: standard output.", show_default=False)]
Input = Annotated[str, typer.Argument(help="Default: standard input.", show_default=False)]

VALUES, FLAGS = ("--dir", "--url", "--wait"), ("--json",)  # the options that all commands have


class Anywhere(TyperGroup):
    """Takes the options that all commands have behind the command's name, too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put these options in front, and read the rest."""
        front: list[str] = []
        rest: list[str] = []
        left = iter(args)
        for word in left:
            if word == "--":
                rest += [word, *left]
            elif word in FLAGS or word.startswith(tuple(f"{name}=" for name in VALUES)):
                front.append(word)
            elif word in VALUES:
                front += [word, *itertools.islice(left, 1)]
                if front[-1] == word:
                    ctx.fail(f"Option {word!r} requires an argument.")
            else:
                rest.append(word)
        return super().parse_args(ctx, [*front, *rest])


app = typer.Typer(
    cls=Anywhere, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)


@dataclass(frozen=True)
class Target:
    """Which store a command is for, and how it answers."""

    dir: Path | None
    url: str | None
    json: bool
    wait: float

    @contextmanager
    def opened(self, command: str = "") -> Iterator[Store]:
        """Give the store for a block; end the command with its exit code if something fails."""
        try:
            with self._store(command) as store:
                yield store
        except (ServiceError, OSError) as exc:
            print(f"error: {getattr(exc, 'message', exc)}", file=sys.stderr)
            raise typer.Exit(1 if isinstance(exc, Corrupt) else 2) from exc
        except KeyboardInterrupt:
            print("stopped; the store is as it was before the last whole step", file=sys.stderr)
            raise typer.Exit(2) from None

    def _store(self, command: str) -> Store:
        """Open the store: a folder that is named goes before a database of the environment."""
        url = urlsplit("" if self.dir else self.url or "")
        if url.scheme not in ("", "file"):
            if command == "repair":
                raise Invalid("repair is for stores in files; PostgreSQL has tools of its own")
            return PostgresStore(str(self.url))
        folder = self.dir or Path(
            unquote(url.path) or _environment().get("STORE_DIR", "data/store")
        )
        if not (folder / "catalog.db").is_file() and command not in ("restore", "import"):
            raise NotFound(f"{folder} holds no store; name its folder with --dir")
        return FileStore(folder, options=Options(lock_timeout_s=self.wait))

    def say(self, data: Any, text: str) -> None:
        """Print an answer."""
        print(json.dumps(data) if self.json else text)

    def report(self, reports: dict[str, Report], compacted: bool = False) -> None:
        """Print what was found by collection; end with 1 if something is wrong."""
        lines = []
        for name, report in reports.items():
            word = "ok" if report.ok else "DAMAGED"
            freed = f", {report.freed_bytes:,} bytes freed" if compacted else ""
            lines.append(f"{name}: {word}, {report.rows:,} rows{freed}")
            lines += [f"  {problem}" for problem in report.problems]
        facts = {name: asdict(report) for name, report in reports.items()}
        self.say(facts, "\n".join(lines) or "nothing there")
        if not all(report.ok for report in reports.values()):
            raise typer.Exit(1)


def _environment() -> dict[str, str]:
    """Return the variables that say where the store is, as the service finds them."""
    given = {**read_dotenv(Path(".env")), **os.environ}
    known = {name: value for name, value in given.items() if value}
    return {**places(known), **known}


@contextmanager
def bar(what: str) -> Iterator[Progress]:
    """Give what shows progress on standard error, when a person looks at it."""
    with tqdm(desc=what, unit=" rows", leave=False, disable=None) as shown:

        def show(done: int, total: int) -> None:
            shown.total = total or None
            shown.update(done - shown.n)

        yield show


@app.callback(help=__doc__, epilog=EXAMPLES)
def options(
    context: typer.Context, dir: Dir = None, url: Url = None, json: Json = False, wait: Wait = 10
) -> None:
    """Note what is the same for all commands."""
    context.obj = Target(dir, url or _environment().get("STORE_URL"), json, wait)


@app.command("list")
def list_(context: typer.Context) -> None:
    """List the collections."""
    with context.obj.opened() as store:
        infos = store.collections()
        head = ("NAME", "ROWS", "DIM", "METRIC", "MODEL", "INDEXED", "ALIASES")
        rows = [
            (i.name, "DAMAGED" if i.damage else f"{i.count:,}", str(i.dim), i.metric,
             i.model or "-", ", ".join(i.indexed) or "-", ", ".join(i.aliases))
            for i in infos
        ]  # fmt: skip
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows)]
        context.obj.say([asdict(i) for i in infos], "\n".join(lines))
        damage = [i.damage for i in infos if i.damage]
        print("".join(f"error: {each}\n" for each in damage), end="", file=sys.stderr)
        if damage:
            raise typer.Exit(1)


@app.command()
def stats(context: typer.Context, collection: OneOrAll = None) -> None:
    """Print figures of the store, or of one collection, as JSON."""
    with context.obj.opened() as store:
        figures = store.stats(collection)
        context.obj.say(figures, json.dumps(figures, indent=2))


@app.command()
def verify(context: typer.Context, collection: OneOrAll = None) -> None:
    """Read everything and check it; change nothing (all collections if none is named)."""
    reports = {}
    with context.obj.opened() as store:
        for name in [collection] if collection else store.names():
            try:
                with bar(f"verify {name}") as progress:
                    reports[name] = store.verify(name, progress)
            except ServiceError as exc:  # go on with the others
                if collection:
                    raise
                if name in store.names():  # it was not dropped meanwhile
                    lost = "its files are missing; restore a backup"
                    problem = lost if isinstance(exc, NotFound) else exc.message
                    reports[name] = Report(False, 0, (problem,))
        context.obj.report(reports)


@app.command()
def repair(context: typer.Context, collection: OneOrAll = None) -> None:
    """Save what is undamaged; the damaged file is kept beside it."""
    with context.obj.opened("repair") as store:
        if not collection:
            for line in store.repair_catalog():
                print(f"catalogue: {line}")
        names = [collection] if collection else store.names()
        context.obj.report({name: store.repair(name) for name in names})


@app.command()
def compact(context: typer.Context, collection: str) -> None:
    """Give back the space of what was deleted or replaced."""
    with context.obj.opened() as store:
        context.obj.report({collection: store.compact(collection)}, compacted=True)


@app.command()
def backup(context: typer.Context, collection: str, folder: NewFolder) -> None:
    """Write a consistent copy into a new folder while writes go on."""
    with context.obj.opened() as store:
        made = store.backup(collection, folder)
        facts = {"folder": str(made.path), "rows": made.rows, "bytes": made.bytes}
        context.obj.say(facts, f"{made.rows:,} rows of {made.name} in {made.path}")


@app.command()
def restore(context: typer.Context, folder: Backup, name: Name = None) -> None:
    """Make a new collection from a backup; the backup is checked, never trusted."""
    with context.obj.opened("restore") as store:
        with bar("restore") as progress:
            info = store.restore(folder, name, progress)
        context.obj.say(asdict(info), f"{info.count:,} rows restored to {info.name}")


@app.command()
def export(context: typer.Context, collection: str, file: Output = "-") -> None:
    """Write a collection as JSON lines, to standard output or a file."""
    with context.obj.opened() as store:
        with _stream(file, "xb") as out, bar("export") as progress:
            count = export_jsonl(store, collection, out, progress)
        print(f"{count:,} rows exported", file=sys.stderr)


@app.command("import")
def import_(context: typer.Context, file: Input = "-", name: Name = None) -> None:
    """Make a new collection from JSON lines, from standard input or a file."""
    with context.obj.opened("import") as store:
        with _stream(file, "rb") as source, bar("import") as progress:
            info = import_jsonl(store, source, name, progress)
        context.obj.say(asdict(info), f"{info.count:,} rows imported to {info.name}")


def _stream(file: str, mode: str) -> BinaryIO:
    if file == "-":
        stream = sys.stdin if mode == "rb" else sys.stdout
        return open(os.dup(stream.fileno()), mode.replace("x", "w"))  # type: ignore[return-value]
    try:
        return open(file, mode)  # type: ignore[return-value]
    except FileExistsError:
        raise Invalid(f"{file} is there already") from None


def main(argv: list[str] | None = None) -> None:
    """Run one command and exit with its code; with 2 if the command itself is wrong."""
    app(argv, prog_name="python -m store")


if __name__ == "__main__":
    main()
