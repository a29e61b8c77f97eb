"""Every table of the service, once: code and migrations use these.

`SERVICE` holds accounts, provider keys and settings; `CATALOG` the names of collections. Rows in
PostgreSQL have a table for each collection, made by `store/pg_schema.py`.
"""

import sqlalchemy as sa

SERVICE = sa.MetaData()
CATALOG = sa.MetaData()

# MySQL and MariaDB fold case by default: 'admin' and 'Admin' would be one user.
NAME = sa.String(190).with_variant(sa.String(190, collation="utf8mb4_bin"), "mysql")
# In the order of code points, as SQLite sorts.
EXACT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
TIME = sa.Float(53)  # seconds since the epoch

USERS = sa.Table(
    "users",
    SERVICE,
    sa.Column("username", NAME, primary_key=True),
    sa.Column("role", sa.String(20), nullable=False),
    sa.Column("password_hash", sa.String(255), nullable=False),
    sa.Column("token_version", sa.Integer, nullable=False),
    sa.Column("created", TIME, nullable=False),
)
API_KEYS = sa.Table(
    "api_keys",
    SERVICE,
    sa.Column("id", NAME, primary_key=True),
    sa.Column("owner", NAME, sa.ForeignKey("users.username", ondelete="CASCADE"),
              nullable=False, index=True),
    sa.Column("label", sa.String(190), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("role", sa.String(20)),
    sa.Column("collections", sa.Text),
    sa.Column("priority", sa.String(20)),
    sa.Column("created", TIME, nullable=False),
    sa.Column("expires", TIME),
    sa.Column("revoked", TIME),
    sa.Column("last_used", TIME),
)  # fmt: skip
PROVIDER_KEYS = sa.Table(
    "provider_keys",
    SERVICE,
    sa.Column("provider", NAME, primary_key=True),
    sa.Column("secret", sa.Text, nullable=False),
    sa.Column("updated", TIME, nullable=False),
)
SETTINGS = sa.Table(
    "settings",
    SERVICE,
    sa.Column("key", NAME, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
# The version is a primary key: the database lets one of two writers in.
HISTORY = sa.Table(
    "settings_history",
    SERVICE,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("who", sa.String(190), nullable=False),
    sa.Column("action", sa.String(20), nullable=False),
    sa.Column("changes", sa.Text, nullable=False),
)

COLLECTIONS = sa.Table(
    "emb_collections",
    CATALOG,
    sa.Column("name", EXACT, primary_key=True),
    sa.Column("uuid", EXACT, nullable=False, unique=True),
    sa.Column("dim", sa.Integer, nullable=False),
    sa.Column("metric", sa.Text, nullable=False),
    sa.Column("model", sa.Text),
    sa.Column("fingerprint", sa.Text),
    sa.Column("created", TIME, nullable=False),
    sa.Column("indexed", sa.JSON, nullable=False),
)
ALIASES = sa.Table(
    "emb_aliases",
    CATALOG,
    sa.Column("name", EXACT, primary_key=True),
    sa.Column("target", EXACT, nullable=False, index=True),
)
NOTES = sa.Table(
    "emb_notes",
    CATALOG,
    sa.Column("key", EXACT, primary_key=True),
    sa.Column("body", sa.Text, nullable=False),
)
