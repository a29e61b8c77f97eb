"""The database's tables, step by step; `run` brings any database to the newest step.

Each step may be run again after a crash half way: it makes only what is missing, since MySQL and
MariaDB do not roll table changes back.
"""

import logging
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

# Alembic narrates every context it opens.
logging.getLogger("alembic").setLevel(logging.WARNING)


def run(connection: sa.Connection) -> None:
    """Bring the database behind `connection` to the newest step. The caller holds the lock."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
