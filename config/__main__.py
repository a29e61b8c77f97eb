"""Prints `.env.example`: `python -m config > .env.example`."""

from config import Config
from config.fields import is_secret, names_of, sections_of

HEAD = """\
# Every setting with its default. Copy this file to .env and remove the # of a line to change it.
# Precedence, highest first: environment, .env, the model files (for what they describe), default.
# If one source has several names of a setting, the name that comes first here wins.
# For a secret, NAME_FILE names a file that holds the value.
# This file is UTF-8. Values are taken as written: ${X} is not replaced."""


def example() -> str:
    """Return the text of `.env.example`."""
    parts = [HEAD]
    for section in sections_of(Config):
        parts.append(f"\n# == {(section.__doc__ or '').splitlines()[0]}")
        for field in section.__annotations__:
            info = section.model_fields[field]
            if not names_of(info):  # no variable of ours sets it
                continue
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
