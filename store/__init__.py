"""The vector store: named collections that any number of processes write and search.

`open_store` returns the back end of a URL. `store/base.py` has what both promise, `docs/store.md`
how files keep it.
"""

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from errors import Invalid
from store.base import (
    BackupInfo,
    CollectionInfo,
    Found,
    Hit,
    Item,
    Page,
    Record,
    Report,
    VectorStore,
    Written,
)
from store.file import FileStore
from store.graph_index import check_installed
from store.pgvector import PostgresStore
from store.record_file import Fsync, Options
from store.records import sqlite_version
from store.validation import Limits

__all__ = [
    "BackupInfo",
    "CollectionInfo",
    "Found",
    "Hit",
    "Item",
    "Limits",
    "Page",
    "Record",
    "Report",
    "VectorStore",
    "Written",
    "open_store",
    "sqlite_version",
]


def open_store(
    url: str | None = None,
    directory: str | Path = "data/store",
    *,
    limits: Limits | None = None,
    shards: int = 0,
    ann_above: int = 0,
    fsync: Fsync = "always",
    lock_timeout_s: float = 10.0,
    max_collections: int | None = None,
    **options: Any,
) -> VectorStore:
    """Return the store of a URL: none or `file:///folder` for files, or `postgresql://...`.

    `directory` is used without a URL. `shards` is for PostgreSQL with Citus; `ann_above`, `fsync`
    and `lock_timeout_s` are for files; `options` are the back end's own. Raises Invalid.
    """
    limits = limits or Limits()
    parts = urlsplit(url or "")
    if parts.scheme in ("", "file") and not parts.netloc:
        if ann_above:
            check_installed()
        folder = unquote(parts.path) if parts.path else str(directory)
        how = Options(fsync, lock_timeout_s=lock_timeout_s, ann_above=ann_above, **options)
        return FileStore(Path(folder), limits=limits, options=how, max_collections=max_collections)
    if parts.scheme.partition("+")[0] in ("postgresql", "postgres"):
        return PostgresStore(
            str(url), limits=limits, shards=shards, max_collections=max_collections, **options
        )
    raise Invalid(f"STORE_URL of scheme {parts.scheme!r}; known are file and postgresql")
