"""The HTTP routes, one file a subject. Importing this package fills the route table."""

from routes import (
    accounts,
    collections,
    embed,
    jobs,
    maps,
    models,
    openapi,
    ops,
    providers,
    settings,
    v1,
    web,
)
from routes.table import ROUTES

__all__ = [
    "ROUTES",
    "accounts",
    "collections",
    "embed",
    "jobs",
    "maps",
    "models",
    "openapi",
    "ops",
    "providers",
    "settings",
    "v1",
    "web",
]
