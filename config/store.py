"""Settings of the vector store."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr, field_validator

from config.addresses import check_sql
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

    @field_validator("store_ann_above")
    @classmethod
    def _can_index(cls, value: int) -> int:
        if value and find_spec("usearch") is None:
            raise ValueError("not installed: pip install usearch")
        return value

    @field_validator("store_url")
    @classmethod
    def _names_a_store(cls, value: SecretStr | None) -> SecretStr | None:
        text = value.get_secret_value() if value else ""
        scheme = text.partition(":")[0].partition("+")[0].lower()
        if scheme == "file":
            parts = urlsplit(text)
            if parts.netloc or not parts.path.startswith("/"):
                raise ValueError("names no folder; write file:///folder")
        elif scheme in ("postgresql", "postgres"):
            check_sql(text)
        elif text:
            raise ValueError("must begin with postgresql:// or file:///")
        return value
