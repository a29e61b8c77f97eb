"""The settings a process starts with: one frozen `Config`, read once.

Precedence, highest first: environment, `.env`, names of another service (`rivals.py`), model files
(for what they describe), default. A value that cannot be read stops the start with its name, what
was given and what is allowed. What changes at run time is in `settings/`.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError

from config import fields, rivals
from config.access import AccessSettings
from config.fields import ConfigError
from config.models import ModelSettings, ModelSpec, ProviderSettings, read_catalogue
from config.serving import OperationsSettings, ServingSettings
from config.storage import CacheSettings, SqlSettings, StoreSettings

__all__ = ["Config", "ConfigError", "ModelSettings", "ModelSpec", "load_config"]

log = logging.getLogger("config")


class Config(
    ServingSettings,
    ModelSettings,
    ProviderSettings,
    StoreSettings,
    SqlSettings,
    CacheSettings,
    AccessSettings,
    OperationsSettings,
):
    """Every setting a process starts with, by field name."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=()
    )

    def catalogue(self) -> tuple[tuple[ModelSpec, ...], str]:
        """Return the configured models and the default's id. Raises ConfigError."""
        return read_catalogue(self)


def load_config(
    environ: Mapping[str, str] | None = None, dotenv: Path | None = None, **overrides: Any
) -> Config:
    """Return the settings of the environment and `.env`; `overrides` (by field) win over both.

    Raises ConfigError, which ends the process with a list of everything that is wrong.
    """
    environ = fields.without_service_links(os.environ if environ is None else environ)
    written = fields.read_dotenv(dotenv or Path(".env"))
    ours, given_ours = fields.from_sources(Config, environ, written)
    theirs = rivals.read({**written, **environ})
    values, given = theirs.values | ours, theirs.given | given_ours
    known = {name for info in Config.model_fields.values() for name in fields.names_of(info)}
    for name in fields.unknown_names(known, {**written, **environ}):
        log.warning("%s is set but is no setting of this service", name)
    try:
        return Config.model_validate({**values, **overrides})
    except ValidationError as exc:
        raise ConfigError(fields.explain(exc, Config, given)) from None
