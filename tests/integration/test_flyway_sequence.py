"""Pending files of a Flyway folder as one migration, with the real Flyway beside it in every phase."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tasks.database.connection import Target, connect
from tasks.database.flyway_history import writable_history
from tasks.database.ledger import Ledger
from tasks.database.runbook import scripts
from tasks.planning.errors import MissingPrivilege, SpecError, Unsupported
from tasks.planning.plan import Backfill
from tasks.planning.states import MigrationState
from tests.integration.beside_flyway import agree, write
from tests.integration.by_hand import ByHand
from tests.integration.flyway_project import NEW, REST, ROWS, SETTINGS, WRITTEN, Project
from tests.integration.journey import execute, only, rows
from tests.integration.real_flyway import RealFlyway


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
    def test_a_later_file_belongs_to_the_next_migration(self, project: Project) -> None:
        journey = project.begun()
        write(project.new, {"V4__later.sql": "DROP TABLE person;"})
        assert project.planned() == journey.plan
        journey.go("backfill", "constrain", "switch")
        assert project.planned() == journey.plan, "its own rows do not make it another one"
        assert project.pending() == ["V4__later.sql"]

    @pytest.mark.parametrize("changed", ["-- A word.\n" + NEW["V2_1__size.sql"], None])
    def test_a_file_of_its_own_has_to_stay_as_it_was(self, project: Project, changed: str | None) -> None:
        project.begun()
        file = project.new / "V2_1__size.sql"
        file.unlink() if changed is None else file.write_text(changed)
        told = "is gone" if changed is None else "is not what was planned"
        assert f"V2_1__size.sql {told}, and the migration of it is unfinished" in project.refusal(SpecError)


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


def test_a_target_ends_the_sequence_and_what_is_above_is_said(project: Project) -> None:
    write(project.new, {"v4__misnamed.sql": "SELECT 1;", "README.sql": "SELECT 1;"})
    plan = project.planned(REST + "  target: '2.1'\n")
    assert plan.flyway is not None
    assert [file.script for file in plan.flyway.files] == ["V2__another_mood.sql", "V2_1__size.sql"]
    notes = [note.text for note in plan.notes if note.severity == "WARNING"]
    assert "Above the target, and no part of this migration: V3__weight.sql. The Flyway of a version" in notes[1]
    assert "v4__misnamed.sql: the prefix V is written like this, not v" in notes[2]
    assert "README" not in str(notes)


ADDS = {"V2__nick.sql": "ALTER TABLE person ADD COLUMN nick text;"}
NOTHING = {"V3__nothing.sql": "-- This number was given away.\n", "V4.sql": ""}


@pytest.mark.parametrize("files", [{**ADDS, **NOTHING}, NOTHING])
def test_files_that_say_nothing_are_rows(
    flyway: RealFlyway, database: Target, tmp_path: Path, files: dict[str, str]
) -> None:
    project = Project(flyway, database, tmp_path, files)
    journey = project.registered()
    journey.go()
    assert [row[3] for row in rows(project.target, WRITTEN)] == list(files)
    assert project.starts(project.new) == project.starts(project.old) == 0
    journey.undo(*journey.phases)
    assert project.pending() == list(files)
