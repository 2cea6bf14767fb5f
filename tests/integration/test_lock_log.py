"""The log of locks says whether it is whole."""

from __future__ import annotations

import psycopg

from tasks.database.connection import Target, connect
from tasks.database.lock_log import watched
from tasks.planning.names import TableName
from tests.integration.journey import execute


def test_a_log_whose_session_is_lost_is_not_whole(database: Target) -> None:
    execute(database, "CREATE TABLE t (id int)")
    with connect(database, role="test") as looking, psycopg.connect(database.conninfo) as writing:
        with watched(looking) as log:
            writing.execute("LOCK TABLE t IN SHARE MODE")
            writing.execute("SELECT pg_sleep(0.2)")
            writing.rollback()
        assert log.whole
        assert {(seen.table, seen.mode) for seen in log.seen} == {(TableName("public", "t"), "SHARE")}
        with watched(looking) as cut:
            execute(database, f"SELECT pg_terminate_backend({looking.info.backend_pid}, 5000)")
        assert not cut.whole
