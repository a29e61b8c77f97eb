"""Settings with their history, users and their keys, providers' keys.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# MySQL and MariaDB fold case in names unless told: 'admin' and 'Admin' would be one user.
NAME = sa.String(190).with_variant(sa.String(190, collation="utf8mb4_bin"), "mysql")
TIME = sa.Float(53)  # seconds since the epoch


def upgrade() -> None:
    """Make the tables that are missing."""
    tables = sa.MetaData()
    sa.Table(
        "settings",
        tables,
        sa.Column("key", NAME, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    sa.Table(
        "settings_history",
        tables,
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", sa.String(40), nullable=False),
        sa.Column("who", sa.String(190), nullable=False),
        sa.Column("action", sa.String(20), nullable=False),
        sa.Column("changes", sa.Text, nullable=False),
    )
    sa.Table(
        "users",
        tables,
        sa.Column("username", NAME, primary_key=True),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("password_hash", sa.String(255), nullable=False),
        sa.Column("token_version", sa.Integer, nullable=False),
        sa.Column("created", TIME, nullable=False),
    )
    sa.Table(
        "api_keys",
        tables,
        sa.Column("id", NAME, primary_key=True),
        sa.Column("owner", NAME, sa.ForeignKey("users.username", ondelete="CASCADE"),
                  nullable=False, index=True),
        sa.Column("label", sa.String(190), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("role", sa.String(20)),
        sa.Column("collections", sa.Text),
        sa.Column("created", TIME, nullable=False),
        sa.Column("expires", TIME),
        sa.Column("revoked", TIME),
        sa.Column("last_used", TIME),
    )  # fmt: skip
    sa.Table(
        "provider_keys",
        tables,
        sa.Column("provider", NAME, primary_key=True),
        sa.Column("secret", sa.Text, nullable=False),
        sa.Column("last_four", sa.String(4), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("updated", TIME, nullable=False),
    )
    tables.create_all(op.get_bind(), checkfirst=True)
