"""A spec of a Flyway folder from `run` to the end, through the flows on a real Prefect server, with the real Flyway."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.database.connection import Target
from tasks.planning.errors import HistoryChanged
from tasks.planning.states import MigrationState
from tasks.standing import standing_of
from tests.integration.beside_flyway import write
from tests.integration.flyway_project import NEW, OLD, REST, ROWS, WRITTEN, Project
from tests.integration.journey import only, rows
from tests.integration.notes import approve_as
from tests.integration.real_flyway import RealFlyway

pytestmark = pytest.mark.usefixtures("prefect_here")

NOTHING_PENDING = "release: nothing to do, no file is pending."


@pytest.fixture
def project(flyway: RealFlyway, database: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("LOCKSTEP_PROJECT_URL", database.conninfo)
    project = Project(flyway, Target("project", database.conninfo), tmp_path, NEW)
    project.write_spec(REST)
    return project


def run(project: Project, **options: Any) -> Any:
    from flows.expand_contract import expand_contract

    return expand_contract(str(project.spec), "project", **options)


def state(project: Project) -> MigrationState:
    return standing_of(project.target, "release").state


def test_from_the_first_run_to_the_next_release(project: Project) -> None:
    outcome = run(project)
    assert outcome.kind == "waiting"
    assert "A version with the files must not start before the phase switch is done: its Flyway" in outcome.what
    assert "lockstep approve release" in outcome.remedy
    assert project.starts(project.old) == 0
    assert project.pending() == list(NEW), "the new version must not start yet"

    approve_as(project.target, "release", "switch")
    assert run(project).kind == "waiting", "for the approval of contract"
    assert rows(project.target, WRITTEN) == ROWS
    assert project.starts(project.new) == project.starts(project.old) == 0

    approve_as(project.target, "release", "contract")
    assert run(project).kind == "finished"
    assert project.starts(project.new) == 0
    assert only(project.target, "SELECT pg_typeof(weight)::text FROM person LIMIT 1") == "bigint"

    again = run(project)
    assert (again.kind, again.what) == ("nothing", NOTHING_PENDING)
    assert state(project) is MigrationState.FINISHED

    write(project.new, {"V4__nick.sql": "ALTER TABLE person ADD COLUMN nick text;"})
    assert run(project, approved_by="tester").kind == "finished"
    assert project.starts(project.new) == 0
    assert [row[0] for row in rows(project.target, WRITTEN)] == ["2", "2.1", "3", "4"]
    assert run(project).what == NOTHING_PENDING


def test_back_and_once_more(project: Project) -> None:
    from flows.rollback import rollback

    before = rows(project.target, "SELECT * FROM flyway_schema_history ORDER BY installed_rank")
    approve_first = run(project)
    assert approve_first.kind == "waiting"
    approve_as(project.target, "release", "switch")
    run(project)
    rollback("release", "project", old_version_deployed=True)
    assert state(project) is MigrationState.ROLLED_BACK
    assert rows(project.target, "SELECT * FROM flyway_schema_history ORDER BY installed_rank") == before
    assert project.starts(project.old) == 0
    assert run(project, approved_by="tester").kind == "finished"
    assert rows(project.target, WRITTEN) == ROWS


def test_a_new_version_that_was_started_too_early_stops_the_run(project: Project) -> None:
    from flows.rollback import rollback

    assert run(project, until="expand").kind == "stopped"
    early = write(project.new.parent / "early", dict([*OLD.items(), *list(NEW.items())[:1]]))
    assert project.migrated(early) == 1
    with pytest.raises(HistoryChanged, match=r"Flyway has run V2__another_mood\.sql since release was planned") as stop:
        run(project)
    assert state(project) is MigrationState.FAILED
    assert "lockstep rollback release" in str(stop.value)
    rollback("release", "project")
    assert run(project, approved_by="tester").kind == "finished"
    assert [row[0] for row in rows(project.target, WRITTEN)] == ["2", "2.1", "3"]
    assert project.starts(project.new) == 0
