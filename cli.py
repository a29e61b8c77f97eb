"""All commands in one: `python cli.py embed texts.jsonl out.npy`, `python cli.py store list`."""

import typer

from store.__main__ import app as store
from tools.embed_file import app as embed

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Embed files through a running service, and look after a store.",
)
app.add_typer(embed)  # its one command is `embed`
app.add_typer(store, name="store")

if __name__ == "__main__":
    app()
