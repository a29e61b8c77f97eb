"""A real Redis, from Debian's `redis-server`."""

import socket
from typing import ClassVar

from tests.servers.process import Server


class Redis(Server):
    """One Redis server that keeps nothing on disk. `flush` empties it between tests."""

    program: ClassVar[str] = "redis-server"
    install: ClassVar[str] = "apt-get install redis-server"

    def __init__(self, *options: str, password: str | None = None) -> None:
        super().__init__()
        self.options, self._password = options, password

    def command(self) -> list[str]:
        return [
            *(str(self.find("redis-server")), "--port", str(self.port), "--bind", "127.0.0.1"),
            *("--save", "", "--appendonly", "no", "--dir", str(self.folder), *self.options),
        ]

    def ready(self) -> bool:
        return super().ready() and self._ask("PING").startswith(b"+PONG")

    def url(self, database: int = 0) -> str:
        """The URL that redis-py takes."""
        return f"redis://127.0.0.1:{self.port}/{database}"

    def flush(self) -> None:
        """Forget everything."""
        self._ask("FLUSHALL")

    def _ask(self, line: str) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as link:
            if self._password:
                link.sendall(f"AUTH {self._password}\r\n".encode())
                assert link.recv(1024).startswith(b"+OK")
            link.sendall(line.encode() + b"\r\n")
            return link.recv(1024)
