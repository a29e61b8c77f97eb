"""What both stores do alike: everything about names, by the catalogue.

`FileStore` and `PostgresStore` build on it; each adds what is done with rows.
"""

from typing import Any

from store.base import Identity, VectorStore
from store.catalog import Catalog
from store.delegating import passed_on


class CatalogStore(VectorStore):
    """A store whose names are in a `Catalog`; what is done with rows is left to each back end."""

    catalog: Catalog

    create = passed_on(VectorStore.create)
    collections = passed_on(VectorStore.collections)
    names = passed_on(VectorStore.names)
    info = passed_on(VectorStore.info)
    drop = passed_on(VectorStore.drop)
    rename = passed_on(VectorStore.rename)
    swap = passed_on(VectorStore.swap)
    alias = passed_on(VectorStore.alias)
    unalias = passed_on(VectorStore.unalias)
    stamp = passed_on(VectorStore.stamp)
    wait_for_writers = passed_on(VectorStore.wait_for_writers)

    def identity(self, name: str) -> Identity:
        """Return which collection a name or alias means."""
        return self.catalog.look_up(name)

    def _call(self, operation: str, *args: Any, **named: Any) -> Any:
        return getattr(self.catalog, operation)(*args, **named)
