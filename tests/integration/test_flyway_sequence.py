"""Pending files of a Flyway folder as one migration, with the real Flyway beside it in every phase."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import psycopg
import pytest

from tasks.database.connection import Target, connect
from tasks.database.flyway_history import writable_history
from tasks.database.ledger import Ledger
from tasks.database.runbook import scripts
from tasks.flyway_source import with_its_files
from tasks.plan_source import make_plan
from tasks.planning.errors import LockNotAcquired, LockstepError, MissingPrivilege, SpecError, StepFailed, Unsupported
from tasks.planning.flyway.rows import lock_key
from tasks.planning.flyway.settings import Settings
from tasks.planning.names import TableName
from tasks.planning.plan import Backfill, Plan
from tasks.planning.spec import LoadedSpec, load
from tasks.planning.states import MigrationState
from tests.integration.beside_flyway import agree, migrates, told, write
from tests.integration.by_hand import ByHand
from tests.integration.journey import IMPATIENT, Journey, eventually, execute, only, rows
from tests.integration.real_flyway import RealFlyway

OLD = {
    "V1__people.sql": """
        CREATE TYPE mood AS ENUM ('fine');
        CREATE TABLE person (id int PRIMARY KEY, size int NOT NULL, weight int, mood mood NOT NULL DEFAULT 'fine');
        INSERT INTO person SELECT n, n, n FROM generate_series(1, 300) AS n;
        """,
    "R__sizes.sql": "CREATE OR REPLACE VIEW sizes AS SELECT count(*) AS people FROM person;",
}
NEW = {
    "V2__another_mood.sql": "ALTER TYPE mood ADD VALUE IF NOT EXISTS 'grand';\n",
    "V2_1__size.sql": "ALTER TABLE person ALTER COLUMN size TYPE bigint;\n",
    "V3__weight.sql": "-- ${why}\nALTER TABLE person ALTER COLUMN weight TYPE bigint, ALTER mood SET DEFAULT 'grand';",
}
REST = "  placeholders: {why: Some weigh more.}\n"
SETTINGS = Settings(placeholders={"why": "Some weigh more."})
WRITTEN = """
SELECT version, description, type, script, success, installed_by = current_user, installed_on IS NOT NULL
  FROM flyway_schema_history WHERE installed_rank > 2 ORDER BY installed_rank
