"""Settings of the SQL database that keeps what must outlive the process."""

from pydantic import BaseModel, SecretStr, field_validator

from config.addresses import check_sql
from config.fields import setting


class SqlSettings(BaseModel):
    """The SQL database, and whether settings are kept in it."""

    db_url: SecretStr = setting(
        SecretStr("sqlite:///data/service.db"),
        "EMBEDDING_DB_URL",
        help="SQL database: sqlite:///data/service.db by default, mysql://user:password@host/name "
        "(MySQL, MariaDB) or postgresql://user:password@host/name; @ : / ? # % are written %40 %3A "
        "%2F %3F %23 %25 in a password.",
    )
    use_db_settings: bool = setting(
        False,
        "EMBEDDING_USE_DB_SETTINGS",
        help="Whether settings changed while the service runs are kept in SQL, for every worker "
        "and the next start: true or false.",
    )

    @field_validator("db_url")
    @classmethod
    def _can_be_connected_to(cls, value: SecretStr) -> SecretStr:
        check_sql(value.get_secret_value())
        return value
