"""A real nginx, from Debian's `nginx`."""

from typing import ClassVar

from tests.servers.process import Server


class Nginx(Server):
    """An nginx with `http` as the inside of its `http { }` block.

    Write `{port}` where it is to listen: `server { listen 127.0.0.1:{port}; ... }`.
    """

    program: ClassVar[str] = "nginx"
    install: ClassVar[str] = "apt-get install nginx"

    def __init__(self, http: str) -> None:
        super().__init__()
        self.config = self.folder / "nginx.conf"
        temporary = "".join(
            f"{kind}_temp_path {self.folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        self.config.write_text(
            f"daemon off; worker_processes 1; pid {self.folder}/pid;\n"
            f"error_log {self.folder}/server.log warn;\n"
            "events { worker_connections 256; }\n"
            f"http {{\naccess_log off;\n{temporary}{http.replace('{port}', str(self.port))}\n}}\n"
        )

    def command(self) -> list[str]:
        return [
            *(str(self.find("nginx")), "-p", str(self.folder), "-c", str(self.config)),
            *("-e", str(self.folder / "server.log")),
        ]

    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"
