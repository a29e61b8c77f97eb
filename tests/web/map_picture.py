"""Takes docs/img/map.png, the README's picture: `python -m tests.web.map_picture`. Not a test.

Stores the first paragraphs of 5,000 docstrings of this machine with the bundled model, which takes
some minutes, and photographs their map.
"""

import ast
import base64
import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright

from bench.corpus import SEED, files
from tests.web.conftest import ALONE, FLAGS, ask
from tests.web.screenshots import FOLDER, serving

COUNT, STEP = 5000, 100
NAME = "docstrings"
WIDE, TALL = 1280, 900  # of the window; the map's card is as wide as the picture
WAIT_MS = 600_000
COLOURS = 128  # of the picture: a fifth of the bytes, and no eye sees it
KINDS = {ast.Module: "module", ast.ClassDef: "class", ast.FunctionDef: "function"}
PIXELS = """async (png) => {
    const bitmap = await createImageBitmap(new Blob([Uint8Array.from(atob(png), c => c.charCodeAt(0))]));
    const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
    context.drawImage(bitmap, 0, 0);
    const { data, width, height } = context.getImageData(0, 0, bitmap.width, bitmap.height);
    let text = "";
    for (let at = 0; at < data.length; at += 0x8000) text += String.fromCharCode(...data.subarray(at, at + 0x8000));
    return [width, height, btoa(text)];
}"""  # noqa: E501


def main() -> None:
    """Run the service, fill a collection and take the picture."""
    with sync_playwright() as playwright, serving() as url:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=[*FLAGS, ALONE]
        )
        fill(url)
        photograph(browser, url)
        browser.close()


def fill(url: str) -> None:
    """Store the docstrings."""
    rows = sorted(docstrings(), key=lambda row: row[0])
    random.Random(SEED).shuffle(rows)
    for start in range(0, COUNT, STEP):
        texts, metadata = zip(*rows[start : min(start + STEP, COUNT)], strict=True)
        body = {"texts": texts, "metadata": metadata}
        ask(url, "POST", "/embed-and-store", {"collection": NAME, **body})


def docstrings() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the first paragraph of each docstring once, with where it stands."""
    seen: set[str] = set()
    for path in files():
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):
            continue
        inside = path.as_posix().partition("/site-packages/")[2]
        for node in ast.walk(tree):
            if type(node) not in KINDS:
                continue
            whole = ast.get_docstring(node) or ""  # type: ignore[arg-type]
            text = " ".join(whole.split("\n\n")[0].split())
            if len(text) >= 50 and ">>>" not in text and text not in seen:
                seen.add(text)
                yield (
                    text[:600],
                    {
                        "package": inside.partition("/")[0] or "python",
                        "kind": KINDS[type(node)],
                        "module": path.stem,
                        "length": len(whole),
                    },
                )


def photograph(browser: Browser, url: str) -> None:
    """Photograph the map, `WIDE` pixels wide, once it is laid out."""
    page = shown(browser, url, 1)
    width = page.locator(".map-card").evaluate("card => card.offsetWidth")
    page.close()
    page = shown(browser, url, WIDE / width)
    png = page.locator(".map-card").screenshot()
    (FOLDER / "map.png").write_bytes(smaller(page, png))
    page.close()


def shown(browser: Browser, url: str, scale: float) -> Page:
    """Return a page with the map; `scale` is the pixels of the screen to one of the page."""
    size, still = {"width": WIDE, "height": TALL}, "reduce"
    page = browser.new_page(viewport=size, reduced_motion=still, device_scale_factor=scale)  # type: ignore[arg-type]
    page.set_default_timeout(WAIT_MS)
    page.goto(f"{url}/#/collections/{NAME}")
    page.locator(".map[data-layout=neighbours][aria-busy=false]").wait_for()
    page.evaluate("document.activeElement.blur()")
    return page


def smaller(page: Page, png: bytes) -> bytes:
    """Return a picture with `COLOURS` colours; the browser reads its pixels."""
    from sklearn.cluster import KMeans

    width, height, text = page.evaluate(PIXELS, base64.b64encode(png).decode())
    pixels = np.frombuffer(base64.b64decode(text), np.uint8).reshape(-1, 4)[:, :3]
    colours, which, counts = np.unique(pixels, axis=0, return_inverse=True, return_counts=True)
    model = KMeans(COLOURS, n_init=1, max_iter=20, random_state=0)
    of = model.fit_predict(colours.astype(float), sample_weight=np.sqrt(counts))
    palette = np.rint(model.cluster_centers_).astype(np.uint8)
    for each in range(COLOURS):  # grounds stay what they are
        inside = np.flatnonzero(of == each)
        if len(inside):
            palette[each] = colours[inside[counts[inside].argmax()]]
    rows = of[which.ravel()].astype(np.uint8).reshape(height, width)
    lines = np.concatenate([np.zeros((height, 1), np.uint8), rows], 1)
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = (
        (b"IHDR", head),
        (b"PLTE", palette.tobytes()),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in (*parts, (b"IEND", b"")))


def _chunk(kind: bytes, content: bytes) -> bytes:
    length, check = len(content), zlib.crc32(kind + content)
    return struct.pack(">I", length) + kind + content + struct.pack(">I", check)


if __name__ == "__main__":
    main()
