"""Prints `docs/configuration.md`: `python -m settings > docs/configuration.md`."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, SecretStr

from config import Config
from config.fields import is_secret, names_of, sections_of
from settings.keys import KEYS, of_value

HEAD = """\
# Configuration

Every setting of the service. [.env.example](../.env.example) has the same settings, to copy to
`.env`. This page is generated: `python -m settings > docs/configuration.md`.

Precedence, highest first: what is changed at run time ([settings](settings.md)), the environment,
`.env`, the model files (for what they describe), the default. If one source has several names of a
setting, the name that comes first here wins.

A value that cannot be read stops the start with a message that says what is allowed; so does a line
of `.env` that is not `NAME=value`. An unknown name that begins with `EMBEDDING_`, or differs from
one of these only in its capitals, is reported in the log.

A *secret* is never shown or logged, and its name followed by `_FILE` names a file that holds it. A
*list* is separated by commas.

The last column is the key under which `/settings` and the console change the setting at run time.
*Next start* means that it is stored at once and used from the next start on."""
KINDS = {"string": "text", "integer": "whole number", "array": "list", "boolean": "`true`, `false`"}
KEY_OF = {row.field: row for row in KEYS.values()}


def page() -> str:
    """Return the text of `docs/configuration.md`."""
    parts = [HEAD, *(_section(section) for section in sections_of(Config))]
    return "\n\n".join(parts) + "\n"


def _section(section: type[BaseModel]) -> str:
    title = (section.__doc__ or "").splitlines()[0].rstrip(".")
    schemas = section.model_json_schema(by_alias=False)["properties"]
    lines = [f"## {title}", "", "| variable | default | allowed | what it does | at run time |"]
    lines.append("|---|---|---|---|---|")
    for field in section.__annotations__:
        info, key = section.model_fields[field], KEY_OF.get(field)
        names = ", ".join(f"`{name}`" for name in names_of(info))
        if not names:  # no variable of ours sets it
            continue
        allowed = "secret" if is_secret(info) else _allowed(schemas[field])
        change = f"`{key.name}`{', next start' if key.restart else ''}" if key else "no"
        cells = [names, _default(info.default), allowed, info.description or "", change]
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines)


def _allowed(schema: Mapping[str, Any]) -> str:
    """Write a setting's schema in words: `whole number, 1 to 65535`."""
    schema = of_value(schema)
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = str(schema.get("format", schema["type"]))
    least, most = schema.get("minimum"), schema.get("maximum")
    limits = "" if least is None else f", at least {least}"
    if least is not None and most is not None:
        limits = f", {least} to {most}"
    if "exclusiveMinimum" in schema:
        limits = f", above {schema['exclusiveMinimum']}" + (f", at most {most}" if most else "")
    return KINDS.get(kind, kind) + limits


def _default(value: object) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, bool):
        value = str(value).lower()
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return "unset" if value is None or not text else f"`{text}`"


if __name__ == "__main__":
    print(page(), end="")
