"""Two-phase commit: a session goes on while a transaction of its own is prepared, and so must what serves it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tasks.database.connection import Target
from tasks.database.runner import open_runner
from tasks.planning.errors import LockNotAcquired
from tests.integration.journey import IMPATIENT, execute, only, prepared
from tests.integration.synthetic import NAME, create_readings, ignore, phase, plan, register, transaction


@pytest.fixture
def two_phase(database: Target) -> Iterator[Target]:
    """A database whose server takes prepared transactions; none is left, so that it can be dropped."""
    if not only(database, "SELECT current_setting('max_prepared_transactions')::int"):
        pytest.skip("max_prepared_transactions is 0 on this server")
    yield database
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        query = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
        for (gid,) in connection.execute(query).fetchall():
            connection.execute(f"ROLLBACK PREPARED '{gid}'".encode())


def test_a_writer_of_the_old_shape_does_not_wait_for_its_own_prepared_transaction(
    two_phase: Target, tmp_path: Path
) -> None:
    """After the switch both of its transactions say in the ledger that this session writes the old shape."""
    schema = (
        "CREATE TABLE item (id int PRIMARY KEY, a text);"
        "INSERT INTO item SELECT n, n::text FROM generate_series(1, 10) AS n"
    )
    change = "ALTER TABLE item ADD COLUMN b int, DROP COLUMN a"
    journey = prepared(two_phase, tmp_path, schema, change, "{item.b: {up: 'a::int', down: {a: 'b::text'}}}")
    journey.go("expand", "backfill", "constrain", "switch")
    with psycopg.connect(two_phase.conninfo, autocommit=True) as application:
        application.execute("SET lock_timeout = '1s'")
        for number in (1, 2):
            application.execute("BEGIN")
            application.execute("UPDATE item SET a = '70' WHERE id = %s", (number,))
            application.execute(f"PREPARE TRANSACTION 'part {number}'".encode())
        application.execute("UPDATE item SET a = '70' WHERE id = 3")
        for number in (2, 1):
            application.execute(f"COMMIT PREPARED 'part {number}'".encode())
    assert only(two_phase, "SELECT count(*) FROM item WHERE b = 70") == 3
    assert only(two_phase, "SELECT count(*) FROM lockstep.old_write") == 1


def test_a_prepared_transaction_in_the_way_is_named_as_one(two_phase: Target) -> None:
    create_readings(two_phase, 10)
    register(two_phase, plan(phase("one", transaction("one/a", "ALTER TABLE readings ADD x int"))))
    execute(two_phase, "BEGIN; UPDATE readings SET litres = 1; PREPARE TRANSACTION 'forgotten'")
    with open_runner(two_phase, NAME, patience=IMPATIENT) as runner, pytest.raises(LockNotAcquired, match="prepared"):
        runner.run_phase("one", ignore)
    execute(two_phase, "COMMIT PREPARED 'forgotten'")
    with open_runner(two_phase, NAME) as runner:
        runner.run_phase("one", ignore)
    assert only(two_phase, "SELECT count(*) FROM readings WHERE litres = 1") == 10
