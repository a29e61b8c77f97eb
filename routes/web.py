"""The pages: the console at `/`, and the API description at `/docs` and `/redoc`.

Only the scripts, styles and images that are there at the start are served. The pages call the same
routes as every other client, and the content security policy forbids them to load anything from
another machine.
"""

from functools import cache, partial

from errors import NotFound
from routes.assets import (
    ASK,
    FOREVER,
    HASHED,
    HTML,
    STATIC,
    Asset,
    asset,
    preloads,
    served,
    template,
    tree,
    wants_page,
)
from routes.health import index
from routes.table import Reply, Route
from schemas.service import IndexReply

# Content Security Policy level 3: only what is named, and only from this machine.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'{style}; img-src 'self' data:; "
    "connect-src 'self'; {worker}base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
CONSOLE_POLICY = POLICY.format(style="", worker="")
# A worker has the policy of its own file: the one that lays maps out may compile WebAssembly.
WORKER = "js/map-worker.js"
WORKER_POLICY = CONSOLE_POLICY.replace("script-src 'self'", "script-src 'self' 'wasm-unsafe-eval'")
# Swagger UI and Redoc write style elements; Redoc searches in a worker made of a blob.
DOCS_POLICY = POLICY.format(style=" 'unsafe-inline'", worker="")
REDOC_POLICY = POLICY.format(style=" 'unsafe-inline'", worker="worker-src blob:; ")


Page = partial(Route, access="public", any_page=True, counted=False)
File = partial(Page, tag="web", success=(200, 304))


@Page("GET", "/", tag="service", other=HTML)
def home() -> Reply[IndexReply] | Reply[bytes]:
    """Return the console to a browser; to others the service's name, version and models."""
    if not wants_page():
        return Reply(index(), headers={"Vary": "Accept"})
    page, vary = _console(), {"Vary": "Accept, Accept-Encoding"}
    return served(page, CONSOLE_POLICY, headers=vary)


@File("GET", "/docs")
def docs() -> Reply[bytes]:
    """Show the API description, to read and to try (Swagger UI)."""
    return served(_described("docs"), DOCS_POLICY)


@File("GET", "/redoc")
def redoc() -> Reply[bytes]:
    """Show the API description, to read (Redoc)."""
    return served(_described("redoc"), REDOC_POLICY)


@File("GET", "/static/<path:name>", errors=(404,))
def static(name: str) -> Reply[bytes]:
    """Return a file of the pages, for good if its address has the hash of this version.

    With another hash, which a page of the version before has, it is the present file.
    """
    hashed = HASHED.fullmatch(name)
    version, name = hashed.groups() if hashed else (None, name)
    if name not in STATIC:
        raise NotFound("unknown file")
    policy = WORKER_POLICY if name == WORKER else CONSOLE_POLICY
    return served(asset(name), policy, keep=FOREVER if version == tree() else ASK)


@cache
def _described(name: str) -> Asset:
    """Return a page of the API description with its sign-in form."""
    page = template(f"{name}.html")
    return Asset.of(page.replace(b"{{sign-in}}", template("sign-in.html")))


@cache
def _console() -> Asset:
    """Return the console's page, with its modules named so that they load at once."""
    page = template("index.html")
    return Asset.of(page.replace(b"</head>", preloads("js/main.js") + b"</head>"))
