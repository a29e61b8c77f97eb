"""API keys: random ones for `serve --key`, and those of a running service's users."""

import secrets
import time
from typing import Annotated, Any
from urllib.parse import quote

import typer

from tools.answers import Json, say, table, told
from tools.service import HERE, Key, Service, Url

opt = typer.Option

EXAMPLES = """\b
examples:
  embedding-service keys random
  embedding-service serve --key "$(embedding-service keys random)"
  embedding-service keys list --key emb_...
  embedding-service keys create ana --label laptop --days 90
  embedding-service keys revoke ana 3f0c...
"""
app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    no_args_is_help=True, epilog=EXAMPLES,
    help="Make, list and revoke API keys. Those of users need accounts (docs/accounts.md), and the "
    "key or token of that user or of an admin.",
)  # fmt: skip
User = Annotated[str, typer.Argument(help="Name of the user.")]
OwnOrUser = Annotated[
    str | None,
    typer.Argument(help="Name of the user (default: whose key it is).", show_default=False),
]
Id = Annotated[str, typer.Argument(help="Id of the key, as `list` shows it.")]


@app.command()
def random(as_json: Json = False) -> None:
    """Print a new random key, for `serve --key` or ADMIN_TOKEN. Asks no service."""
    made = secrets.token_urlsafe(32)
    say({"key": made}, made, as_json)


@app.command("list")
def list_(user: OwnOrUser = None, url: Url = HERE, key: Key = None, as_json: Json = False) -> None:
    """List a user's keys, without their secrets."""
    with told(as_json):
        service = Service(url, key)
        name = user or service.ask("GET", "/users/me")["username"]
        reply = service.ask("GET", _path(name))
        rows = [_row(each) for each in reply["api_keys"]]
    head = ("ID", "LABEL", "ROLE", "COLLECTIONS", "CREATED", "LAST USED", "STATE")
    say(reply, table(head, rows) if rows else f"{name} has no keys", as_json)


def _row(key: dict[str, Any]) -> tuple[str, ...]:
    state = "valid"
    if key["revoked"] is not None:
        state = f"revoked {_day(key['revoked'])}"
    elif key["expires"] is not None:
        state = f"{'expired' if key['expires'] < time.time() else 'until'} {_day(key['expires'])}"
    allowed = "all" if key["collections"] is None else ", ".join(key["collections"]) or "none"
    return (key["id"], key["label"] or "-", key["role"] or "its user's", allowed,
            _day(key["created"]), _day(key["last_used"]), state)  # fmt: skip


def _day(stamp: float | None) -> str:
    return "-" if stamp is None else time.strftime("%Y-%m-%d", time.localtime(stamp))


@app.command()
def create(
    user: User,
    label: Annotated[str, opt(help="What it is for.")] = "",
    role: Annotated[str | None, opt(help="reader or user, if weaker than the user's role.")] = None,
    collection: Annotated[
        list[str] | None, opt(help="Only this collection; may be given several times.")
    ] = None,
    days: Annotated[float | None, opt(min=0, help="Days until it expires.")] = None,
    url: Url = HERE,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Create a key for a user, and print it: it is shown only now."""
    wanted = {"role": role, "collections": collection, "expires_in_days": days}
    body = {"label": label, **{name: value for name, value in wanted.items() if value}}
    with told(as_json):
        reply = Service(url, key).ask("POST", _path(user, single=True), body)
        say(reply, reply["api_key"], as_json)


@app.command()
def rotate(
    user: User,
    id: Id,
    overlap: Annotated[float, opt(min=0, help="Seconds the old key works on.")] = 3600,
    url: Url = HERE,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Replace a key, and print the new one.

    The old one works for a while.
    """
    with told(as_json):
        path = f"{_path(user)}/{quote(id, safe='')}/rotate"
        reply = Service(url, key).ask("POST", path, {"overlap_s": overlap})
        say(reply, reply["api_key"], as_json)


@app.command()
def revoke(user: User, id: Id, url: Url = HERE, key: Key = None, as_json: Json = False) -> None:
    """Revoke a key.

    It ends at once, in other workers within two seconds.
    """
    with told(as_json):
        reply = Service(url, key).ask("DELETE", f"{_path(user)}/{quote(id, safe='')}")
        say(reply, f"{id} is revoked", as_json)


def _path(user: str, single: bool = False) -> str:
    return f"/users/{quote(user, safe='')}/api-key{'' if single else 's'}"
