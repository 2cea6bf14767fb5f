"""The history table: found, read, and refused where it is not to be read; nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tasks.database.connection import Target, connect
from tasks.database.flyway_history import read_history
from tasks.planning.errors import LockNotAcquired, MissingPrivilege, SpecError, Unsupported
from tasks.planning.flyway.history import State
from tasks.planning.flyway.settings import Settings
from tasks.planning.flyway.validation import stops_migrate
from tests.integration.beside_flyway import (
    HISTORY,
    judged,
    write,
)
from tests.integration.real_flyway import FlywayFailed, RealFlyway

ROW = "INSERT INTO flyway_schema_history VALUES (1, %s, 'a', %s, 'V1__a.sql', 1, 'x', now(), 1, true)"


@pytest.fixture
def history(database: Target) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """An open connection to a database with an empty history."""
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        connection.execute(HISTORY)
        yield connection


def read(target: Target) -> object:
    with connect(target, role="test") as connection:
        return read_history(connection, Settings())


def test_no_table_and_an_empty_one_are_told_apart(database: Target) -> None:
    assert read(database) is None
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        connection.execute(HISTORY)
    assert read(database) == ()


def test_the_first_schema_of_the_search_path_is_the_one(
    history: psycopg.Connection[tuple[object, ...]], database: Target
) -> None:
    history.execute(sql.SQL("ALTER DATABASE {} SET search_path = nowhere, app").format(sql.Identifier(database.name)))
    history.execute("CREATE SCHEMA app")
    with pytest.raises(SpecError, match=r"has no table flyway_schema_history, but this one has: public\."):
        read(database)
    history.execute("ALTER TABLE flyway_schema_history SET SCHEMA app")
    assert read(database) == ()


def test_a_role_that_may_not_read_the_history_is_told_what_to_grant(
    history: psycopg.Connection[tuple[object, ...]],
) -> None:
    with history.transaction(force_rollback=True):
        history.execute("CREATE ROLE flyway_reader; SET LOCAL ROLE flyway_reader")
        with pytest.raises(MissingPrivilege) as caught:
            read_history(history, Settings())
    assert caught.value.grant.startswith('GRANT USAGE ON SCHEMA "public" TO')
    assert 'GRANT SELECT ON "public"."flyway_schema_history"' in caught.value.grant


def test_a_locked_history_is_not_waited_for_long(
    history: psycopg.Connection[tuple[object, ...]], database: Target
) -> None:
    with history.transaction():
        history.execute("LOCK TABLE flyway_schema_history")
        with pytest.raises(LockNotAcquired, match="is locked by another session"):
            read(database)


@pytest.mark.parametrize(
    ("version", "kind", "error", "said"),
    [
        ("1", "UNDO_SQL", Unsupported, "a history with a migration of the type UNDO_SQL"),
        ("one", "SQL", SpecError, "whose version 'one' is not one"),
    ],
)
def test_rows_that_flyway_cannot_read_either(
    flyway: RealFlyway,
    history: psycopg.Connection[tuple[object, ...]],
    database: Target,
    tmp_path: Path,
    version: str,
    kind: str,
    error: type[Exception],
    said: str,
) -> None:
    history.execute(ROW, (version, kind))
    with pytest.raises(error, match=said):
        read(database)
    with pytest.raises(FlywayFailed):
        flyway("info", database, tmp_path)


def test_a_table_that_is_not_flyways(database: Target) -> None:
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        connection.execute("CREATE TABLE flyway_schema_history (installed_rank int)")
    with pytest.raises(SpecError, match="is not a history of Flyway's: it has no column version"):
        read(database)


def test_reading_writes_nothing_and_takes_no_lock_of_flyways(
    history: psycopg.Connection[tuple[object, ...]], database: Target
) -> None:
    before = history.execute("SELECT xmin::text, * FROM flyway_schema_history").fetchall()
    with connect(database, role="test") as connection, connection.transaction():
        assert read_history(connection, Settings()) == ()
        held = history.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone()
        assert connection.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,)
    assert held == (0,)
    assert history.execute("SELECT xmin::text, * FROM flyway_schema_history").fetchall() == before


def test_classes_of_the_application_are_taken_for_unchanged(
    history: psycopg.Connection[tuple[object, ...]], database: Target, tmp_path: Path
) -> None:
    history.execute(ROW, ("1", "JDBC"))
    write(tmp_path, {"V2__b.sql": "SELECT 2;"})
    found = judged(database, tmp_path, Settings())
    assert [each.state for each in found.all] == [State.SUCCESS, State.PENDING]
    assert stops_migrate(found) == ()
