"""Settings of the vector store."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, SecretStr

from config.fields import setting


class StoreSettings(BaseModel):
    """Where vectors are kept."""

    store_url: SecretStr | None = setting(
        None,
        "STORE_URL",
        help="postgresql://user:password@host/database for PostgreSQL with pgvector, "
        "file:///folder or unset for files.",
    )
    store_dir: Path = setting(
        Path("data/store"), "STORE_DIR", help="The folder of the file store and of its jobs."
    )
    store_fsync: Literal["always", "interval", "never"] = setting(
        "always",
        "STORE_FSYNC",
        help="File store: when a write is on the disk: before its answer, within a second of it, "
        "or when the system likes. Only a power cut can tell them apart.",
    )
    store_lock_timeout_s: float = setting(
        10.0,
        "STORE_LOCK_TIMEOUT",
        gt=0,
        le=600,
        help="File store: seconds that a write waits for others before it is answered 503.",
    )
    store_shards: int = setting(
        0,
        "STORE_SHARDS",
        ge=0,
        le=1024,
        help="From 2 on: spread each new collection over so many shards of a Citus cluster.",
    )
    store_ann_above: int = setting(
        0,
        "STORE_ANN_ABOVE",
        ge=0,
        help="File store: search collections of so many rows approximately, by a usearch index; "
        "0: always exactly.",
    )
