"""The HTTP routes, one file a subject. Importing this package fills the route table."""

from routes import (
    collections,
    embed,
    maps,
    models,
    openapi,
    ops,
    settings,
    v1,
    web,
)
from routes.table import ROUTES

__all__ = [
    "ROUTES",
    "collections",
    "embed",
    "maps",
    "models",
    "openapi",
    "ops",
    "settings",
    "v1",
    "web",
]
