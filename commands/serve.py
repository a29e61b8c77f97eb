"""`serve`: becomes gunicorn, with the settings that the command line says."""

import os
import re
import sys
import textwrap
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

from config import rivals
from config.access import check_key
from config.fields import ConfigError, read_dotenv, without_service_links
from tools.places import ROOT, places, within

opt = typer.Option

OF_TEI = sorted(set(re.findall(r"--[a-z][a-z-]+", rivals.flags().format_usage())))
SHOWN = textwrap.fill(
    f"Flags of text-embeddings-inference (docs/clients.md): {', '.join(OF_TEI)}.", 78,
    break_on_hyphens=False,
)  # fmt: skip
EXAMPLES = f"""\b
examples:
  embedding-service serve
  embedding-service serve --model BAAI/bge-m3 --key "$(embedding-service keys random)"
  embedding-service serve --model BAAI/bge-m3 --model BAAI/bge-reranker-v2-m3 --port 8080
  embedding-service serve --host 127.0.0.1 --workers 4

\b
{SHOWN}

\b
Every other flag is gunicorn's: gunicorn --help lists them.
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, epilog=EXAMPLES
)
def serve(
    context: typer.Context,
    model: Annotated[list[str] | None, opt(
        help="Model to serve: a Hugging Face name, a folder, or an id of model_config.json. May be "
        "given several times; the first is the default. Without it, those of model_config.json.",
    )] = None,
    key: Annotated[str | None, opt(
        help="Key that every request must bear, of at least 16 characters: API_KEY_SECRET, with "
        "AUTH_ENABLED=true.",
    )] = None,
    host: Annotated[str | None, opt(
        help="Address to listen on: 127.0.0.1 is this machine only (default: every address).",
    )] = None,
    port: Annotated[int | None, opt(
        "--port", "-p", min=1, max=65535, help="Port to listen on (default: 8001).")] = None,
    device: Annotated[str | None, opt(help="cpu, cuda, cuda:N, mps or auto.")] = None,
    dtype: Annotated[str | None, opt(help="auto, float32, bfloat16, float16 or int8.")] = None,
    data: Annotated[Path | None, opt(help="Folder for all that the service stores.")] = None,
    as_json: Annotated[bool, opt("--json", help="Write the log as JSON.")] = False,
) -> None:  # fmt: skip
    """Start the service. Takes the flags of text-embeddings-inference and of gunicorn, too."""
    said = {
        "EMBEDDING_MODEL": model[0] if model else None,
        "SUPPORTED_MODELS": ",".join(model or ()),
        "EMBEDDING_HOST": host,
        "EMBEDDING_PORT": port and str(port),
        "EMBEDDING_DEVICE": device,
        "EMBEDDING_DTYPE": dtype,
        "LOG_FORMAT": "json" if as_json else None,
        **_with_key(key),
        **(within(data.absolute()) if data else {}),
    }
    flags = {name: value for name, value in said.items() if value}
    environ = {**read_dotenv(Path(".env")), **without_service_links(os.environ), **flags}
    added, others = rivals.started(environ, context.args)
    os.environ.update(flags | places(environ) | added)
    # Replaces this process, so that signals reach the server itself.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "gunicorn", *_where(others), *others])


def _with_key(key: str | None) -> dict[str, str]:
    """Return the settings that ask for a key. Raises ConfigError for one that can be guessed."""
    if key is None:
        return {}
    try:
        check_key("--key", SecretStr(key))
    except ValueError as exc:
        raise ConfigError([f"{exc}, or with: embedding-service keys random"]) from None
    return {"AUTH_ENABLED": "true", "API_KEY_SECRET": key}


def _where(others: list[str]) -> list[str]:
    """Return the application, and where gunicorn's configuration is if it does not find it here."""
    given = any(each.startswith(("-c", "--config")) for each in others)
    found = given or Path.cwd() == ROOT
    return ["app:app", *([] if found else ["-c", str(ROOT / "gunicorn.conf.py")])]
