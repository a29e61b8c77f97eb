"""`embedding-service`, the one command: `python cli.py` is the same.

Each command is in a module of its own (`commands/lazy.py` lists them).
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

# As an installed program this file is a module of a package, whose folder has all the others.
sys.path.insert(0, str(Path(__file__).parent))

from commands.lazy import Lazily, register  # noqa: E402
from tools.places import version  # noqa: E402

EXAMPLES = """\b
examples:
  embedding-service serve --model BAAI/bge-m3 --key "$(embedding-service keys random)"
  embedding-service embed texts.jsonl vectors.npy
  embedding-service embed texts.jsonl --store docs
  embedding-service search docs "how do I cancel my order"
  embedding-service doctor

\b
EMBEDDING_SERVICE_URL and EMBEDDING_API_KEY say which service is meant and with which key.
"""

app = typer.Typer(
    cls=Lazily,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    epilog=EXAMPLES,
    help="Serve embedding models, embed files, search what is stored, and look after it all.",
)
register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"embedding-service {version()}")
        raise typer.Exit


@app.callback()
def program(
    show: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Take the options of the program itself."""


if __name__ == "__main__":
    app()