"""
ROWS = [
    ("2", "another mood", "SQL", "V2__another_mood.sql", True, True, True),
    ("2.1", "size", "SQL", "V2_1__size.sql", True, True, True),
    ("3", "weight", "SQL", "V3__weight.sql", True, True, True),
]


class Project:
    """A database that the real Flyway has brought to the old version, and the folders of both versions."""

    def __init__(self, flyway: RealFlyway, target: Target, place: Path, new: Mapping[str, str]) -> None:
        self.target = target
        self.flyway = flyway
        self.old = write(place / "old", OLD)
        self.new = write(place / "new", {**OLD, **new})
        assert migrates(flyway, target, self.old, SETTINGS)

    def loaded(self, rest: str = REST) -> LoadedSpec:
        path = self.new.parent / "release.yaml"
        path.write_text(f"name: release\nflyway:\n  folder: new\n{rest}")
        with connect(self.target, role="test") as connection:
            stored = Ledger(connection).migration("release")
        return with_its_files(load(path), self.target, stored)

    def planned(self, rest: str = REST) -> Plan:
        with connect(self.target, role="test") as connection:
            stored = Ledger(connection).migration("release")
        return make_plan(self.loaded(rest), self.target, stored)

    def registered(self, rest: str = REST) -> Journey:
        plan = self.planned(rest)
        with connect(self.target, role="test") as connection:
            Ledger(connection).register(plan, self.loaded(rest).text)
        return Journey(self.target, plan)

    def starts(self, folder: Path) -> int:
        """Let a version of the application start, whose Flyway validates and migrates; return what it ran."""
        assert self.flyway("validate", self.target, folder, **told(SETTINGS)) == []
        return self.migrated(folder)

    def migrated(self, folder: Path) -> int:
        ((_, ran),) = self.flyway("migrate", self.target, folder, **told(SETTINGS))
        return int(ran or 0)

    def pending(self) -> list[str | None]:
        """Return what Flyway would run in the new folder."""
        return [script for script, _ in self.flyway("transactions", self.target, self.new, **told(SETTINGS))]

    def refusal(self, error: type[LockstepError], rest: str = REST) -> str:
        with pytest.raises(error) as caught:
            self.planned(rest)
        return f"{caught.value}"


@pytest.fixture
def project(flyway: RealFlyway, database: Target, tmp_path: Path) -> Project:
    return Project(flyway, database, tmp_path, NEW)


@pytest.mark.every_version
def test_both_versions_start_when_they_may_and_run_nothing(project: Project) -> None:
    journey = project.registered()
    assert journey.phases == ("expand", "backfill", "constrain", "switch", "contract")
    fills = [step for phase in journey.plan.phases for step in phase.steps if isinstance(step.action, Backfill)]
    assert [len(step.action.assignments) for step in fills if isinstance(step.action, Backfill)] == [3], "and the mark"
    assert "No version whose folder has V2__another_mood.sql, V2_1__size.sql, V3__weight.sql may start" in str(
        [note.text for note in journey.plan.notes]
    )
    assert project.starts(project.old) == 0
    for phase in ("expand", "backfill", "constrain"):
        journey.go(phase)
        assert project.starts(project.old) == 0
        assert project.pending() == list(NEW), "so that version must not start yet"
    for _ in range(2):
        journey.go("switch")
        assert rows(project.target, WRITTEN) == ROWS
        assert project.starts(project.new) == project.starts(project.old) == project.starts(project.new) == 0
        journey.undo("switch")
        assert rows(project.target, WRITTEN) == []
        assert project.starts(project.old) == 0
        assert project.pending() == list(NEW)
    journey.go("switch", "contract")
    assert project.starts(project.new) == project.starts(project.old) == 0
    agree(project.flyway, project.target, project.new, SETTINGS)
    assert only(project.target, "SELECT sum(size) + sum(weight) FROM person") == 300 * 301
    assert only(project.target, "SELECT pg_typeof(weight)::text FROM person LIMIT 1") == "bigint"


def test_after_the_way_back_nothing_is_left_of_it(project: Project) -> None:
    before = rows(project.target, "SELECT * FROM flyway_schema_history ORDER BY installed_rank")
    journey = project.registered()
    journey.go("expand", "backfill", "constrain", "switch")
    journey.undo("expand", "backfill", "constrain", "switch")
    assert rows(project.target, "SELECT * FROM flyway_schema_history ORDER BY installed_rank") == before
    assert project.starts(project.old) == 0
    assert project.migrated(project.new) == len(NEW), "the naive way is open again"
    assert project.planned().is_empty
    assert "Flyway would run no file" in project.planned().why


def test_by_hand_with_psql(project: Project, tmp_path: Path) -> None:
    hand = ByHand(project.target, tmp_path, scripts(project.planned()))
    forward = hand.forward(last="switch")
    hand.must(*forward)
    assert rows(project.target, WRITTEN) == ROWS
    assert project.starts(project.new) == project.starts(project.old) == 0
    hand.must(*hand.back(forward))
    assert rows(project.target, WRITTEN) == []
    assert project.starts(project.old) == 0


def test_a_plan_that_only_adds_writes_the_rows_at_its_end(flyway: RealFlyway, database: Target, tmp_path: Path) -> None:
    add = {
        "V2__nick.sql": "ALTER TABLE person ADD COLUMN nick text;",
        "V3__n.sql": "CREATE INDEX nicks ON person (nick);",
    }
    project = Project(flyway, database, tmp_path, add)
    journey = project.registered()
    assert journey.plan.phases[-1].steps[-1].id.endswith("/flyway")
    journey.go()
    assert project.starts(project.new) == project.starts(project.old) == 0
    # The next release, under the same name: the same statement again is not taken for one that is in place.
    with connect(project.target, role="test") as connection:
        for state in (MigrationState.RUNNING, MigrationState.FINISHED):
            Ledger(connection).set_state("release", state)
    write(project.new, {"V4__again.sql": "UPDATE person SET weight = weight + 1 WHERE id = 1;"})
    project.registered().go()
    assert only(project.target, "SELECT weight FROM person WHERE id = 1") == 2
    assert project.starts(project.new) == 0


def test_a_column_that_goes_is_told_before_contract(flyway: RealFlyway, database: Target, tmp_path: Path) -> None:
    project = Project(flyway, database, tmp_path, {"V2__less.sql": "ALTER TABLE person DROP COLUMN weight;"})
    journey = project.registered()
    before = journey.phases[: journey.phases.index("contract")]
    journey.go(*before)
    assert project.starts(project.new) == 0
    assert only(project.target, "SELECT count(weight) FROM person") == 300
    journey.go("contract")
    assert project.starts(project.new) == project.starts(project.old) == 0


class TestUnderWay:
    def begun(self, project: Project) -> Journey:
        journey = project.registered()
        with connect(project.target, role="test") as connection:
            Ledger(connection).set_state("release", MigrationState.RUNNING)
        journey.go("expand")
        return journey

    def test_a_later_file_belongs_to_the_next_migration(self, project: Project) -> None:
        journey = self.begun(project)
        write(project.new, {"V4__later.sql": "DROP TABLE person;"})
        assert project.planned() == journey.plan
        journey.go("backfill", "constrain", "switch")
        assert project.planned() == journey.plan, "its own rows do not make it another one"
        assert project.pending() == ["V4__later.sql"]

    @pytest.mark.parametrize("changed", ["-- A word.\n" + NEW["V2_1__size.sql"], None])
    def test_a_file_of_its_own_has_to_stay_as_it_was(self, project: Project, changed: str | None) -> None:
        self.begun(project)
        file = project.new / "V2_1__size.sql"
        file.unlink() if changed is None else file.write_text(changed)
        told = "is gone" if changed is None else "is not what was planned"
        assert f"V2_1__size.sql {told}, and the migration of it is unfinished" in project.refusal(SpecError)

    def test_a_version_that_starts_too_early_is_noticed(self, project: Project) -> None:
        journey = self.begun(project)
        journey.go("backfill", "constrain")
        execute(project.target, RUN_BY_FLYWAY)
        with pytest.raises(StepFailed, match="was started too early"):
            journey.run("switch")
        assert rows(project.target, WRITTEN)[1:] == []

    def test_a_flyway_that_is_at_work_is_waited_for(self, project: Project) -> None:
        journey = self.begun(project)
        journey.go("backfill", "constrain")
        write(project.old, {"R__slow.sql": "SELECT pg_sleep(4);"})
        key = lock_key(TableName("public", "flyway_schema_history"))
        busy = threading.Thread(
            target=project.flyway, args=("migrate", project.target, project.old), kwargs=told(SETTINGS)
        )
        busy.start()
        held = f"SELECT count(*) FROM pg_locks WHERE (classid::bigint << 32) + objid::bigint = {key}"
        try:
            eventually(lambda: only(project.target, held) == 1, "Flyway holds its lock")
            with pytest.raises(LockNotAcquired, match="flyway_schema_history"):
                journey.run("switch", patience=IMPATIENT)
        finally:
            busy.join()
        journey.run("switch")
        assert [row[0] for row in rows(project.target, WRITTEN)] == [None, "2", "2.1", "3"]


RUN_BY_FLYWAY = """
INSERT INTO flyway_schema_history
    (installed_rank, version, description, type, script, installed_by, execution_time, success)
