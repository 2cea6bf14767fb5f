"""A transaction that began before a backfill and first looks at the table after the switch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from tasks.database.connection import Target
from tasks.database.progress import Progress
from tasks.database.runner import open_runner
from tasks.database.server import EmbeddedServer
from tasks.planning.errors import MissingPrivilege, SnapshotHeld
from tasks.planning.strategies.expand_contract import phases as phases_module
from tests.integration.journey import Journey, eventually, execute, only, prepared, rows
from tests.standby import standby_of

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
        # One that begins after the backfill sees every row filled: nobody waits for it. (Where somebody's older
        # transaction is still running, in another test's database, it cannot be told from one that began before.)
        filled = only(database, "SELECT max(xmin::text::bigint) FROM lockstep.phase WHERE state = 'done'")
        eventually(
            lambda: only(database, f"SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint > {filled}") is True,
            "older transactions end",
            seconds=120,
        )
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


def test_transactions_begun_meanwhile_are_not_waited_for_while_an_older_one_writes_elsewhere(
    database: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phases_module, "SNAPSHOT_TIMEOUT_MS", 5_000)
    journey = prepared(database, tmp_path, SCHEMA, CHANGE)
    journey.go("expand")
    late: list[psycopg.Connection[tuple[object, ...]]] = []
    with psycopg.connect(database.conninfo) as writer, looking(database) as before, ExitStack() as meanwhile:
        writer.execute("INSERT INTO other VALUES (1)")
        journey.go("backfill", "constrain")

        def report(_: Progress) -> None:
            before.rollback()
            late.append(meanwhile.enter_context(looking(database)))

        with open_runner(database, journey.plan.name) as runner:
            runner.run_phase("switch", report)
        assert [session.execute(UNREAD).fetchall() for session in late] == [[(50, 50)]]


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


@pytest.mark.parametrize("slot", [False, True], ids=["feedback by the walsender", "feedback in a slot"])
def test_a_query_on_a_standby_is_waited_for(own_server: EmbeddedServer, tmp_path: Path, slot: bool) -> None:
    primary = Target("test", own_server.url("postgres"))
    journey = prepared(primary, tmp_path, SCHEMA, CHANGE)
    with standby_of(own_server) as standby:
        execute(primary, "SELECT pg_create_physical_replication_slot('follower', true)")
        for setting in ("hot_standby_feedback = on", "wal_receiver_status_interval = 1"):
            execute(standby, f"ALTER SYSTEM SET {setting}")
        execute(
            standby, f"ALTER SYSTEM SET primary_slot_name = '{'follower' if slot else ''}'", "SELECT pg_reload_conf()"
        )
        reached = only(primary, "SELECT pg_current_wal_insert_lsn()::text")
        there = f"SELECT coalesce(pg_last_wal_replay_lsn() >= '{reached}', false)"
        eventually(lambda: bool(only(standby, there)), "the standby has the tables")
        with looking(standby) as before:
            where = "pg_replication_slots" if slot else "pg_stat_replication"
            xmin = "xmin" if slot else "backend_xmin"
            eventually(
                lambda: only(primary, f"SELECT count({xmin}) FROM {where}") == 1, "the standby tells of its query"
            )
            journey.go("expand", "backfill", "constrain")
            said: list[str] = []

            def report(progress: Progress) -> None:
                said.append(progress.throttled or "")
                before.rollback()

            with open_runner(primary, journey.plan.name) as runner:
                runner.run_phase("switch", report)
    assert "standby" in said[0] or "walreceiver" in said[0]


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
