"""Settings of the SQL database that keeps what must outlive the process."""

from pydantic import BaseModel, SecretStr

from config.fields import setting


class SqlSettings(BaseModel):
    """The SQL database, and whether settings are kept in it."""

    db_url: SecretStr = setting(
        SecretStr("sqlite:///data/service.db"),
        "EMBEDDING_DB_URL",
        help="SQL database: sqlite:///data/service.db by default, mysql://user:password@host/name "
        "(MySQL, MariaDB) or postgresql://user:password@host/name.",
    )
    use_db_settings: bool = setting(
        False,
        "EMBEDDING_USE_DB_SETTINGS",
        help="Whether settings changed while the service runs are kept in SQL, for every worker "
        "and the next start: true or false.",
    )
