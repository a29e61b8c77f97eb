"""`pull`: downloads a model into the cache that the service reads, and says what it is."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from config import ConfigError, ModelSpec, load_config
from config.fields import read_dotenv
from embedders import adapter_of, kinds, weights
from embedders.files import read_files
from errors import ModelUnavailable
from tools.answers import Json, say, told
from tools.places import places
from tools.records import Stop

EXAMPLES = """\b
examples:
  embedding-service pull BAAI/bge-m3
  embedding-service pull BAAI/bge-small-en-v1.5 --revision main --json
  EMBEDDING_MODEL_CACHE_DIR=/models embedding-service pull bge-small

\b
HF_TOKEN opens gated models, HF_ENDPOINT names another hub. What is there already is not downloaded
again, and a download that was cut off goes on.
"""
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(epilog=EXAMPLES)
def pull(
    model: Annotated[str, typer.Argument(
        help="Name on the Hugging Face hub, or an id or alias of model_config.json.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    cache: Annotated[Path | None, typer.Option(
        help="Folder of the cache (default: EMBEDDING_MODEL_CACHE_DIR, or the hub's own).")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Download a model as the service would, check it, and say where it is and what it is."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    for loud in ("httpx", "httpx2", "urllib3", "filelock", "huggingface_hub"):
        logging.getLogger(loud).setLevel(logging.ERROR)
    os.environ.update(places({**read_dotenv(Path(".env")), **os.environ}))
    with told(as_json):
        try:
            given: dict[str, Any] = {"model_cache_dir": cache} if cache else {}
            settings = load_config(**given)
            spec = _asked(model, settings.catalogue()[0])
        except ConfigError as exc:
            raise Stop("; ".join(exc.problems)) from None
        if revision:
            spec = spec.model_copy(update={"revision": revision})
        if adapter_of(spec):
            raise Stop(f"{spec.id} is a model of {spec.type}: there is nothing to download")
        try:
            kind, source = weights.checked(spec, settings)
        except ModelUnavailable as exc:
            raise Stop(exc.message) from None
        files = read_files(spec, settings)
        size = files.size if files else 0
        notes = [*kind.notes, *source.notes]
        facts = {"model": spec.model_name, "folder": str(source.folder), "kind": kind.kind,
                 "bytes": size, "notes": notes}  # fmt: skip
        lines = [
            f"{spec.model_name}: {size / 1e6:,.0f} MB in {source.folder}",
            f"it {kinds.WHAT[kind.kind]}", *notes,
            f"serve it with: embedding-service serve --model {model}",
        ]  # fmt: skip
        say(facts, "\n".join(lines), as_json)


def _asked(name: str, specs: tuple[ModelSpec, ...]) -> ModelSpec:
    """Return the configured model of this name, or else the hub's.

    A hub's name that a provider serves is the hub's model all the same.
    """
    known = [spec for spec in specs if spec.answers_to(name)]
    local = [spec for spec in known if adapter_of(spec) is None or spec.id == name]
    return local[0] if local else ModelSpec(id=name, model_name=name)
