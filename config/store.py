"""Settings of the vector store."""

from pathlib import Path

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
