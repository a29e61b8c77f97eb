"""The model process: owns a device's models, and encodes for the workers that connect to it.

One thread a connection; the batcher fills passes across all of them. A model is held once for
everybody who loads the same, for as long as a connection leases it. The process ends when nobody is
connected any more, and at once when its device is lost or a pass hangs.
"""

import contextlib
import functools
import json
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import Config, ModelSpec, load_config
from embedders.base import Pair, Prompt
from errors import BadRequest, ServiceError, TooLarge, Unavailable
from observability import logs, metrics, tracing
from server import master, memory, sockets
from server.peers import is_own_user, peer_of
from serving.encoder import BatchHealth, Limits
from serving.health import EXIT_CODE
from serving.model_process import folder as run_folder
from serving.model_process.frames import (
    Connection,
    Head,
    Malformed,
    Part,
    Parts,
    error_head,
)
from serving.model_process.models import Held, Models
from serving.model_process.values import (
    pack_encoded,
    pack_items,
    unpack_items,
)

log = logging.getLogger("model_process")

Reply = tuple[Head, Sequence[Part]]
Handler = Callable[[Head, Parts], Reply]

LOOK_EVERY_S = 0.5
# How long the process, and a model that a killed worker leased, are kept for the next worker.
LINGER_S = 10.0
BACKLOG = 512


@dataclass(eq=False)
class Peer:
    """A connection and what it leases: at most one model."""

    connection: Connection
    leased: Held | None = None


