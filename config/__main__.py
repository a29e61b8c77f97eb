"""Prints `.env.example` from the settings themselves: `python -m config > .env.example`."""

from pydantic import BaseModel

from config import Config
from config.fields import is_secret, names_of

HEAD = """\
# Every setting with its default. Copy to .env and take the # off a line to change it.
# Order, highest first: environment, .env, the model files (for what they say), default. Of several
# names of one setting in the same place the first one here wins. NAME_FILE works for secrets.
# This file is UTF-8 text. Values are taken as written: ${X} is not replaced."""


def example() -> str:
    """Return the text of `.env.example`."""
    parts = [HEAD]
    sections = [c for c in Config.__mro__ if issubclass(c, BaseModel) and c is not BaseModel]
    for section in sections[1:]:
        parts.append(f"\n# == {(section.__doc__ or '').splitlines()[0]}")
        for field in section.__annotations__:
            info = section.model_fields[field]
            first, *others = names_of(info)
            also = f" Also: {', '.join(others)}." if others else ""
            text = (info.description or "").rstrip(".")
            default = "" if is_secret(info) or info.default is None else _shown(info.default)
            parts.append(f"\n# {text}.{also}\n#{first}={default}")
    return "\n".join(parts) + "\n"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    print(example(), end="")
