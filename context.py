"""What a request handler may use: the parts that the factory built, and nothing else."""

from dataclasses import dataclass
from typing import cast

from flask import current_app

from accounts import Accounts
from accounts.provider_keys import ProviderKeys
from cache import Cache
from config import Config
from documents import Documents
from documents.files import Loader
from documents.reembed import Reembedder
from embedders.providers import Providers
from engine import Engine
from settings import Settings

KEY = "services"


@dataclass(frozen=True)
class Services:
    """The parts below HTTP.

    `config` is the configuration at the start. `settings.current` is the same with the changes
    that admins have made since; handlers read this one.
    """

    config: Config
    accounts: Accounts
    engine: Engine
    cache: Cache | None
    documents: Documents
    reembedder: Reembedder
    loader: Loader
    settings: Settings
    providers: Providers
    provider_keys: ProviderKeys
    version: str


def services() -> Services:
    """Return the running application's services."""
    return cast(Services, current_app.extensions[KEY])
