"""What a request handler may reach: the services that the factory built, and nothing else."""

from dataclasses import dataclass
from typing import cast

from flask import current_app

from accounts import Accounts
from accounts.provider_keys import Vault
from cache import Cache
from config import Config
from documents import Library
from documents.reembed import Reembedder
from embedders.providers import Providers
from engine import Engine
from settings import Settings

KEY = "services"


@dataclass(frozen=True)
class Services:
    """The parts below the door.

    `config` is what the process started with; `settings.current` is the same with what an admin
    changed since, and is what handlers read.
    """

    config: Config
    accounts: Accounts
    engine: Engine
    cache: Cache | None
    library: Library
    reembedder: Reembedder
    settings: Settings
    providers: Providers
    vault: Vault
    version: str


def services() -> Services:
    """Return the running application's services."""
    return cast(Services, current_app.extensions[KEY])