class Host:
    """Answers the calls of every connection to one process, and ends the process in time."""

    def __init__(
        self, folder: Path, name: str, slot: int = 0, *, private: bool = False,
        end: Callable[[int], object] = os._exit,
    ) -> None:  # fmt: skip
        """Listen in the folder. Raises Unavailable for a folder that others may enter.

        The folder of one worker alone is `private`, and is removed at the end.
        """
        run_folder.check(folder)
        self._folder, self._name, self._slot, self._private = folder, name, slot, private
        self._path = run_folder.socket_path(folder, name)
        run_folder.keep(folder)
        self._lock = threading.Lock()
        self._peers: set[Peer] = set()
        self._stopping, self._ended = threading.Event(), threading.Event()
        self._exit = end
        self.models = Models(name, self._loaded)
        self._operations: dict[str, Callable[[Peer, Head, Parts], Reply]] = {
            "hello": self._hello, "load": self._load, "release": self._release,
            "encode": self._encode, "prepare": self._prepare,
            "prepare_chunks": self._prepare_chunks, "tokenize": self._tokenize,
            "detokenize": self._detokenize, "trial": self._trial, "terms": self._terms,
            "limit": self._limit, "keep": self._keep, "status": self._status,
        }  # fmt: skip
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made = self._path.with_suffix(f".{os.getpid()}")  # so that it listens once it is found
        self._listener.bind(str(made))
        self._listener.listen(BACKLOG)
        made.rename(self._path)
        self._own = self._path.stat().st_ino

    # -- connections -----------------------------------------------------------------------------

    def serve(self) -> None:
        """Take connections until nobody needs the process; then end it."""
        threading.Thread(target=self._watch, name="health", daemon=True).start()
        log.info("the model process %s (%d) listens", self._name, os.getpid())
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError as exc:
                if self._ended.is_set():
                    break
                log.error("a connection could not be taken (%s)", exc.strerror)
                time.sleep(LOOK_EVERY_S)  # no descriptor is left, perhaps for a moment
                continue
            if not is_own_user(accepted):
                log.warning("refused a connection of another user: %s", peer_of(accepted))
                accepted.close()
                continue
            peer = Peer(Connection(accepted))
            with self._lock:
                self._peers.add(peer)
            threading.Thread(target=self._answer, args=(peer,), name="peer", daemon=True).start()
        self._listener.close()

    def _answer(self, peer: Peer) -> None:
        try:
            while True:
                head, parts = peer.connection.receive()
                self._send(peer, *self._reply(peer, head, parts))
                del head, parts
        except Malformed as exc:
            log.warning("closed a connection that sent no frame of this version: %s", exc)
        except OSError:
            pass  # the worker ended, or gave up waiting
        finally:
            peer.connection.close()
            self._unlease(peer, LINGER_S)
            with self._lock:
                self._peers.discard(peer)

    def _reply(self, peer: Peer, head: Head, parts: Parts) -> Reply:
        try:
            name = head.get("operation")
            operation = self._operations.get(name) if isinstance(name, str) else None
            if operation is None:
                raise BadRequest(f"no operation {name!r:.80}")
            return operation(peer, head, parts)
        except ServiceError as exc:
            return error_head(exc), ()
        except Exception:
            log.exception("%s failed", head.get("operation"))
            return error_head(ServiceError("the model process failed; its log says how")), ()

    def _send(self, peer: Peer, head: Head, parts: Sequence[Part]) -> None:
        try:
            peer.connection.send(head, parts)
        except TooLarge as exc:
            peer.connection.send(error_head(exc))

    def stop(self) -> None:
        """End as soon as nobody is connected, as the machine or the service stops."""
        self._stopping.set()

    def register(self, operations: Mapping[str, Handler]) -> None:
        """Answer further operations, such as those of a cache that workers share."""
        for name, handler in operations.items():
            self._operations[name] = functools.partial(_unseen, handler)

    def _hello(self, peer: Peer, head: Head, parts: Parts) -> Reply:
        """Tell who this is, to a worker of the same version only."""
        own = run_folder.code_version()
        if head["version"] != own:
            raise Unavailable(
                f"the model process is of version {own} and the worker of {head['version']}: they "
                "do not work together; the worker has to start its own"
            )
        return {"pid": os.getpid(), "version": own}, ()

    # -- calls -----------------------------------------------------------------------------------

    def _load(self, peer: Peer, head: Head, parts: Parts) -> Reply:
        """Load a model, unless it is held already, and lease it to the connection."""
        spec = ModelSpec.model_validate(head["spec"])
        settings = Config.model_validate(head["settings"])
        self._unlease(peer)
        peer.leased, reply, recipe = self.models.lease(
            spec, settings, head["settings"], head["stamp"]
        )
        return reply, [json.dumps(recipe).encode()]

    def _release(self, peer: Peer, head: Head, parts: Parts) -> Reply:
        """End the connection's lease. The model is freed soon if no other connection has one."""
        self._unlease(peer)
        return {}, ()

    def _unlease(self, peer: Peer, keep_s: float = 0.0) -> None:
        if peer.leased is not None:
            self.models.unlease(peer.leased, keep_s)
            peer.leased = None

    def _encode(self, peer: Peer, head: Head, parts: Parts) -> Reply:
        items = unpack_items(head, parts)
        trace = tracing.begin("encode", lambda _: None)
        with self.models.used(head["model"], head["deadline"]) as loaded:
            encoded = loaded.encoder.encode(items, head["deadline"], peer.connection.is_closed)
        said, rows = pack_encoded(encoded)
        return {**said, "times": trace.times}, rows

    def _prepare(self, peer: Peer, head: Head, parts: Parts) -> Reply:
        inputs, prompt = json.loads(bytes(parts[0])), Prompt(**head["prompt"])
        with self.models.used(head["model"]) as loaded:
            if head["pairs"]:
                pairs = [Pair(*pair) for pair in inputs]
                return pack_items(loaded.embedder.prepare_pairs(pairs, prompt, head["truncate"]))
            return pack_items(loaded.embedder.prepare(inputs, prompt, head["truncate"]))

    def _prepare_chunks(self, peer: Peer, head: Head, parts: Parts) -> Reply:
        documents, prompt = json.loads(bytes(parts[0])), Prompt(**head["prompt"])
        with self.models.used(head["model"]) as loaded:
            prepare = loaded.embedder.prepare_chunks
            return pack_items(prepare(documents, prompt, head["truncate"]))

    def _trial(self, peer: Peer, head: Head, parts: Parts) -> Reply:
        with self.models.used(head["model"]) as loaded:
            return pack_items(loaded.embedder.trial(head["text"]))

    def _tokenize(self, peer: Peer, head: Head, parts: Parts) -> Reply:
        inputs: list[Any] = json.loads(bytes(parts[0]))
        given = [each if isinstance(each, str) else Pair(*each) for each in inputs]
        prompt = Prompt(**head["prompt"])
        with self.models.used(head["model"]) as loaded:
            found = loaded.embedder.tokenize(given, prompt, special=head["special"])
        return {}, [json.dumps(found).encode()]

    def _detokenize(self, peer: Peer, head: Head, parts: Parts) -> Reply:
        ids = json.loads(bytes(parts[0]))
        with self.models.used(head["model"]) as loaded:
            texts = loaded.embedder.detokenize(ids, skip_special=head["skip_special"])
        return {}, [json.dumps(texts).encode()]

    def _terms(self, peer: Peer, head: Head, parts: Parts) -> Reply:
        with self.models.used(head["model"]) as loaded:
            return {"terms": loaded.embedder.terms(head["indices"])}, ()

    def _limit(self, peer: Peer, head: Head, parts: Parts) -> Reply:
        self.models.limit(head["model"], Limits(*head["limits"]))
        return {}, ()

    def _keep(self, peer: Peer, head: Head, parts: Parts) -> Reply:
        keep_s = head["keep_s"]  # null: for good
        self.models.keep(head["model"], math.inf if keep_s is None else keep_s)
        return {}, ()

    def _status(self, peer: Peer, head: Head, parts: Parts) -> Reply:
        """Return how the passes of each model go, and which models are unloaded until needed."""
        rows: dict[str, Any] = {}
        for held in self.models.held.values():
            encoder, facts = held.encoder, held.model.facts
            if facts is not None and held.name is not None:
                health = BatchHealth() if encoder is None else encoder.health()
                rows[held.name] = {
                    "failing": health.failing, "fatal": health.fatal, "busy_s": health.busy_s,
                    "dtype": facts.dtype, "backend": facts.backend, "device": facts.device,
                    "unloaded": encoder is None,
                }  # fmt: skip
        return {"models": rows}, ()

    # -- the process itself ----------------------------------------------------------------------

    def _watch(self) -> None:
        """End the process when its models cannot encode any more, or nobody needs it."""
        alone_since, numbers = time.monotonic(), metrics.ModelProcessMetrics()
        while not self._ended.is_set():
            numbers.show()
            time.sleep(LOOK_EVERY_S)
            if reason := self.models.fatal:
                log.critical("%s; the model process ends so that a new one takes its place", reason)
                time.sleep(LOOK_EVERY_S)  # waiting requests get their 503 first
                return self._end(EXIT_CODE)
            try:
                self.models.free_unleased()
            except Exception:
                log.exception("a model could not be freed")
            if self._is_needed():
                alone_since = time.monotonic()
            unreachable = self._stopping.is_set() or not self._is_found()
            if time.monotonic() - alone_since > (LOOK_EVERY_S / 2 if unreachable else LINGER_S):
                return self._end(0)

    def _is_needed(self) -> bool:
        """Whether anybody is connected. A thread that loads a model learns late that none is."""
        with self._lock:
            peers = list(self._peers)
        return any(not peer.connection.is_closed() for peer in peers)

    def _loaded(self) -> None:
        """Tell whoever starts the next process that this one came far enough."""
        with contextlib.suppress(OSError):
            run_folder.starts_of(self._path).unlink()

    def _is_found(self) -> bool:
        try:
            return self._path.stat().st_ino == self._own
        except OSError:
            return False

    def _end(self, code: int) -> None:
        """End the process at once: threads in a pass or a load cannot be waited for."""
        self._ended.set()
        if self._is_found():  # else another process has the socket and the slot
            with contextlib.suppress(OSError):
                self._path.unlink()
            master.end_slot(self._slot)
        if self._private:
            with contextlib.suppress(OSError):
                for file in self._folder.iterdir():
                    file.unlink()
                self._folder.rmdir()
        log.info("the model process %s (%d) ends", self._name, os.getpid())
        logging.shutdown()
        self._exit(code)
        with contextlib.suppress(OSError):  # here only if the host is not the whole process
            self._listener.shutdown(socket.SHUT_RDWR)


def _unseen(handler: Handler, _: Peer, head: Head, parts: Parts) -> Reply:
    return handler(head, parts)


def prepare_process() -> Config:
    """Set up the log and the memory of this process as those of a worker; return the settings."""
    settings = logging.getLogger("config")
    settings.disabled = True  # the workers said already what is wrong with the settings
    config = load_config()
    settings.disabled = False
    logs.configure(config.log_level, config.log_format)
    memory.use_few_arenas()
    sockets.room_for_connections(0)
    return config
