"""A TCP proxy that cuts a connection at a chosen word, before or after it was passed on."""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self


class CuttingProxy:
    """Passes everything to a loopback port. `cut_at` arms it for one cut."""

    def __init__(self, target_port: int) -> None:
        self.target = ("127.0.0.1", target_port)
        self.cuts = 0
        self._word: bytes | None = None
        self._forward = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []

    def cut_at(self, word: bytes, forwarded: bool) -> None:
        """Cut the next connection whose client sends `word`; `forwarded`: the server gets it."""
        self._forward, self._word = forwarded, word

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self.target)
                self._open += [client, server]
                for source, sink, watched in ((client, server, True), (server, client, False)):
                    args = (source, sink, watched)
                    threading.Thread(target=self._pass, args=args, daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, watched: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                word = self._word
                if watched and word and word in data:
                    self._word, self.cuts = None, self.cuts + 1
                    # The client hears nothing more; the server gets the word, or nothing.
                    source.shutdown(socket.SHUT_RDWR)
                    if self._forward:
                        sink.sendall(data)
                        self._drain(sink)
                    break
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _drain(server: socket.socket) -> None:
        """Let the server finish what it was told before it sees the connection end."""
        server.settimeout(0.3)
        with contextlib.suppress(OSError):
            while server.recv(65536):
                pass
