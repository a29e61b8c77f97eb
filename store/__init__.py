"""The vector store: named collections you can write and search from any number of processes.

`open_store` gives the backend that a URL names. What every backend promises stands in
`store/base.py`; how files keep it in `docs/store.md`.
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
from store.journal import Fsync
from store.ledger import Options
from store.pgvector import SqlStore
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
    **options: Any,
) -> VectorStore:
    """Open the store that `url` names: none or `file:///folder` for files, `postgresql://...`.

    `directory` is used when there is no URL. `shards` is for PostgreSQL with Citus; `ann_above`,
    `fsync` and `lock_timeout_s` are for files; `options` are the backend's own.
    """
    limits = limits or Limits()
    parts = urlsplit(url or "")
    if parts.scheme in ("", "file") and not parts.netloc:
        if ann_above:
            check_installed()
        folder = unquote(parts.path) if parts.path else str(directory)
        how = Options(fsync, lock_timeout_s=lock_timeout_s, ann_above=ann_above, **options)
        return FileStore(Path(folder), limits=limits, options=how)
    if parts.scheme.partition("+")[0] in ("postgresql", "postgres"):
        return SqlStore(str(url), limits=limits, shards=shards, **options)
    raise Invalid(f"STORE_URL of scheme {parts.scheme!r}; known are file and postgresql")
