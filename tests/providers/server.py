"""A server on loopback that answers as OpenAI, Azure, Cohere and Hugging Face do, and misbehaves
on command: each request takes the next of `script`, and a good answer when it is empty."""

import base64
import hashlib
import json
import socket
import struct
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import numpy as np

DIMENSION = 8
KEY = "sk-secret-key-of-the-tests-0123456789"


def vector(text: object, salt: str = "", dimension: int = DIMENSION) -> list[float]:
    digest = hashlib.sha256(f"{salt}{text}".encode()).digest()
    seed = int.from_bytes(digest[:8], "little")
    numbers = np.random.default_rng(seed).uniform(-1, 1, dimension).astype(np.float32)
    return numbers.tolist()


def relevance(query: str, document: str) -> float:
    """A score in 0..1 that depends on both texts."""
    return (vector(document, query, 1)[0] + 1) / 2


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "FakeProvider"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            action = server.script.popleft() if server.script else server.always
            server.seen.append((self.path, dict(self.headers), body))
        try:
            self.act(action, body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_POST

    def act(self, action: object, body: dict) -> None:
        if isinstance(action, tuple):
            status, headers = action
            words = {"error": {"message": f"no: {json.dumps(body)[:99]} {KEY}", "code": "x"}}
            return self.reply(json.dumps(words).encode(), status, headers)
        if callable(action):
            return action(self, body)
        return self.reply(json.dumps(self.good(body)).encode())

    def reply(self, data: bytes, status: int = 200, headers: dict | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def good(self, body: dict) -> object:
        path = urlsplit(self.path).path
        if path.endswith("/embeddings"):
            return self.openai(body)
        if path.endswith("/embed"):
            return self.cohere(body, path)
        if path.endswith("/rerank"):
            return self.rerank(body)
        texts = body["inputs"]
        width = self.server.width(path)
        given = [texts] if isinstance(texts, str) else texts
        return [vector(text, dimension=width) for text in given]

    def openai(self, body: dict) -> dict:
        given = body["input"]
        inputs = [given] if isinstance(given, str) else given
        width = body.get("dimensions", self.server.width(body["model"]))
        rows = [vector(t, self.server.salt, width) for t in inputs]
        if body.get("encoding_format") == "base64":
            rows = [base64.b64encode(np.array(r, "<f4").tobytes()).decode() for r in rows]
        data = [{"object": "embedding", "index": i, "embedding": r} for i, r in enumerate(rows)]
        tokens = sum(len(str(t).split()) for t in inputs)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": body["model"], "usage": usage}

    def rerank(self, body: dict) -> object:
        """The scores, best first, in the form that the server is told to have."""
        form, given = self.server.form, body.get("texts") or body["documents"]
        name = "score" if form == "tei" else "relevance_score"
        rows = [{"index": i, name: relevance(body["query"], d)} for i, d in enumerate(given)]
        rows.sort(key=lambda row: -row[name])
        tokens = sum(len(d.split()) for d in given)
        if form == "tei":
            return rows
        return {"data" if form == "voyage" else "results": rows, "usage": {"total_tokens": tokens}}

    def cohere(self, body: dict, path: str) -> dict:
        salt = body.get("input_type", "")
        width = self.server.width(body["model"])
        rows = [vector(text, salt, width) for text in body["texts"]]
        version = "2" if "/v2/" in path else "1"
        units = {"input_tokens": sum(len(t.split()) for t in body["texts"])}
        return {
            "id": "1", "texts": body["texts"], "embeddings": {"float": rows},
            "response_type": "embeddings_by_type",
            "meta": {"api_version": {"version": version}, "billed_units": units},
        }  # fmt: skip


class FakeProvider(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: deque = deque()
        self.always: object = "good"
        self.salt = ""
        self.form = "jina"  # of replies to /rerank: jina, voyage or tei
        self.widths: dict[str, int] = {}  # of models that have another dimension, by name
        self.seen: list[tuple[str, dict, dict]] = []
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def width(self, place: str) -> int:
        """Return the dimension of the model that a body or a path names."""
        return next((w for name, w in self.widths.items() if name in place), DIMENSION)

    def handle_error(self, *_: object) -> None:
        pass

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


# -- what it can be told to do wrong -----------------------------------------------------------


def drip_body(handler: Handler, body: dict) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def drip_headers(handler: Handler, body: dict) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for i in range(200):
        handler.wfile.write(b"X-%d: y\r\n" % i)
        handler.wfile.flush()
        time.sleep(0.05)


def reset(handler: Handler, body: dict) -> None:
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()
    handler.close_connection = True


def cut_off(handler: Handler, body: dict) -> None:
    data = json.dumps(handler.good(body)).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data[: len(data) // 2])
    handler.wfile.flush()
    handler.close_connection = True


def half_json(handler: Handler, body: dict) -> None:
    data = json.dumps(handler.good(body)).encode()
    handler.reply(data[: len(data) // 2])


def html(handler: Handler, body: dict) -> None:
    handler.reply(
        b"<html>Sign in to the hotel's wifi</html>", headers={"Content-Type": "text/html"}
    )


def huge(handler: Handler, body: dict) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(10 * 1024**3))
    handler.end_headers()
    block = b"1" * (1 << 20)
    for _ in range(10 * 1024):
        handler.wfile.write(block)


def endless(handler: Handler, body: dict) -> None:
    """Chunks without an end, and without a length to be warned by."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while True:
        handler.wfile.write(b"100000\r\n" + b"1" * 0x100000 + b"\r\n")


def other_rows(change):
    """Change the rows in whatever form the provider gives them."""

    def act(handler: Handler, body: dict) -> None:
        reply = handler.good(body)
        rows = reply["embeddings"]["float"] if isinstance(reply, dict) else reply
        change(rows)
        handler.reply(json.dumps(reply).encode())

    return act


def nan_in_base64(handler: Handler, body: dict) -> None:
    reply = handler.openai({**body, "encoding_format": "float"})
    for row in reply["data"]:
        row["embedding"] = base64.b64encode(np.full(DIMENSION, np.nan, "<f4").tobytes()).decode()
    handler.reply(json.dumps(reply).encode())


def changed(change):
    def act(handler: Handler, body: dict) -> None:
        reply = handler.openai({**body, "encoding_format": "float"})
        change(reply["data"])
        handler.reply(json.dumps(reply).encode())

    return act


def shuffled(handler: Handler, body: dict) -> None:
    reply = handler.openai(body)
    reply["data"].reverse()
    handler.reply(json.dumps(reply).encode())


fewer = changed(lambda rows: rows.pop())
more = changed(lambda rows: rows.append({**rows[0], "index": len(rows)}))
same_index = changed(lambda rows: rows[-1].update(index=0))
narrower = changed(lambda rows: rows[-1]["embedding"].pop())
other_width = changed(lambda rows: [row["embedding"].append(1.0) for row in rows])
not_a_number = changed(lambda rows: rows[0]["embedding"].__setitem__(0, 1e39))
words = changed(lambda rows: rows[0].update(embedding="not base64!"))
nothing = changed(lambda rows: rows.clear())
