"""Read raw settings from the environment and `.env`, and say clearly what could not be read.

Owns the mechanism only: names, sources, precedence and error text. What the settings are is in the
other files of this package. A setting's environment names are its pydantic alias choices; where
several names of one setting are given in the same source, the first listed in `.env.example` wins.
"""

import difflib
import os.path
import re
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any, get_args

from pydantic import AliasChoices, BaseModel, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo

LONGEST_S = 30 * 86400  # of a time limit; the system's own clocks overflow at some point
LARGEST = 16 << 20  # of a file of settings, in bytes
LINK = re.compile(r"(?P<service>[^=]+)_PORT=(tcp|udp|sctp)://\S*")
LINKED = re.compile(r"SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)?")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


class ConfigError(SystemExit):
    """A setting cannot be read. Ends the process with the list of problems and exit code 1."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(["The service cannot start:", *(f"  - {p}" for p in problems)]))


def setting(default: Any, *names: str, help: str, **limits: Any) -> Any:
    """Declare one setting: its default, environment names (most specific first) and help text."""
    return Field(
        default,
        validation_alias=AliasChoices(*names),
        description=help,
        validate_default=False,
        **limits,
    )


def names_of(field: FieldInfo) -> list[str]:
    """Return the environment names of a setting, the winning one first."""
    alias = field.validation_alias
    return [str(c) for c in alias.choices] if isinstance(alias, AliasChoices) else []


def is_secret(field: FieldInfo) -> bool:
    """Tell whether a setting's value must never be shown."""
    return field.annotation is SecretStr or SecretStr in get_args(field.annotation)


def from_sources(
    model: type[BaseModel], environ: Mapping[str, str], dotenv: Mapping[str, str | None]
) -> tuple[dict[str, str], dict[str, str]]:
    """Pick each setting's raw value: environment over `.env`, absent or empty means default.

    Returns `({field: raw value}, {field: the name it was given under})`.
    For secrets `NAME_FILE` names a file that holds the value (container secrets).
    """
    values: dict[str, str] = {}
    given: dict[str, str] = {}
    for field, info in model.model_fields.items():
        for source in (environ, dotenv):
            found = _first(source, names_of(info), with_file=is_secret(info))
            if found:
                given[field], values[field] = found
                if not _is_text(found[1]):
                    raise ConfigError([f"{found[0]}: is not UTF-8 text; give it as UTF-8"])
                break
    return values, given


def _first(
    source: Mapping[str, str | None], names: list[str], *, with_file: bool
) -> tuple[str, str] | None:
    for name in names:
        if value := (source.get(name) or "").strip():
            return name, value
        if with_file and (path := source.get(f"{name}_FILE")):
            text = read_text(Path(path), f"{name}_FILE={path}")
            if text is None or not text.strip():  # which would be taken for a secret that is set
                problem = "cannot be read (there is no such file)" if text is None else "is empty"
                raise ConfigError([f"{name}_FILE={path}: {problem}; write the value into it"])
            return f"{name}_FILE", text.strip()
    return None


def _is_text(value: str) -> bool:
    """Tell whether a value is text: bytes of the environment that are none become surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def read_text(path: Path, shown: str) -> str | None:
    """Return the text of a file of settings, None if there is none.

    Raises ConfigError that names it as `shown`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ConfigError([f"{shown[:300]}: cannot be read ({exc.strerror})"]) from None
    if len(content) > LARGEST:
        raise ConfigError([f"{shown}: is larger than {LARGEST >> 20} MB; name a file of settings"])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-16, which older PowerShell writes, has one in every other byte
        raise ConfigError([f"{shown}: is not UTF-8 text; save it as UTF-8"])
    return text


def explain(exc: ValidationError, model: type[BaseModel], given: Mapping[str, str]) -> list[str]:
    """Turn a validation error into one line a setting: name, what was given, what is allowed."""
    lines = []
    for error in exc.errors(include_url=False):
        field = str(error["loc"][0]) if error["loc"] else ""
        info = model.model_fields.get(field)
        name = given.get(field) or (names_of(info)[0] if info and names_of(info) else field)
        # without a field the input is all settings at once, secrets among them
        shown = "" if info is None or is_secret(info) else f"={error['input']!s:.80}"
        reason = error["msg"].removeprefix("Value error, ")[:500]  # it may quote what was given
        help = f". {info.description}" if info else ""
        lines.append(f"{name}{shown}: {reason}{help}" if name else reason)
    return lines


def unknown_names(known: set[str], environ: Mapping[str, object]) -> list[str]:
    """List environment names that look like ours but are not, each with the likely one meant."""
    strange = []
    for name in environ.keys() - known:
        meant = name.upper().replace("-", "_")
        if meant in known or name.startswith(("EMBEDDING_", "EMBEDDINGS_")):
            close = difflib.get_close_matches(meant, known, 1)
            strange.append(name + (f" (did you mean {close[0]}?)" if close else ""))
    return sorted(strange)


def read_dotenv(path: Path) -> dict[str, str | None]:
    """Read a `.env` file; a missing one is empty. Values are as written: `${X}` stays so.

    Raises ConfigError that names every line which is none: left out, one such as
    `AUTH_ENABLED: true` would open the service.
    """
    from dotenv.parser import parse_stream

    if not os.path.lexists(path):
        return {}
    text = read_text(path, str(path))
    if text is None:
        raise ConfigError([f"{path}: leads to no file; make it, or remove the link"])
    values: dict[str, str | None] = {}
    problems = []
    for line in parse_stream(StringIO(text)):
        if line.error or (line.key is not None and not _is_setting(line.key, line.value)):
            written = line.original.string
            blank = len(written) - len(written.lstrip())  # lines before it, perhaps
            number = line.original.line + written.count("\n", 0, blank)
            problems.append(f"{path}: line {number} cannot be read; write NAME=value")
        elif line.key is not None:
            values[line.key] = line.value
    if problems:
        raise ConfigError(problems)
    return values


def _is_setting(name: str, value: str | None) -> bool:
    return value is not None and NAME.fullmatch(name) is not None


def without_service_links(environ: Mapping[str, str]) -> dict[str, str]:
    """Leave out what Kubernetes and Docker set to tell where another service is.

    For a Service named `redis` that is REDIS_PORT=tcp://10.0.0.11:6379, which is no port of ours,
    REDIS_SERVICE_HOST, REDIS_PORT_6379_TCP_ADDR and more.
    """
    given = [LINK.fullmatch(f"{name}={value}") for name, value in environ.items()]
    services = [f"{found['service']}_" for found in given if found]
    return {
        name: value
        for name, value in environ.items()
        if not any(
            name.startswith(start) and LINKED.fullmatch(name.removeprefix(start))
            for start in services
        )
    }


def process_environment() -> Mapping[str, str]:
    """Return the process's environment: the one place where it is read."""
    return os.environ
