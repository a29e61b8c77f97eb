"""Files whose rows are stored in collections: given, shown, started, and what was rejected."""

import time
from collections.abc import Callable, Iterator

import orjson
from flask import request
from werkzeug.sansio.multipart import Data, Epilogue, File, MultipartDecoder, NeedData

from context import services
from errors import BadRequest, Invalid, NotFound, TooLarge
from rate_limits import allowance, key_of_caller, throttle
from routes.budget import budget_of_request, client_gone
from routes.collections import READ, WRITE, Read, Write
from routes.jobs import described, required
from routes.table import Reply
from schemas.collections import JobReply
from schemas.files import (
    FileQuery,
    LayoutBody,
    PreviewReply,
    RejectsQuery,
    RejectsReply,
    preview_reply,
)
from store.budget import Budget

JSONL = "application/jsonl"
PIECE = 1 << 18
# A client that sends a file has READ_TIMEOUT, and a second more for each of these many bytes: else
# 30 s would be the end of every large file.
SLOWEST = 64 << 10
PART = 8 << 20  # bytes of rejects in one reply, at most


@Write("POST", "/collections/<name>/files", scope=("name",), file=True,
       errors=(*WRITE, 429), success=(202,))  # fmt: skip
def give(name: str, query: FileQuery) -> Reply[JobReply]:
    """Store the rows of a file, in the background: CSV, JSON, JSONL, Parquet, or a text a line.

    The body is the file itself, or a form with it. Its texts count against the caller's texts a
    minute; the job waits while they are used up.
    """
    loader = services().loader
    job = loader.take(
        name, query.filename, _body(), request.content_length or 0, by=key_of_caller()
    )
    if query.start:
        limit_s = services().settings.current.request_deadline_s  # the file took time of its own
        try:
            job = loader.start(
                job, query.layout, allowance("texts"), throttle().count_texts, sure=True,
                budget=Budget(time.monotonic() + limit_s, client_gone()),
            )  # fmt: skip
        except Exception:
            loader.forget(job)
            raise
    return Reply(described(job), 202, {"Location": f"/jobs/{job.id}"})


@Write("POST", "/jobs/<id_>/preview", errors=(*WRITE, 429))
def preview(id_: str, body: LayoutBody) -> PreviewReply:
    """Show what would be stored of a file that waits: its columns, its first rows, its faults."""
    loader = services().loader
    job = required(loader.jobs.load(id_))
    return preview_reply(loader.preview(job, body.layout, budget_of_request()))


@Write("POST", "/jobs/<id_>/start", errors=(*WRITE, 429), success=(202,))
def start(id_: str, body: LayoutBody) -> Reply[JobReply]:
    """Start to store a file that waits."""
    loader = services().loader
    job = loader.start(
        required(loader.jobs.load(id_)), body.layout, allowance("texts"), throttle().count_texts,
        budget=budget_of_request(),
    )  # fmt: skip
    return Reply(described(job), 202, {"Location": f"/jobs/{job.id}"})


@Read("GET", "/jobs/<id_>/rejects", errors=READ, other=JSONL)
def rejects(id_: str, query: RejectsQuery) -> Reply[RejectsReply] | Reply[bytes]:
    """Return the rows of a file that were not stored, each with its line and the reason."""
    loader = services().loader
    job = required(loader.jobs.load(id_))
    if job.file is None:
        raise NotFound(f"job {id_[:64]!r} has no file")
    content, end = _part(id_, query.offset, job.file.rejects_bytes)
    following = end if end < job.file.rejects_bytes else None
    if request.accept_mimetypes.best_match([JSONL, "application/json"]) == "application/json":
        rows = [orjson.loads(line) for line in content.splitlines()]
        found: RejectsReply = {"rejects": rows, "next_offset": following}
        return Reply(found)
    link = {"Link": f'</jobs/{id_}/rejects?offset={following}>; rel="next"'} if following else {}
    return Reply(content, headers={"Content-Type": JSONL, **link})


def _part(id_: str, offset: int, size: int) -> tuple[bytes, int]:
    """Return whole lines of a job's rejects from an offset on, and where they end."""
    most = min(PART, services().config.max_reply_bytes // 2)
    try:
        with services().loader.spool.rejects(id_).open("rb") as file:
            if 0 < offset < size:
                file.seek(offset - 1)
                if file.read(1) != b"\n":
                    raise Invalid("no line begins at offset: give a next_offset", param="offset")
            file.seek(min(offset, size))
            content = file.read(min(most, max(0, size - offset)))
            if offset + len(content) < size:
                content = content[: content.rfind(b"\n") + 1] or content + file.readline()
    except FileNotFoundError:
        if size:
            raise NotFound(f"the rejects of job {id_[:64]!r} are on another machine") from None
        return b"", size
    return content, offset + len(content)


def _body() -> Callable[[int], bytes]:
    """Return a function that reads the next bytes of the file in the body.

    It raises TooLarge beyond MAX_FILE_MB, BadRequest for a body that cannot be read.
    """
    most, declared = services().config.max_file_mb << 20, request.content_length or 0
    if declared > most:
        raise TooLarge(f"the file has {declared} bytes; the limit here is {most}")
    request.max_content_length = most + 1  # Werkzeug silently cuts a chunked body there
    stream, began, got = request.stream, time.monotonic(), 0
    more_time: Callable[[float], None] | None = request.environ.get("embedding.more_time")
    read_timeout_s = services().config.read_timeout_s

    def read(size: int) -> bytes:
        nonlocal got
        try:
            piece = stream.read(size)
        except OSError:
            raise BadRequest("the body is incomplete, or its chunks cannot be read") from None
        got += len(piece)
        if not piece and got < declared:  # the client went away, or was too slow
            raise BadRequest(f"the body ended after {got} of {declared} bytes")
        if got > most:
            raise TooLarge(f"the file has over {most} bytes, which is the limit here")
        if more_time is not None:
            more_time(began + read_timeout_s + got / SLOWEST)
        return piece

    if request.mimetype != "multipart/form-data":
        return read
    parts = _file_of_form(read)
    return lambda size: next(parts, b"")


def _file_of_form(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Yield the bytes of the first file of a form. Raises BadRequest."""
    boundary = request.mimetype_params.get("boundary", "")
    if not boundary:
        raise BadRequest("the form has no boundary in its Content-Type")
    decoder = MultipartDecoder(boundary.encode("latin-1", "replace"), max_form_memory_size=PIECE)
    inside = found = False
    try:
        while not isinstance(event := decoder.next_event(), Epilogue):
            if isinstance(event, NeedData):
                decoder.receive_data(read(PIECE) or None)
            elif isinstance(event, File):
                inside, found = not found, True
            elif isinstance(event, Data) and inside:
                inside = event.more_data
                if event.data:
                    yield event.data
    except ValueError:  # the library says neither what nor where
        raise BadRequest("the form cannot be read") from None
    if not found:
        raise BadRequest("the form has no file; send the file itself, or a form with one")
