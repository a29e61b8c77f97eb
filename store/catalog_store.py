"""What both stores do alike: everything about names, by the catalogue."""

from typing import Any

from store.base import Identity
from store.catalog import Catalog
from store.delegating import DelegatingNames


class CatalogStore(DelegatingNames):
    """A store whose names are in a `Catalog`; what is done with rows is left to each back end."""

    catalog: Catalog

    def identity(self, name: str) -> Identity:
        """Return which collection a name or alias means."""
        return self.catalog.look_up(name)

    def _call(self, operation: str, *args: Any, **named: Any) -> Any:
        return getattr(self.catalog, operation)(*args, **named)
