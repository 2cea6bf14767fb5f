"""A transaction that began before a backfill and first looks at the table after the switch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tasks.database.connection import Target
from tasks.database.progress import Progress
from tasks.database.runner import open_runner
from tasks.planning.errors import MissingPrivilege, SnapshotHeld
from tasks.planning.strategies.expand_contract import phases as phases_module
from tests.integration.journey import Journey, execute, prepared, rows

SCHEMA = """
CREATE TABLE other (id int);
CREATE TABLE reading (id int PRIMARY KEY, amount int NOT NULL);
INSERT INTO reading SELECT n, n FROM generate_series(1, 50) AS n;
"""
CHANGE = "ALTER TABLE reading ALTER amount TYPE bigint;"
UNREAD = "SELECT count(*), count(amount) FROM reading"


@contextmanager
def looking(target: Target) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A REPEATABLE READ transaction that has its snapshot and no lock on ``reading``."""
    with psycopg.connect(target.conninfo, application_name="report") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT count(*) FROM other")
        yield connection


@pytest.mark.every_version
def test_the_switch_waits_for_a_transaction_that_sees_the_rows_unfilled(database: Target, tmp_path: Path) -> None:
    journey = prepared(database, tmp_path, SCHEMA, CHANGE)
    journey.go("expand")
    said: list[str] = []
    with looking(database) as before:
        journey.go("backfill", "constrain")
        # One that begins after the backfill sees every row filled: nobody waits for it.
        with looking(database) as after:

            def report(progress: Progress) -> None:
                said.append(progress.throttled or "")
                assert before.execute(UNREAD).fetchall() == [(50, 50)]
                before.rollback()

            with open_runner(database, journey.plan.name) as runner:
                runner.run_phase("switch", report)
                runner.finish_phase("switch")
            assert after.execute(UNREAD).fetchall() == [(50, 50)]
    assert "application report" in said[0]
    assert "snapshot" in said[0]
    assert rows(database, UNREAD) == [(50, 50)]
    with looking(database) as late:
        journey.undo("switch")
        assert late.execute(UNREAD).fetchall() == [(50, 50)]


def test_a_transaction_that_does_not_end_is_named_and_the_phase_can_be_run_again(
    database: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phases_module, "SNAPSHOT_TIMEOUT_MS", 300)
    journey = prepared(database, tmp_path, SCHEMA, CHANGE)
    journey.go("expand")
    with looking(database) as before:
        journey.go("backfill", "constrain")
        with pytest.raises(SnapshotHeld, match="application report") as held:
            journey.run("switch")
        assert f"pg_terminate_backend({before.info.backend_pid})" in (held.value.remedy or "")
        assert before.execute(UNREAD).fetchall() == [(50, 50)]
    journey.go("switch", "contract")
    assert rows(database, UNREAD) == [(50, 50)]


def test_a_role_that_cannot_see_snapshots_is_told_when_planning(database: Target, tmp_path: Path) -> None:
    execute(
        database,
        "DROP ROLE IF EXISTS blind; CREATE ROLE blind LOGIN PASSWORD 'x'",
        SCHEMA,
        f"GRANT CREATE ON DATABASE {database_name(database)} TO blind; ALTER TABLE reading OWNER TO blind;"
        "ALTER TABLE other OWNER TO blind; GRANT CREATE ON SCHEMA public TO blind;",
    )
    blind = Target("test", psycopg.conninfo.make_conninfo(database.conninfo, user="blind", password="x"))
    with pytest.raises(MissingPrivilege, match="snapshots") as refused:
        prepared(database, tmp_path, "", CHANGE, by=blind)
    execute(database, refused.value.grant)
    assert isinstance(prepared(database, tmp_path, "", CHANGE, by=blind), Journey)


def database_name(target: Target) -> str:
    return str(rows(target, "SELECT quote_ident(current_database())")[0][0])
