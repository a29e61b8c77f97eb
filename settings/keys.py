"""The settings that an admin may change at run time, and which values each takes.

Limits and descriptions are those of the field of `Config` that a setting sets.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from config import Config
from errors import Invalid


@dataclass(frozen=True)
class Key:
    """One setting: its name, the field of `Config` it sets, and what a change of it does."""

    name: str
    field: str
    type: str
    unit: str | None = None  # what its number counts
    restart: bool = False
    of_model: bool = False  # a change loads models again, or changes their limits

    @property
    def default(self) -> Any:
        """The value when nothing sets it."""
        return Config.model_fields[self.field].default

    @property
    def description(self) -> str:
        """What it does and which values it takes."""
        return Config.model_fields[self.field].description or ""

    @property
    def allowed(self) -> dict[str, Any]:
        """Which values it takes, as the type of the field says; null where there is no such limit.

        `choices` of a list are those of its items; `examples` are some of the values.
        """
        schema = of_value(_schemas()[self.field])
        return {
            "choices": schema.get("enum") or schema.get("items", {}).get("enum"),
            "examples": schema.get("examples"),
            "minimum": schema.get("minimum"),
            "above": schema.get("exclusiveMinimum"),
            "maximum": schema.get("maximum"),
            "unit": self.unit,
        }

    @staticmethod
    def shown(value: Any) -> Any:
        """Return a value as JSON can hold it."""
        if isinstance(value, tuple):
            return list(value)
        return str(value) if isinstance(value, Path) else value


@cache
def _schemas() -> dict[str, Any]:
    """Return the JSON schema of each field of `Config`."""
    return dict(Config.model_json_schema(by_alias=False)["properties"])


def of_value(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a JSON schema says of a value that is not null."""
    return next((s for s in schema.get("anyOf", ()) if s.get("type") != "null"), schema)


_ROWS = (
    Key("model_name", "model", "str", of_model=True),
    Key("device", "device", "str", of_model=True),
    Key("dtype", "dtype", "str", of_model=True),
    Key("backend", "backend", "str", of_model=True),
    Key("normalize_embeddings", "normalize", "bool", of_model=True),
    Key("max_batch_size", "max_batch_size", "int", "texts", of_model=True),
    Key("max_seq_length", "max_seq_length", "int", "tokens", of_model=True),
    Key("max_queue_tokens", "max_queue_tokens", "int", "tokens", of_model=True),
    Key("interactive_p99_ms", "interactive_p99_ms", "float", "ms", of_model=True),
    Key("interactive_max_tokens", "interactive_max_tokens", "int", "tokens"),
    Key("bulk_roles", "bulk_roles", "list"),
    Key("max_texts", "max_texts", "int", "texts"),
    Key("truncate", "truncate", "str"),
    Key("token_ids", "token_ids", "str"),
    Key("unknown_model", "unknown_model", "str"),
    Key("request_deadline", "request_deadline_s", "float", "s"),
    Key("cors_origins", "cors_origins", "list"),
    Key("log_level", "log_level", "str"),
    *(
        Key(name, name, "int", f"{what} a minute")
        for what in ("requests", "texts")
        for role in ("admin", "user", "reader", "anonymous")
        for name in (f"{what}_per_minute_{role}",)
    ),
    Key("host", "host", "str", restart=True),
    Key("port", "port", "int", restart=True),
    Key("model_cache_dir", "model_cache_dir", "str", restart=True),
)
KEYS = {row.name: row for row in _ROWS}
MODEL_KEYS = {row.name: row.field for row in _ROWS if row.of_model}


def parse(key: str, value: Any) -> tuple[Any, Any]:
    """Return a JSON value as `Config` has it, and as JSON again. Raises Invalid.

    Strings are read like those of the environment: `"32"` and `"*, http://a"` are allowed.
    """
    row = KEYS[key]
    reason = _wrong(row, value)
    if reason is None:
        try:
            parsed = getattr(Config.model_validate({row.field: value}), row.field)
        except ValidationError as exc:
            reason = exc.errors(include_url=False, include_input=False)[0]["msg"]
            reason = reason.removeprefix("Value error, ").replace("Input should", "it should")
    if reason is not None:
        raise Invalid(
            f"{key}: {reason}. {row.description.rstrip('.')}. Nothing was changed", param=key
        )
    return parsed, row.shown(parsed)


def _wrong(row: Key, value: Any) -> str | None:
    """Return what is wrong with a value that pydantic would accept, or None."""
    if isinstance(value, bool) != (row.type == "bool") and not isinstance(value, str):
        return f"it should be of type {row.type}"
    if value is None and row.default is not None:
        return "it cannot be null; DELETE restores the default"
    if isinstance(value, str) and not (0 < len(value.strip()) <= 1024 and value.isprintable()):
        return "it should be 1 to 1024 printable characters"
    return None


def check_folder(name: str, start: Config) -> None:
    """Raise Invalid if `name` is a folder that only the configuration of the start may name.

    Else error messages would show an admin of the settings what is in other folders.
    """
    if any(spec.answers_to(name) for spec in start.catalogue()[0]):
        return
    path_like = name.startswith(("/", ".", "~")) or "\\" in name or ".." in Path(name).parts
    if not path_like and not os.path.isdir(name):
        return
    from huggingface_hub import constants

    roots = (*start.model_dirs, start.model_cache_dir or constants.HF_HUB_CACHE)
    try:
        place = Path(os.path.realpath(name))
    except (OSError, ValueError):  # a link that may not be read, such as /proc/1/root; a NUL
        place = Path()
    if not any(place.is_relative_to(os.path.realpath(os.path.expanduser(root))) for root in roots):
        raise Invalid(
            "model_name: at run time a folder must be in one of MODEL_DIRS or in the model cache; "
            "add it there or to model_config.json and restart. Nothing was changed",
            param="model_name",
        )
