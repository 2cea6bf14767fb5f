"""Planners that are killed, and planners at the same time: what a dead one left goes, what a running one uses stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql

from tasks.database.clone import SchemaClone
from tasks.database.connection import Target, connect
from tasks.database.scratch import SCRATCH_PREFIX, ScratchDatabases
from tasks.database.server import EmbeddedServer
from tasks.database.statement_trace import trace_files
from tasks.planning.statements import read_statements
from tasks.planning.transactions import SourceFile
from tests.conftest import AnyServer, server_major

SETTINGS = (("search_path", "public"), ("TimeZone", "UTC"))

PLANNER = """
import os, sys
from tasks.database.clone import SchemaClone
from tasks.database.connection import Target, connect
place = Target("live", os.environ["PLANNER_URL"])
with SchemaClone(place, place) as clone, connect(clone.fresh(), role="oracle") as connection:
    connection.execute("BEGIN; LOCK TABLE users")
    print(connection.info.dbname, flush=True)
    connection.execute("SELECT pg_sleep(600)")
"""
"""A planner on the live server, in the middle of a statement."""


def scratch_databases(server: AnyServer, prefix: str = SCRATCH_PREFIX) -> set[str]:
    with psycopg.connect(server.url("postgres")) as connection:
        rows = connection.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", (prefix,))
        return {str(row[0]) for row in rows.fetchall()}


@contextmanager
def planner(target: Target) -> Iterator[str]:
    """A planner of its own process, at work; killed at the end with -9. Yields how its databases' names begin."""
    process = subprocess.Popen(
        [sys.executable, "-c", PLANNER],
        env=os.environ | {"PLANNER_URL": target.conninfo},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        database = process.stdout.readline().strip()
        assert database.startswith(SCRATCH_PREFIX)
        yield database.rpartition("_")[0]
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def end_sessions(target: Target) -> None:
    with connect(target, role="test") as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)'"
        )


def sessions(target: Target, scratch: set[str]) -> int:
    """Return how many sessions the planner of a database has, there and in its scratch databases."""
    with connect(target, role="test") as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ '^lockstep:(scratch|oracle|plan)'"
            " AND datname IN (SELECT current_database() UNION ALL SELECT unnest(%s::text[]))",
            (list(scratch),),
        ).fetchone()
    return int(row[0]) if row else -1


@pytest.mark.every_version
def test_what_a_killed_planner_left_is_dropped_and_what_a_running_one_uses_is_not(
    drink_water: Target, server: AnyServer
) -> None:
    """On the live server itself, where a process id says nothing: the planner may be on another machine."""
    with planner(drink_water) as own:
        used = scratch_databases(server, own)
        assert len(used) == 2
        assert sessions(drink_water, used) > 0
        with SchemaClone(drink_water, drink_water):
            assert scratch_databases(server, own) == used
        ScratchDatabases(Target("elsewhere", server.url("postgres"))).drop_abandoned()
        assert scratch_databases(server, own) == used, "the owner is seen from every database of the server"
    if server_major() < 14:  # looks for its client only when the statement ends, here by hand and else by its timeout
        end_sessions(drink_water)
    deadline = time.monotonic() + 20
    while sessions(drink_water, used) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert sessions(drink_water, used) == 0, "the server ends them, in the middle of a statement too"
    # Until the next planner comes; others may do so, too.
    with SchemaClone(drink_water, drink_water):
        assert scratch_databases(server, own) == set()


def test_a_database_that_only_looks_like_one_stays(drink_water: Target, server: AnyServer) -> None:
    name = f"{SCRATCH_PREFIX}of_mine_{os.getpid()}"
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        ScratchDatabases(drink_water).drop_abandoned()
        assert name in scratch_databases(server)
        connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))


def test_two_planners_at_a_time_do_not_meet(drink_water: Target, scratch: EmbeddedServer | Target) -> None:
    """On one server: each has its own databases and roles that both need, and sees its own change only."""
    text = "CREATE ROLE met; ALTER TABLE users ADD COLUMN c{} int; CREATE INDEX CONCURRENTLY ON users (c{})"

    def looked(number: int) -> list[str]:
        written = text.format(number, number)
        file = [SourceFile("s.sql", written, read_statements(written, source="s.sql"))]
        with SchemaClone(drink_water, scratch) as clone:
            found = trace_files(file, clone, SETTINGS)
            assert [facts.refused for facts in found.facts] == [None] * 3
            return [change.describe() for facts in found.facts for change in facts.changes]

    for _ in range(2):
        with ThreadPoolExecutor(3) as pool:
            seen = list(pool.map(looked, range(3)))
        for number, changes in enumerate(seen):
            assert len(changes) == 2
            assert all(f"c{number}" in change for change in changes)
