"""The pages for people: the console at `/`, the API's description at `/docs` and `/redoc`.

Files only, from an explicit list; the pages talk to the same routes as every other client. No page
loads anything from another machine: the content security policy forbids it.
"""

import hashlib
from dataclasses import replace
from functools import cache
from pathlib import Path

from flask import request

from context import services
from errors import NotFound
from routes.ops import index
from routes.table import Reply, route
from schemas.status import IndexReply

ROOT = Path(__file__).parent.parent
HTML, CSS, JS, SVG = "text/html", "text/css", "text/javascript", "image/svg+xml"
MODULES = (
    "account", "admin", "api", "charts", "collections", "csv", "dom", "heat", "ids", "json", "keys",
    "lines", "live", "main", "map", "models", "people", "pick", "providers", "rows", "samples",
    "settings", "snippets", "try", "upload",
)  # fmt: skip
STATIC = {
    "style.css": CSS,
    "icon.svg": SVG,
    **{f"js/{name}.js": JS for name in MODULES},
    "docs/sign-in.js": JS,
    "docs/swagger.js": JS,
    "docs/redoc.js": JS,
    "docs/docs.css": CSS,
    "vendor/swagger-ui/swagger-ui.css": CSS,
    "vendor/swagger-ui/swagger-ui-bundle.js": JS,
    "vendor/redoc/redoc.standalone.js": JS,
}

# Of Content Security Policy level 3: nothing but what is named, and only from this machine.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'{style}; img-src 'self' data:; "
    "connect-src 'self'; {worker}base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
CONSOLE_POLICY = POLICY.format(style="", worker="")
# Swagger UI and Redoc write style elements; Redoc searches in a worker made of a blob.
DOCS_POLICY = POLICY.format(style=" 'unsafe-inline'", worker="")
REDOC_POLICY = POLICY.format(style=" 'unsafe-inline'", worker="worker-src blob:; ")


@route("GET", "/", access="public", any_page=True, reply=IndexReply, other=HTML, tag="service")
def home() -> Reply:
    """Show the console to a browser; name the service, its version and its models to others."""
    if request.accept_mimetypes.best_match(["application/json", HTML]) != HTML:
        return Reply(index(), headers={"Vary": "Accept"})
    reply = _page(_console(services().accounts.enabled), CONSOLE_POLICY)
    return replace(reply, headers={**reply.headers, "Vary": "Accept"})


@route("GET", "/docs", access="public", any_page=True, tag="web", success=(200, 304))
def docs() -> Reply:
    """Show the API's description, to read and to try (Swagger UI)."""
    return _page(_described("docs"), DOCS_POLICY)


@route("GET", "/redoc", access="public", any_page=True, tag="web", success=(200, 304))
def redoc() -> Reply:
    """Show the API's description, to read (Redoc)."""
    return _page(_described("redoc"), REDOC_POLICY)


@route("GET", "/static/<path:name>", access="public", any_page=True, errors=(404,), tag="web",
       success=(200, 304))  # fmt: skip
def static(name: str) -> Reply:
    """Return a file that the pages are made of."""
    if name not in STATIC:
        raise NotFound("there is no such file")
    return _page(_read(f"web/static/{name}"), CONSOLE_POLICY, STATIC[name])


def _page(content: bytes, policy: str, kind: str = HTML) -> Reply:
    """Answer with a file, or tell the browser that it has this very one."""
    tag = hashlib.sha256(content).hexdigest()[:16]
    headers = {
        "Content-Type": kind if kind == SVG else f"{kind}; charset=utf-8",
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",  # kept, but asked after each time: a new version shows at once
        "ETag": f'"{tag}"',
    }
    if request.if_none_match.contains(tag):
        return Reply(b"", 304, headers)
    return Reply(content, headers=headers)


@cache
def _read(name: str) -> bytes:
    return (ROOT / name).read_bytes()


@cache
def _described(name: str) -> bytes:
    """Return a page of the API's description, with the form that it shows where one signs in."""
    page = _read(f"web/templates/{name}.html")
    return page.replace(b"{{sign-in}}", _read("web/templates/sign-in.html"))


@cache
def _console(guarded: bool) -> bytes:
    """Return the console's page; it is told whether one signs in."""
    page = _read("web/templates/index.html")
    return page.replace(b"{{guarded}}", b"true" if guarded else b"false")
