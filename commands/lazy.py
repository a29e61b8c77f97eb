"""A group of commands each of which is imported when it is run."""

import importlib
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

# Each command, where its program is, and what `--help` says of it. What some commands need takes
# seconds to import, and `--help` needs none of it.
COMMANDS = {
    "serve": ("commands.serve:app", "Start the service."),
    "pull": ("commands.pull:app", "Download a model, as the service would."),
    "embed": ("tools.embed_file:app", "Embed a file of texts through a running service."),
    "search": ("commands.asking:search_app", "Search a collection by meaning."),
    "models": ("commands.asking:models_app", "List the models of a running service."),
    "collections": (
        "commands.asking:collections_app",
        "List the collections of a running service.",
    ),
    "keys": ("commands.keys:app", "Make, list and revoke API keys."),
    "store": ("store.__main__:app", "Look after stored collections: verify, back up, move."),
    "check": ("commands.check:app", "Check the settings here, and a running service."),
    "doctor": ("commands.doctor:app", "Find what is wrong with this machine, and say what to do."),
}


class Lazily(TyperGroup):
    """Lists the commands as they are registered, and runs each from its module."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return a command's name, the command, and its arguments."""
        name, known, rest = super().resolve_command(ctx, args)
        if known is None:  # while a shell completes an unknown name
            return name, known, rest
        module, _, program = COMMANDS[str(name)][0].partition(":")
        return name, get_command(getattr(importlib.import_module(module), program)), rest


def register(app: typer.Typer) -> None:
    """Add every command to a program whose group is `Lazily`."""
    for name, (_, text) in COMMANDS.items():
        app.command(name, help=text)(lambda: None)
