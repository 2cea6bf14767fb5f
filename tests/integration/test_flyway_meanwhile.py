"""Flyway at work beside a migration of its folder: versions that it runs meanwhile, its lock, its repair."""

from __future__ import annotations

import threading
from pathlib import Path

import psycopg
import pytest

from tasks.database.connection import Target
from tasks.planning.errors import HistoryChanged, LockNotAcquired
from tasks.planning.flyway.rows import lock_key
from tasks.planning.names import TableName
from tests.integration.beside_flyway import told, write
from tests.integration.flyway_project import NEW, ROWS, SETTINGS, WRITTEN, Project
from tests.integration.journey import IMPATIENT, eventually, execute, only, rows
from tests.integration.real_flyway import RealFlyway

HELD = f"""
SELECT min(pid) FROM pg_locks
 WHERE (classid::bigint << 32) + objid::bigint = {lock_key(TableName("public", "flyway_schema_history"))}
"""


@pytest.fixture
def project(flyway: RealFlyway, database: Target, tmp_path: Path) -> Project:
    return Project(flyway, database, tmp_path, NEW)


def run_by_flyway(project: Project, version: str, *, success: bool = True) -> None:
    execute(
        project.target,
        "INSERT INTO flyway_schema_history (installed_rank, version, description, type, script, installed_by, "
        f"execution_time, success) VALUES (3, '{version}', 'x', 'SQL', 'V{version}__x.sql', 'x', 1, {success})",
    )


@pytest.mark.parametrize(
    ("version", "success"), [("2.01.0", True), ("2", True), ("2.0.5", True), ("4", True), ("1.5", False)]
)
def test_a_version_that_starts_too_early_is_noticed_before_anything_is_done(
    project: Project, version: str, success: bool
) -> None:
    journey = project.begun()
    run_by_flyway(project, version, success=success)
    for phase in ("backfill", "constrain", "switch"):
        with pytest.raises(HistoryChanged, match=rf"Flyway has run V{version}__x\.sql since release was planned") as it:
            journey.run(phase)
        assert it.value.scripts == (f"V{version}__x.sql",)
        assert "lockstep rollback release" in str(it.value)
    execute(project.target, "DELETE FROM flyway_schema_history WHERE installed_rank = 3")
    journey.go("backfill", "constrain", "switch")
    assert rows(project.target, WRITTEN) == ROWS


def test_one_that_comes_in_the_last_moment_is_refused_by_the_step_itself(project: Project) -> None:
    journey = project.begun()
    journey.go("backfill", "constrain")
    execute(
        project.target,
        """
        CREATE FUNCTION early() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO flyway_schema_history (installed_rank, version, description, type, script, installed_by,
                execution_time, success) VALUES (3, '3', 'x', 'SQL', 'V3__x.sql', 'x', 1, true)
                ON CONFLICT DO NOTHING;
        END $$;
        CREATE EVENT TRIGGER early ON ddl_command_end EXECUTE FUNCTION early();
        """,
    )
    with pytest.raises(HistoryChanged, match=r"V3__x\.sql"):
        journey.run("switch")
    execute(project.target, "DROP EVENT TRIGGER early")
    assert [row[0] for row in rows(project.target, WRITTEN)] == ["3"]
    journey.undo("expand", "backfill", "constrain", "switch")
    assert [row[0] for row in rows(project.target, WRITTEN)] == ["3"], "the row that is not ours stays"


def test_a_repair_of_the_running_release_does_not_stop_it(project: Project) -> None:
    journey = project.begun()
    hotfix = {"V1_5__hotfix.sql": "CREATE TABLE hotfix (id int);"}
    write(project.old, hotfix)
    write(project.new, hotfix)
    assert project.migrated(project.old) == 1
    journey.go("backfill", "constrain", "switch")
    assert project.starts(project.old) == project.starts(project.new) == 0
    assert [row[0] for row in rows(project.target, WRITTEN)] == ["1.5", "2", "2.1", "3"]
    journey.undo("switch")
    assert [row[0] for row in rows(project.target, WRITTEN)] == ["1.5"]


def test_without_a_history_nothing_goes_on(project: Project) -> None:
    journey = project.begun()
    execute(project.target, "ALTER TABLE flyway_schema_history RENAME TO gone")
    with pytest.raises(HistoryChanged, match=r"the table public\.flyway_schema_history, is gone"):
        journey.run("backfill")


def test_rows_that_a_repair_has_touched_are_deleted_too(project: Project) -> None:
    journey = project.begun()
    journey.go("backfill", "constrain", "switch")
    write(project.new, {"V2_1__size.sql": "-- Bigger.\n" + NEW["V2_1__size.sql"]})
    project.flyway("repair", project.target, project.new, **told(SETTINGS))
    assert project.starts(project.new) == 0
    journey.undo("switch")
    assert rows(project.target, WRITTEN) == []
    assert project.pending() == list(NEW)


def test_a_flyway_that_is_at_work_is_named(project: Project) -> None:
    journey = project.begun()
    journey.go("backfill", "constrain")
    write(project.old, {"R__slow.sql": "SELECT pg_sleep(4);"})
    busy = threading.Thread(target=project.flyway, args=("migrate", project.target, project.old), kwargs=told(SETTINGS))
    busy.start()
    try:
        eventually(lambda: only(project.target, HELD) is not None, "Flyway holds its lock")
        pid = only(project.target, HELD)
        with pytest.raises(LockNotAcquired, match=r"Flyway's lock on public\.flyway_schema_history") as refused:
            journey.run("switch", patience=IMPATIENT)
    finally:
        busy.join()
    assert f"pid {pid} (application Redgate_Flyway, role " in refused.value.blockers[0]
    assert " for 00:00:0" in refused.value.blockers[0]
    assert f"SELECT pg_terminate_backend({pid})" in str(refused.value)
    journey.run("switch")
    assert [row[0] for row in rows(project.target, WRITTEN)] == [None, "2", "2.1", "3"]


def test_who_has_the_history_locked_is_named(project: Project) -> None:
    journey = project.begun()
    with psycopg.connect(project.target.conninfo, application_name="holder") as session:
        session.execute("LOCK TABLE flyway_schema_history")
        with pytest.raises(LockNotAcquired, match="is locked by another session") as refused:
            journey.run("backfill")
        assert f"pid {session.info.backend_pid} (application holder" in refused.value.blockers[0]


def test_a_session_that_is_killed_between_two_rows_leaves_all_of_them_or_none(project: Project) -> None:
    journey = project.begun()
    journey.go("backfill", "constrain")
    execute(
        project.target,
        """
        CREATE SEQUENCE tried;
        CREATE FUNCTION killed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('tried') = 2 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER killed BEFORE INSERT ON flyway_schema_history FOR EACH ROW EXECUTE FUNCTION killed();
        """,
    )
    journey.go("switch")
    assert only(project.target, "SELECT last_value FROM tried") == 5, "two, and all three once more"
    assert rows(project.target, WRITTEN) == ROWS
    assert rows(project.target, "SELECT installed_rank FROM flyway_schema_history ORDER BY 1") == [
        (number,) for number in range(1, 6)
    ]
    execute(project.target, "DROP TRIGGER killed ON flyway_schema_history")
    assert project.starts(project.new) == project.starts(project.old) == 0
