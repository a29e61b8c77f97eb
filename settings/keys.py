"""The settings that an admin may change, and what is allowed for each.

A row points at the field of `Config` that it sets, which owns its limits and its description.
Knows nothing of where values are kept.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from config import Config
from errors import Invalid


@dataclass(frozen=True)
class Key:
    """One setting: its name, the field it sets, whether that needs a restart or loads models."""

    name: str
    field: str
    type: str
    restart: bool = False
    of_model: bool = False  # may load models anew, or change their limits

    @property
    def default(self) -> Any:
        """The value when nothing sets it."""
        return Config.model_fields[self.field].default

    @property
    def description(self) -> str:
        """What it does and what is allowed."""
        return Config.model_fields[self.field].description or ""

    @staticmethod
    def shown(value: Any) -> Any:
        """Return a value as JSON has it."""
        if isinstance(value, tuple):
            return list(value)
        return str(value) if isinstance(value, Path) else value


_ROWS = (
    Key("model_name", "model", "str", of_model=True),
    Key("device", "device", "str", of_model=True),
    Key("dtype", "dtype", "str", of_model=True),
    Key("backend", "backend", "str", of_model=True),
    Key("normalize_embeddings", "normalize", "bool", of_model=True),
    Key("max_batch_size", "max_batch_size", "int", of_model=True),
    Key("max_seq_length", "max_seq_length", "int", of_model=True),
    Key("max_queue_tokens", "max_queue_tokens", "int", of_model=True),
    Key("max_texts", "max_texts", "int"),
    Key("truncate", "truncate", "str"),
    Key("token_ids", "token_ids", "str"),
    Key("request_deadline", "request_deadline_s", "float"),
    Key("cors_origins", "cors_origins", "list"),
    Key("log_level", "log_level", "str"),
    *(
        Key(name, name, "int")
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
    """Return a JSON value as the configuration has it, and as JSON again. Raises Invalid.

    Strings are read as the environment's are, so `"32"` and `"*, http://a"` will do.
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
    """Return what is wrong with a value that the configuration's own types would let pass."""
    if isinstance(value, bool) != (row.type == "bool") and not isinstance(value, str):
        return f"it should be of type {row.type}"
    if value is None and row.default is not None:
        return "it cannot be null; DELETE brings the default back"
    if isinstance(value, str) and not (0 < len(value.strip()) <= 1024 and value.isprintable()):
        return "it should be 1 to 1024 printable characters"
    return None