VALUES (3, '2.01.0', 'size', 'SQL', 'V2_1__size.sql', 'somebody', 1, true)
"""


@pytest.mark.parametrize(
    ("files", "error", "told"),
    [
        ({"V0_9__late.sql": "SELECT 1;"}, Unsupported, "V0_9__late.sql, below the latest version"),
        (
            {"R__sizes.sql": "CREATE OR REPLACE VIEW sizes AS SELECT 1 AS people;"},
            Unsupported,
            "R__sizes.sql, a repeat",
        ),
        ({"R__new.sql": "SELECT 1;"}, Unsupported, "R__new.sql, a repeatable migration"),
        ({"beforeEachMigrate.sql": "SELECT 1;"}, Unsupported, "beforeEachMigrate.sql"),
        ({"V1__people.sql": "SELECT 1;"}, SpecError, "V1__people.sql is not what was run"),
        ({"V4__tx.sql": "ALTER TABLE person ADD nick text;\nCOMMIT;"}, SpecError, "V4__tx.sql, line 2: COMMIT"),
        ({"V4__bad.sql": "\n\nALTER TABLE person DROP COLUMN nose;"}, SpecError, "V4__bad.sql, line 3) fails"),
        ({"V4__ask.sql": "SELECT '${unknown}';"}, SpecError, "the placeholder ${unknown} has no value"),
    ],
)
def test_what_cannot_be_is_refused_by_name(project: Project, files: dict[str, str], error: type, told: str) -> None:
    write(project.new, files)
    assert told in project.refusal(error)
    assert rows(project.target, WRITTEN) == []


def test_without_a_history_or_in_another_schema(project: Project) -> None:
    assert "has no table other: Flyway has never run" in project.refusal(SpecError, REST + "  table: other\n")
    execute(
        project.target, "CREATE SCHEMA aside; CREATE TABLE aside.flyway_schema_history AS TABLE flyway_schema_history"
    )
    assert "in the schema aside first" in project.refusal(SpecError, REST + "  schema: aside\n")


def test_a_role_that_may_only_read_the_history(project: Project) -> None:
    with psycopg.connect(project.target.conninfo) as connection, connection.transaction(force_rollback=True):
        connection.execute("CREATE ROLE reader; GRANT SELECT ON flyway_schema_history TO reader; SET LOCAL ROLE reader")
        with pytest.raises(MissingPrivilege, match="may not write Flyway's history") as caught:
            writable_history(connection, SETTINGS)
    assert caught.value.grant.startswith('GRANT INSERT, DELETE ON "public"."flyway_schema_history" TO')


def test_a_target_ends_the_sequence(project: Project) -> None:
    flyway = project.planned(REST + "  target: '2.1'\n").flyway
    assert flyway is not None
    assert [file.script for file in flyway.files] == ["V2__another_mood.sql", "V2_1__size.sql"]
