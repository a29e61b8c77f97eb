"""Users and their keys, providers' keys, settings with their history.

Until the first release this step makes the tables as `sql/tables.py` has them; the first change
after it is a step of its own and leaves a copy of them here.

Revision ID: 0001
"""

from alembic import op

from sql.tables import SERVICE

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables that are missing."""
    SERVICE.create_all(op.get_bind(), checkfirst=True)
