"""A real MariaDB, from Debian's `mariadb-server`."""

import itertools
import os
import pwd
import subprocess
from typing import ClassVar, Self

from tests.servers.process import Missing, Server

_names = itertools.count(1)


class MariaDB(Server):
    """One MariaDB server. `database()` gives each test an empty database of its own."""

    program: ClassVar[str] = "mariadbd"
    install: ClassVar[str] = "apt-get install mariadb-server"
    runs_as: ClassVar[str | None] = "mysql"

    @classmethod
    def require(cls) -> None:
        super().require()
        if os.getuid() == 0 and "mysql" not in {entry.pw_name for entry in pwd.getpwall()}:
            raise Missing(f"the user mysql does not exist; run: {cls.install}")

    def command(self) -> list[str]:
        return [
            *(str(self.find("mariadbd")), "--no-defaults", f"--datadir={self.folder}/data"),
            *(f"--port={self.port}", "--bind-address=127.0.0.1", f"--socket={self.folder}/s.sock"),
            *(f"--pid-file={self.folder}/pid", f"--init-file={self.folder}/init.sql"),
            *("--skip-name-resolve", "--skip-log-bin", "--innodb-buffer-pool-size=32M"),
            # A killed process loses nothing by these, only a machine without power does.
            *("--innodb-flush-log-at-trx-commit=2", "--skip-innodb-doublewrite"),
            *("--innodb-log-file-size=16M", "--max-connections=100"),
        ]

    def ready(self) -> bool:
        if not super().ready():
            return False
        try:
            self.sql("SELECT 1")
        except RuntimeError:
            return False
        return True

    def start(self) -> Self:
        """Start it, making its data folder the first time."""
        if not (self.folder / "data").exists():
            self.run(
                *(str(self.find("mariadb-install-db")), "--no-defaults", "--skip-test-db"),
                *(f"--datadir={self.folder}/data", "--auth-root-authentication-method=normal"),
            )
            init = self.folder / "init.sql"
            init.write_text(
                "CREATE USER IF NOT EXISTS 'test'@'%' IDENTIFIED BY 'test';\n"
                "GRANT ALL ON *.* TO 'test'@'%' WITH GRANT OPTION;\n"
            )
            init.chmod(0o644)
        return super().start()

    def url(self, database: str) -> str:
        """The SQLAlchemy URL of a database."""
        return f"mysql+pymysql://test:test@127.0.0.1:{self.port}/{database}?charset=utf8mb4"

    def database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"t{os.getpid()}_{next(_names)}"
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def sql(self, statement: str) -> str:
        """Run one statement and return its rows, columns separated by tabs."""
        done = subprocess.run(
            [
                *(str(self.find("mariadb")), "--no-defaults", "-h127.0.0.1", f"-P{self.port}"),
                *("-utest", "-ptest", "--batch", "--skip-column-names", "-e", statement),
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        return done.stdout.strip()
