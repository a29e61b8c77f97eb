"""The service's tables, step by step; `run` brings any database to the newest step.

Each step may be run again after a crash half way: it makes only what is missing, since MySQL and
MariaDB do not roll table changes back.
"""

import logging
import threading
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

NEWEST = "0001"
_ALEMBIC = threading.Lock()  # its context is global to the process

# Alembic logs every context it opens.
logging.getLogger("alembic").setLevel(logging.WARNING)


def is_newest(connection: sa.Connection) -> bool:
    """Whether the database is at the newest step."""
    return MigrationContext.configure(connection).get_current_revision() == NEWEST


def run(connection: sa.Connection) -> None:
    """Bring the database behind `connection` to the newest step. The caller holds the lock."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    connection.execute(sa.select(sa.literal(1)))  # in SQLite this takes the lock
    with _ALEMBIC:
        command.upgrade(config, "head")
