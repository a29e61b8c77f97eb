"""Names, sources, precedence and error text of settings; the settings are in the other files.

The environment names of a setting are its pydantic alias choices. If one source has several names
of a setting, the first of them in `.env.example` wins.
"""

import difflib
import os.path
import re
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic.fields import FieldInfo

LONGEST_S = 30 * 86400  # of a time limit: a larger one can overflow a system clock
LARGEST_INT = 2**53 - 1  # of a number: what JSON, every database and a browser keep exactly
LARGEST = 16 << 20  # bytes of a file of settings
LINK = re.compile(r"(?P<service>[^=]+)_PORT=(tcp|udp|sctp)://\S*")
LINKED = re.compile(r"SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)?")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
# What the commands that ask a running service read, in the same shell or .env.
OF_COMMANDS = {"EMBEDDING_API_KEY", "EMBEDDING_SERVICE_URL"}


class ConfigError(SystemExit):
    """Settings cannot be read. Ends the process with a list of problems and exit code 1."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(["The service cannot start:", *(f"  - {p}" for p in problems)]))


BLANKS = " \t\r\n\"'"  # around an item of a list


def split_list(value: object) -> object:
    """Return the items of a comma list, which may be in brackets, without blanks and quotes."""
    if not isinstance(value, str):
        return value
    bare = value.strip(BLANKS)
    inner = bare[1:-1] if bare.startswith("[") and bare.endswith("]") else bare
    return tuple(item for part in inner.split(",") if (item := part.strip(BLANKS)))


Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=LONGEST_S)]
Commas = BeforeValidator(split_list)
CommaList = Annotated[tuple[str, ...], Commas]


def storable(value: object) -> object:
    """Return the value of a field. Raises ValueError for a number that could not be shown again."""
    if isinstance(value, int) and abs(value) > LARGEST_INT:
        raise ValueError(f"must be at most {LARGEST_INT}")
    return value


class Section(BaseModel):
    """Settings of one subject. The docstring below a setting is its help text."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    _storable = field_validator("*")(storable)

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        for info in cls.model_fields.values():
            info.description = " ".join((info.description or "").split())


def sections_of(config: type[BaseModel]) -> list[type[BaseModel]]:
    """Return the sections that a configuration is made of, in order."""
    return [c for c in config.__mro__ if issubclass(c, Section) and c not in (config, Section)]


def setting(default: Any, *names: str, **limits: Any) -> Any:
    """Return the field of a setting with its environment names, the one that wins first."""
    alias = AliasChoices(*names)
    return Field(default, validation_alias=alias, validate_default=False, **limits)


def names_of(field: FieldInfo) -> list[str]:
    """Return the environment names of a setting, the one that wins first."""
    alias = field.validation_alias
    return [str(c) for c in alias.choices] if isinstance(alias, AliasChoices) else []


def is_secret(field: FieldInfo) -> bool:
    """Whether a setting's value must never be shown."""
    return field.annotation is SecretStr or SecretStr in get_args(field.annotation)


def from_sources(
    model: type[BaseModel], environ: Mapping[str, str], dotenv: Mapping[str, str | None]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return `({field: raw value}, {field: the name it was given under})` of what is set.

    The environment wins over `.env`; an empty value is not set. For secrets `NAME_FILE` names a
    file that holds the value. Raises ConfigError for a value that is not text and a file that
    cannot be read.
    """
    values: dict[str, str] = {}
    given: dict[str, str] = {}
    for field, info in model.model_fields.items():
        for source in (environ, dotenv):
            found = _first(source, names_of(info), with_file=is_secret(info))
            if found:
                given[field], values[field] = found
                # Bytes of the environment that are not UTF-8 become surrogates.
                if any("\ud800" <= letter <= "\udfff" for letter in found[1]):
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
            if text is None or not text.strip():
                problem = "cannot be read (there is no such file)" if text is None else "is empty"
                raise ConfigError([f"{name}_FILE={path}: {problem}; write the value into it"])
            return f"{name}_FILE", text.strip()
    return None


def read_text(path: Path, shown: str) -> str | None:
    """Return the text of a file of settings, or None if it does not exist.

    Raises ConfigError, in which the file is called `shown`.
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
    if "\0" in text:  # UTF-16, as older PowerShell writes it, has one in every other byte
        raise ConfigError([f"{shown}: is not UTF-8 text; save it as UTF-8"])
    return text


def explain(exc: ValidationError, model: type[BaseModel], given: Mapping[str, str]) -> list[str]:
    """Return one line for each wrong setting: name, what was given, what is allowed."""
    lines = []
    for error in exc.errors(include_url=False):
        field = str(error["loc"][0]) if error["loc"] else ""
        info = model.model_fields.get(field)
        name = given.get(field) or (names_of(info)[0] if info and names_of(info) else field)
        # Without a field the input is all settings, secrets included.
        shown = "" if info is None or is_secret(info) else f"={error['input']!s:.80}"
        reason = error["msg"].removeprefix("Value error, ")[:500]
        help = f". {info.description}" if info else ""
        lines.append(f"{name}{shown}: {reason}{help}" if name else reason)
    return lines


def unknown_names(known: set[str], environ: Mapping[str, object]) -> list[str]:
    """Return the names that look like settings but are none, each with the most similar one."""
    strange = []
    for name in environ.keys() - known - OF_COMMANDS:
        meant = name.upper().replace("-", "_")
        if meant in known or name.startswith(("EMBEDDING_", "EMBEDDINGS_")):
            close = difflib.get_close_matches(meant, known, 1)
            strange.append(name + (f" (did you mean {close[0]}?)" if close else ""))
    return sorted(strange)


def read_dotenv(path: Path) -> dict[str, str | None]:
    """Return the names and values of a `.env` file, as written: `${X}` is not replaced.

    A missing file is empty. Raises ConfigError with every line that cannot be read: without
    `AUTH_ENABLED: true`, for example, the service would be open.
    """
    from dotenv.parser import parse_stream

    if not os.path.lexists(path):
        return {}
    text = read_text(path, str(path))
    if text is None:
        raise ConfigError([f"{path}: leads to no file; create it, or remove the link"])
    values: dict[str, str | None] = {}
    problems = []
    for line in parse_stream(StringIO(text)):
        named = line.key is not None
        if line.error or (named and (line.value is None or not NAME.fullmatch(line.key or ""))):
            written = line.original.string  # blank lines before it included
            number = line.original.line + written[: -len(written.lstrip())].count("\n")
            problems.append(f"{path}: line {number} cannot be read; write NAME=value")
        elif line.key is not None:
            values[line.key] = line.value
    if problems:
        raise ConfigError(problems)
    return values


def without_service_links(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the addresses of other services from Kubernetes or Docker.

    For a Service named `redis` these are REDIS_PORT=tcp://10.0.0.11:6379, which would be read as
    a port, REDIS_SERVICE_HOST, REDIS_PORT_6379_TCP_ADDR and more.
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
