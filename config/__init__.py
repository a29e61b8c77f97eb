"""What the process starts with: one frozen `Config`, read once, strictly.

Precedence, highest first: environment, `.env`, model files (for what they say), default. A value
that cannot be read stops the start with its name, what was given and what is allowed. Each file of
this package owns the settings of one part; `Config` is all of them. What may change while the
service runs is not here but in SQL (`settings/`).
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError

from config.access import AccessSettings
from config.cache import CacheSettings
from config.docs import DocsSettings
from config.fields import (
    ConfigError,
    explain,
    from_sources,
    names_of,
    process_environment,
    read_dotenv,
    unknown_names,
    without_service_links,
)
from config.models import ModelSettings, ModelSpec, Truncate, read_catalogue
from config.operations import OperationsSettings
from config.providers import ProviderSettings
from config.serving import ServingSettings
from config.sql import SqlSettings
from config.store import StoreSettings
from config.vault import VaultSettings

__all__ = [
    "Config",
    "ConfigError",
    "ModelSettings",
    "ModelSpec",
    "ProviderSettings",
    "Truncate",
    "load_config",
]

log = logging.getLogger("config")


class Config(
    ServingSettings,
    ModelSettings,
    StoreSettings,
    SqlSettings,
    AccessSettings,
    CacheSettings,
    ProviderSettings,
    DocsSettings,
    OperationsSettings,
    VaultSettings,
):
    """Every setting the process starts with. Construct with field names; defaults are the docs'."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=()
    )

    def catalogue(self) -> tuple[tuple[ModelSpec, ...], str]:
        """Read the configured models and the default's id. Raises ConfigError."""
        return read_catalogue(self)


def load_config(
    environ: Mapping[str, str] | None = None, dotenv: Path | None = None, **overrides: Any
) -> Config:
    """Read the settings from the environment and `.env`; `overrides` (field names) win over both.

    Raises ConfigError, which ends the process with a list of everything that was wrong.
    """
    environ = without_service_links(process_environment() if environ is None else environ)
    written = read_dotenv(dotenv or Path(".env"))
    values, given = from_sources(Config, environ, written)
    known = {name for info in Config.model_fields.values() for name in names_of(info)}
    for name in unknown_names(known, {**written, **environ}):
        log.warning("%s is set but is no setting of this service", name)
    try:
        return Config.model_validate({**values, **overrides})
    except ValidationError as exc:
        raise ConfigError(explain(exc, Config, given)) from None
