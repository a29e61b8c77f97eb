"""The HTTP routes, one file a subject. Importing this package fills the route table."""

from routes import (  # noqa: F401, I001
    accounts, collections, dialects, embed, files, health, history, jobs, maps, models, openapi,
    providers, records, settings, web,
)  # fmt: skip
from routes.table import ROUTES

__all__ = ["ROUTES"]
