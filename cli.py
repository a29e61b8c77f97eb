"""All commands in one: `python cli.py embed texts.jsonl out.npy`, `python cli.py store list`,
`python cli.py serve --model-id BAAI/bge-base-en-v1.5 --port 8080`.
"""

import os
import sys
from pathlib import Path

import typer

from config import rivals
from config.fields import read_dotenv, without_service_links
from store.__main__ import app as store
from tools.embed_file import app as embed

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Start the service, embed files through a running one, and look after a store.",
)
app.add_typer(embed)  # its one command is `embed`
app.add_typer(store, name="store")


@app.command(
    context_settings={
        "allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": [],
    },
    add_help_option=False,
)  # fmt: skip
def serve(context: typer.Context) -> None:
    """Start the service as the image does: with the flags of TEI's image, and gunicorn's."""
    environ = {**read_dotenv(Path(".env")), **without_service_links(os.environ)}
    added, others = rivals.started(environ, context.args)
    os.environ.update(added)
    # Replaces this process, so that signals reach the server itself.
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "app:app", *others])


if __name__ == "__main__":
    app()
