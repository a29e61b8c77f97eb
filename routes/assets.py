"""The files of the pages as they go over the wire: their addresses, types and compressed forms.

A page names its files by an address with the hash of all of them, so that a browser keeps them
without asking, and a new version has new addresses. Modules import each other by relative paths,
which stay within such an address.
"""

import gzip
import hashlib
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flask import request

from routes.table import Reply

ROOT = Path(__file__).parent.parent / "web"
HTML, SVG = "text/html", "image/svg+xml"
KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": SVG, ".wasm": "application/wasm"}
CHARSET = "; charset=utf-8"
STATIC = {
    path.relative_to(ROOT / "static").as_posix(): KINDS[path.suffix]
    for path in sorted((ROOT / "static").rglob("*"))
    if path.suffix in KINDS
}
HASHED = re.compile(r"([0-9a-f]{12})/(.+)")
# Browsers keep it but ask each time, so that a new version shows at once.
ASK = "no-cache"
FOREVER = "public, max-age=31536000, immutable"
LATER = ' fetchpriority="low"'
# What a module imports at once, and by `import()`, as a relative path.
IMPORT = re.compile(
    r"""^(?:import|export)\b(?:[^"';]*\bfrom)? "(\.[^"]+)"|\bimport\("(\.[^"]+)"\)""", re.MULTILINE
)


@dataclass(frozen=True)
class Asset:
    """A file: its bytes, their media type and hash, and the bytes by gzip if that is shorter."""

    content: bytes
    kind: str
    tag: str
    zipped: bytes | None

    @classmethod
    def of(cls, content: bytes, kind: str = HTML) -> "Asset":
        """Return what is served of a file."""
        # Level 9 takes 3 ms for all of the console's modules and 59 ms for Swagger UI, once a
        # process (one core of an AMD EPYC, 2026-11-30).
        zipped = gzip.compress(content, 9, mtime=0)
        tag = hashlib.sha256(content).hexdigest()[:16]
        return cls(content, kind, tag, zipped if len(zipped) < len(content) else None)


@cache
def tree() -> str:
    """Return 12 hex digits that name the present state of all files of the pages."""
    found = hashlib.sha256()
    for name in STATIC:
        content = (ROOT / "static" / name).read_bytes()
        found.update(f"{name}\n{len(content)}\n".encode() + content)
    return found.hexdigest()[:12]


@cache
def asset(name: str) -> Asset:
    """Return one of `STATIC`."""
    return Asset.of((ROOT / "static" / name).read_bytes(), STATIC[name])


@cache
def template(name: str) -> bytes:
    """Return a page, whose files have the addresses of this version."""
    page = (ROOT / "templates" / name).read_bytes()
    return page.replace(b'="/static/', f'="/static/{tree()}/'.encode())


def preloads(entry: str) -> bytes:
    """Return the links by which a browser loads a module and all that it imports together.

    Without them it learns of a module only from the one that imports it, a round trip each. What
    is imported by `import()` comes after what the page needs first, one such part after the other.
    """
    first = _imported(entry)
    found = list(first)
    for name in found:  # which grows meanwhile
        for part in _imports(name)[1]:
            found += [each for each in _imported(part) if each not in found]
    return "".join(
        f'<link rel="modulepreload" href="/static/{tree()}/{name}"'
        f"{'' if name in first else LATER}>\n"
        for name in found
    ).encode()


def _imported(entry: str) -> list[str]:
    """Return a module and those that it cannot run without, the nearest first."""
    found = [entry]
    for name in found:  # which grows meanwhile
        found += [each for each in _imports(name)[0] if each not in found]
    return found


@cache
def _imports(name: str) -> tuple[list[str], list[str]]:
    """Return what a module imports: at once, and by `import()`."""
    pairs = IMPORT.findall(asset(name).content.decode())

    def named(column: int) -> list[str]:
        paths = dict.fromkeys(pair[column] for pair in pairs if pair[column])
        return [posixpath.normpath(f"{posixpath.dirname(name)}/{path}") for path in paths]

    return named(0), named(1)


def wants_page() -> bool:
    """Return whether the caller is a browser, which asks for HTML before JSON."""
    return request.accept_mimetypes.best_match(["application/json", HTML]) == HTML


def served(
    file: Asset, policy: str, *, keep: str = ASK, headers: Mapping[str, str] | None = None
) -> Reply[bytes]:
    """Return a file, compressed for a browser that takes it so; 304 if it has this version."""
    zipped = file.zipped is not None and request.accept_encodings.quality("gzip") > 0
    tag = f"{file.tag}-gzip" if zipped else file.tag
    sent = {
        "Content-Type": f"{file.kind}{CHARSET if file.kind.startswith('text/') else ''}",
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "Cache-Control": keep,
        "ETag": f'"{tag}"',
        "Vary": "Accept-Encoding",
        **({"Content-Encoding": "gzip"} if zipped else {}),
        **(headers or {}),
    }
    if request.if_none_match.contains_weak(tag):  # proxies that compress make tags weak
        return Reply(b"", 304, sent)
    return Reply(file.zipped if zipped and file.zipped else file.content, headers=sent)
