"""What Citus has decided on several nodes and not yet finished on each.

Citus commits in two phases. A node that dies between them comes back with prepared transactions:
the client was told of the commit, and nobody sees its rows until Citus has finished them, within
`citus.recover_2pc_interval`. They hold none of the store's locks, which are on the coordinator.
"""

import time

import sqlalchemy as sa

from errors import Unavailable
from store.pg_schema import HOLD_WRITERS, LET_WRITERS_GO, LOCK_TIMEOUT_S, Collection

LOOK_EVERY_S = 0.1
# Citus' names of its transactions. PostgreSQL lists them with those of all other databases.
_PREPARED = (
    "SELECT coalesce(string_agg(gid, ' '), '') FROM pg_prepared_xacts"
    r" WHERE gid LIKE 'citus\_%' AND database = current_database()"
)
_HERE = sa.text(_PREPARED)
_ELSEWHERE = sa.text(
    "SELECT nodename || ':' || nodeport, success, result FROM run_command_on_workers(:command)"
).bindparams(command=_PREPARED)
_HAS_CITUS = sa.text("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')")


def wait_for_prepared(connection: sa.Connection) -> None:
    """Return once every node has finished what was prepared on it before.

    Raises Unavailable after a while, or where a node cannot be asked.
    """
    waits_for = prepared(connection)
    end = time.monotonic() + LOCK_TIMEOUT_S
    while waits_for:
        if time.monotonic() > end:
            raise Unavailable(
                f"{len(waits_for)} transactions are decided and not finished on every node: Citus "
                "does that within citus.recover_2pc_interval",
                retry_after_s=5,
            )
        time.sleep(LOOK_EVERY_S)
        waits_for &= prepared(connection)


def prepared(connection: sa.Connection) -> set[str]:
    """Return the names of the transactions that are prepared on any node. Raises Unavailable."""
    found = {connection.scalar(_HERE) or ""}
    if connection.scalar(_HAS_CITUS):
        for node, answered, result in connection.execute(_ELSEWHERE):
            if not answered:
                raise Unavailable(f"the database's node {node} cannot be asked", retry_after_s=2)
            found.add(result or "")
    return set(" ".join(found).split())


def begin_at_one_moment(connection: sa.Connection, collection: Collection) -> None:
    """Begin a transaction that sees a collection as of one moment, on every node.

    Takes a connection without one. Citus has no snapshot of all nodes: each takes its own when it
    is asked first, so writers wait until all have been asked. Raises Unavailable, Busy.
    """
    begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    if not connection.scalar(_HAS_CITUS):
        connection.exec_driver_sql(begin)
        return
    connection.exec_driver_sql(f"SET lock_timeout = '{LOCK_TIMEOUT_S}s'")
    connection.execute(HOLD_WRITERS, {"uuid": collection.uuid})
    wait_for_prepared(connection)
    connection.exec_driver_sql(begin)
    # A second connection to a node would have a snapshot of its own.
    connection.exec_driver_sql("SET LOCAL citus.max_adaptive_executor_pool_size = 1")
    connection.exec_driver_sql(f"SELECT id FROM {collection.table} LIMIT 1")  # of every shard
    connection.execute(LET_WRITERS_GO, {"uuid": collection.uuid})
