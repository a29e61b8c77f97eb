"""Alembic's hook: runs the steps on the connection that `sql.migrations.run` was given."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    transactional_ddl=False,  # the caller's transaction is the transaction
)
context.run_migrations()
