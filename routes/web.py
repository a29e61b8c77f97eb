"""The pages: the console at `/`, and the API description at `/docs` and `/redoc`.

Only the scripts, styles and images that are there at the start are served. The pages call the same
routes as every other client, and the content security policy forbids them to load anything from
another machine.
"""

import hashlib
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path

from flask import request

from context import services
from errors import NotFound
from routes.health import index
from routes.table import Reply, Route
from schemas.service import IndexReply

ROOT = Path(__file__).parent.parent / "web"
HTML, SVG = "text/html", "image/svg+xml"
KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": SVG}
STATIC = {
    path.relative_to(ROOT / "static").as_posix(): KINDS[path.suffix]
    for path in sorted((ROOT / "static").rglob("*"))
    if path.suffix in KINDS
}

# Content Security Policy level 3: only what is named, and only from this machine.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'{style}; img-src 'self' data:; "
    "connect-src 'self'; {worker}base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
CONSOLE_POLICY = POLICY.format(style="", worker="")
# Swagger UI and Redoc write style elements; Redoc searches in a worker made of a blob.
DOCS_POLICY = POLICY.format(style=" 'unsafe-inline'", worker="")
REDOC_POLICY = POLICY.format(style=" 'unsafe-inline'", worker="worker-src blob:; ")


Page = partial(Route, access="public", any_page=True, counted=False)
File = partial(Page, tag="web", success=(200, 304))


@Page("GET", "/", tag="service", other=HTML)
def home() -> Reply[IndexReply] | Reply[bytes]:
    """Return the console to a browser; to others the service's name, version and models."""
    vary = {"Vary": "Accept"}
    if request.accept_mimetypes.best_match(["application/json", HTML]) != HTML:
        return Reply(index(), headers=vary)
    return _file(_console(services().accounts.enabled), CONSOLE_POLICY, headers=vary)


@File("GET", "/docs")
def docs() -> Reply[bytes]:
    """Show the API description, to read and to try (Swagger UI)."""
    return _file(_described("docs"), DOCS_POLICY)


@File("GET", "/redoc")
def redoc() -> Reply[bytes]:
    """Show the API description, to read (Redoc)."""
    return _file(_described("redoc"), REDOC_POLICY)


@File("GET", "/static/<path:name>", errors=(404,))
def static(name: str) -> Reply[bytes]:
    """Return a file of the pages."""
    if name not in STATIC:
        raise NotFound("unknown file")
    return _file(_read(f"static/{name}"), CONSOLE_POLICY, STATIC[name])


def _file(
    content: bytes, policy: str, kind: str = HTML, headers: Mapping[str, str] | None = None
) -> Reply[bytes]:
    """Return a file, or 304 if the browser has this version of it."""
    tag = hashlib.sha256(content).hexdigest()[:16]
    sent = {
        "Content-Type": kind if kind == SVG else f"{kind}; charset=utf-8",
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        # Browsers keep it but ask each time, so that a new version shows at once.
        "Cache-Control": "no-cache",
        "ETag": f'"{tag}"',
        **(headers or {}),
    }
    if request.if_none_match.contains(tag):
        return Reply(b"", 304, sent)
    return Reply(content, headers=sent)


@cache
def _read(name: str) -> bytes:
    return (ROOT / name).read_bytes()


@cache
def _described(name: str) -> bytes:
    """Return a page of the API description with its sign-in form."""
    page = _read(f"templates/{name}.html")
    return page.replace(b"{{sign-in}}", _read("templates/sign-in.html"))


@cache
def _console(guarded: bool) -> bytes:
    """Return the console's page, which knows whether users sign in."""
    page = _read("templates/index.html")
    return page.replace(b"{{guarded}}", b"true" if guarded else b"false")
