"""The pages for people: the console at `/`, the API's description at `/docs` and `/redoc`.

Files only, from an explicit list; the pages talk to the same routes as every other client. No page
loads anything from another machine: the content security policy forbids it.
"""

import hashlib
from dataclasses import replace
from functools import cache
from html import escape
from pathlib import Path

from flask import request

from errors import NotFound
from routes.ops import index
from routes.table import ROUTES, Reply, route

ROOT = Path(__file__).parent.parent
HTML, CSS, JS, SVG = "text/html", "text/css", "text/javascript", "image/svg+xml"
MODULES = (
    "admin", "api", "charts", "collections", "dom", "heat", "live", "main", "map", "models",
    "people", "pick", "rows", "settings", "snippets", "try", "upload",
)  # fmt: skip
STATIC = {
    "style.css": CSS,
    "icon.svg": SVG,
    **{f"js/{name}.js": JS for name in MODULES},
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


@route("GET", "/", access="public", tag="service")
def home() -> Reply:
    """Show the console to a browser; name the service, its version and its models to others."""
    wanted = request.accept_mimetypes.best_match(["application/json", HTML])
    if wanted != HTML:
        return Reply(index(), headers={"Vary": "Accept"})
    page = _file("templates/index.html", HTML, CONSOLE_POLICY)
    routes = escape(
        "\n".join(f"{row.method} {row.path}" for row in ROUTES)
    )  # hides what is not there
    return replace(page, body=page.body.replace(b"{{routes}}", routes.encode()))


@route("GET", "/docs", access="public", tag="docs")
def docs() -> Reply:
    """Show the API's description, to read and to try (Swagger UI)."""
    return _file("templates/docs.html", HTML, DOCS_POLICY)


@route("GET", "/redoc", access="public", tag="docs")
def redoc() -> Reply:
    """Show the API's description, to read (Redoc)."""
    return _file("templates/redoc.html", HTML, REDOC_POLICY)


@route("GET", "/static/<path:name>", access="public", errors=(404,), tag="web")
def static(name: str) -> Reply:
    """Return a file that the pages are made of."""
    if name not in STATIC:
        raise NotFound("there is no such file")
    return _file(f"static/{name}", STATIC[name], CONSOLE_POLICY)


def _file(name: str, kind: str, policy: str) -> Reply:
    content, tag = _read(name)
    headers = {
        "Content-Type": kind if kind == SVG else f"{kind}; charset=utf-8",
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",  # kept, but asked after each time: a new version shows at once
        "ETag": tag,
        "Vary": "Accept",
    }
    if request.if_none_match.contains(tag.strip('"')):
        return Reply(b"", 304, headers)
    return Reply(content, headers=headers)


@cache
def _read(name: str) -> tuple[bytes, str]:
    """Return a file's bytes and its tag."""
    content = (ROOT / name).read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:16]}"'
