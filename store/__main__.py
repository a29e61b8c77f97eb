"""`python -m store`: look after a file store by hand, while the service runs or not.

Each command may run beside the service: it takes the same locks. Answers go to standard output,
progress and errors to standard error; the exit code is 0 when all is well, 1 when something is
wrong with what is stored, 2 when the command could not be done.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from errors import Corrupt, Invalid, NotFound, ServiceError
from store.base import Report
from store.file import FileStore
from store.ledger import Options
from store.transfer import export_jsonl, import_jsonl

HELP = {
    "list": "list the collections",
    "stats": "print figures of the store, or of one collection, as JSON",
    "verify": "read everything and check it; change nothing (all collections if none is named)",
    "repair": "save what is undamaged; the damaged file is kept beside it",
    "compact": "give back the space of what was deleted or replaced",
    "backup": "write a consistent copy into a new folder while writes go on",
    "restore": "make a new collection from a backup; the backup is checked, never trusted",
    "export": "write a collection as JSON lines, to standard output or a file",
    "import": "make a new collection from JSON lines, from standard input or a file",
}
EXAMPLES = """examples:
  python -m store list
  python -m store verify
  python -m store backup docs /backups/docs-monday
  python -m store restore /backups/docs-monday --name docs-again
  python -m store export docs | gzip > docs.jsonl.gz
  zcat docs.jsonl.gz | python -m store import - --name docs-copy
"""


class Bar:
    """A line of progress on standard error, when a person looks at it."""

    def __init__(self, what: str) -> None:
        self._what, self._shown = what, 0.0
        self._live = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        """Show how far it is."""
        now = time.monotonic()
        if not self._live or (now - self._shown < 0.1 and done != total):
            return
        self._shown = now
        if total:
            filled = min(30, 30 * done // total)
            bar = "#" * filled + "." * (30 - filled)
            print(f"\r{self._what} [{bar}] {100 * done // total:3d} %", end="", file=sys.stderr)
        else:
            print(f"\r{self._what} {done:,}", end="", file=sys.stderr)

    def close(self) -> None:
        """Take the line away."""
        if self._live and self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    plain = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        "python -m store", description=__doc__, epilog=EXAMPLES, formatter_class=plain
    )
    top.add_argument(
        "--dir",
        type=Path,
        default=Path(os.environ.get("STORE_DIR", "data/store")),
        help="the store's folder (default: $STORE_DIR, or data/store)",
    )
    top.add_argument("--json", action="store_true", help="print answers as JSON")
    top.add_argument(
        "--wait",
        type=float,
        default=10,
        metavar="S",
        help="seconds to wait for a lock (default 10)",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    made = {
        name: commands.add_parser(name, help=text, description=text) for name, text in HELP.items()
    }
    for name in ("verify", "repair", "compact", "stats"):
        made[name].add_argument("collection", nargs="?" if name != "compact" else None)
    for name in ("backup", "export"):
        made[name].add_argument("collection")
    made["backup"].add_argument("folder", type=Path, help="a folder that is not there yet")
    made["export"].add_argument("file", nargs="?", default="-", help="default: standard output")
    made["restore"].add_argument("folder", type=Path, help="the backup's folder")
    made["import"].add_argument("file", nargs="?", default="-", help="default: standard input")
    for name in ("restore", "import"):
        made[name].add_argument("--name", help="the new collection's name (default: its old one)")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    args = parser().parse_args(arguments)
    bar = Bar(args.command)
    try:
        if not (args.dir / "catalog").is_dir() and args.command not in ("restore", "import"):
            raise NotFound(f"{args.dir} holds no store; name its folder with --dir")
        options = Options(lock_timeout_s=args.wait)
        with FileStore(args.dir, options=options) as store:
            return _run(store, args, bar)
    except (ServiceError, OSError) as exc:
        bar.close()
        print(f"error: {getattr(exc, 'message', exc)}", file=sys.stderr)
        return 1 if isinstance(exc, Corrupt) else 2
    except KeyboardInterrupt:
        bar.close()
        print("stopped; the store is as it was before the last whole step", file=sys.stderr)
        return 2


def _run(store: FileStore, args: argparse.Namespace, bar: Bar) -> int:
    command = args.command
    if command == "list":
        infos = store.collections()
        head = ("NAME", "ROWS", "DIM", "METRIC", "MODEL", "INDEXED", "ALIASES")
        rows = [
            (i.name, f"{i.count:,}", str(i.dim), i.metric, i.model or "-",
             ", ".join(i.indexed) or "-", ", ".join(i.aliases))
            for i in infos
        ]  # fmt: skip
        _say(args, [asdict(i) for i in infos], _table([head, *rows]))
    elif command == "stats":
        _say(args, store.stats(args.collection), json.dumps(store.stats(args.collection), indent=2))
    elif command in ("verify", "repair", "compact"):
        return _reports(store, args, bar)
    elif command == "backup":
        made = store.backup(args.collection, args.folder)
        facts = {"folder": str(made.path), "rows": made.rows, "bytes": made.bytes}
        _say(args, facts, f"{made.rows:,} rows of {made.name} in {made.path}")
    elif command == "restore":
        info = store.restore(args.folder, args.name, bar)
        bar.close()
        _say(args, asdict(info), f"{info.count:,} rows restored to {info.name}")
    elif command == "export":
        with _opened(args.file, "xb") as out:
            count = export_jsonl(store, args.collection, out, bar)
        bar.close()
        print(f"{count:,} rows exported", file=sys.stderr)
        if problem := store.unread(args.collection):
            print(f"error: that is not all: {problem}", file=sys.stderr)
            return 1
    elif command == "import":
        with _opened(args.file, "rb") as source:
            info = import_jsonl(store, source, args.name, bar)
        bar.close()
        _say(args, asdict(info), f"{info.count:,} rows imported to {info.name}")
    return 0


def _reports(store: FileStore, args: argparse.Namespace, bar: Bar) -> int:
    """Verify, repair or compact one collection or all; 1 if something is wrong."""
    if args.command == "repair" and not args.collection:
        for line in store.repair_catalog():
            print(f"catalogue: {line}")
    names = [args.collection] if args.collection else store.names()
    reports: dict[str, Report] = {}
    for name in names:
        if args.command == "verify":
            reports[name] = store.verify(name, bar)
        elif args.command == "repair":
            reports[name] = store.repair(name)
        else:
            reports[name] = store.compact(name)
        bar.close()
    lines = []
    for name, report in reports.items():
        word = "ok" if report.ok else "DAMAGED"
        freed = f", {report.freed_bytes:,} bytes freed" if args.command == "compact" else ""
        lines.append(f"{name}: {word}, {report.rows:,} rows{freed}")
        lines += [f"  {problem}" for problem in report.problems]
    _say(
        args, {name: asdict(r) for name, r in reports.items()}, "\n".join(lines) or "nothing there"
    )
    return 0 if all(report.ok for report in reports.values()) else 1


def _say(args: argparse.Namespace, data: Any, text: str) -> None:
    print(json.dumps(data) if args.json else text)


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _opened(file: str, mode: str) -> BinaryIO:
    if file == "-":
        stream = sys.stdin if mode == "rb" else sys.stdout
        return open(os.dup(stream.fileno()), mode.replace("x", "w"))  # type: ignore[return-value]
    try:
        return open(file, mode)  # type: ignore[return-value]
    except FileExistsError:
        raise Invalid(f"{file} is there already") from None


if __name__ == "__main__":
    sys.exit(main())
