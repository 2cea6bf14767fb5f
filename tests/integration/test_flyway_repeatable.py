"""Repeatable files of a Flyway folder, where the spec says `repeatable: run`; and the way back after contract."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tasks.database import oracle
from tasks.database.connection import Target, connect
from tasks.database.ledger import Ledger
from tasks.planning.errors import HistoryChanged, SpecError
from tasks.planning.spec import load
from tasks.planning.states import MigrationState
from tests.integration.beside_flyway import agree
from tests.integration.flyway_project import REST, SETTINGS, WRITTEN, Project
from tests.integration.journey import Journey, execute, only, rows
from tests.integration.real_flyway import FlywayFailed, RealFlyway

SIZES = "CREATE OR REPLACE VIEW sizes AS SELECT count(*) AS people, count(nick) AS nicks FROM person;"
ADDS = {
    "R__sizes.sql": SIZES,
    "R__another_view.sql": "-- ${why}\nCREATE OR REPLACE VIEW nicks AS SELECT nick FROM person;",
    "V2__nick.sql": "ALTER TABLE person ADD COLUMN nick text;",
}
RUN = REST + "  repeatable: run\n"
ADDED = [
    ("2", "nick", "SQL", "V2__nick.sql", True, True, True),
    (None, "another view", "SQL", "R__another_view.sql", True, True, True),
    (None, "sizes", "SQL", "R__sizes.sql", True, True, True),
]
VIEW = "SELECT pg_get_viewdef('sizes'::regclass)"


@pytest.fixture
def project(flyway: RealFlyway, database: Target, tmp_path: Path) -> Project:
    return Project(flyway, database, tmp_path, ADDS)


def test_they_come_last_by_description_and_the_new_version_runs_nothing(project: Project) -> None:
    former = only(project.target, VIEW)
    journey = project.registered(RUN)
    notes = [note.text for note in journey.plan.notes if note.severity == "WARNING"]
    assert "the old version must not start again" in notes[1]
    assert "R__another_view.sql, R__sizes.sql" in notes[1]
    for _ in range(2):
        journey.go()
        assert rows(project.target, WRITTEN) == ADDED
        assert rows(project.target, "SELECT people, nicks FROM sizes") == [(300, 0)]
        assert project.starts(project.new) == 0
        journey.undo(*journey.phases)
        assert rows(project.target, WRITTEN) == []
        assert only(project.target, VIEW) == former
        assert project.starts(project.old) == 0
    journey.go()
    agree(project.flyway, project.target, project.new, SETTINGS)
    assert project.planned(RUN).is_empty


def test_alone(flyway: RealFlyway, database: Target, tmp_path: Path) -> None:
    project = Project(flyway, database, tmp_path, {"R__sizes.sql": SIZES.replace("nick", "id")})
    project.registered(RUN).go()
    assert rows(project.target, WRITTEN) == ADDED[2:]
    assert project.starts(project.new) == 0


def test_what_the_old_version_would_do_is_why_they_are_refused_unless_said(project: Project) -> None:
    project.registered(RUN).go()
    with pytest.raises(FlywayFailed, match="Detected applied migration not resolved locally: another view"):
        project.migrated(project.old)
    (project.new / "R__another_view.sql").rename(project.old / "R__another_view.sql")
    with pytest.raises(FlywayFailed, match="cannot drop columns from view"):
        project.migrated(project.old)


def test_one_that_flyway_has_run_meanwhile_or_that_has_changed_stops_it(project: Project) -> None:
    journey = project.registered(RUN)
    with connect(project.target, role="test") as connection:
        Ledger(connection).set_state("release", MigrationState.RUNNING)
    file = project.new / "R__sizes.sql"
    file.write_text(f"-- Other.\n{SIZES}")
    assert "R__sizes.sql is not what was planned" in project.refusal(SpecError, RUN)
    file.write_text(SIZES)
    assert project.planned(RUN) == journey.plan
    (project.old / "R__sizes.sql").write_text(f"-- Again.\n{SIZES.replace('nick', 'id')}")
    assert project.migrated(project.old) == 1
    with pytest.raises(HistoryChanged, match=r"Flyway has run R__sizes\.sql since release was planned"):
        journey.go()


def test_the_reverse_migration_and_the_files_once_more(flyway: RealFlyway, database: Target, tmp_path: Path) -> None:
    project = Project(flyway, database, tmp_path, {"V2__mass.sql": "ALTER TABLE person RENAME COLUMN weight TO mass;"})
    journey = project.registered()
    journey.go()
    over(project.target, "release")
    reverse = journey.plan.reverse
    path = tmp_path / "reverse.yaml"
    path.write_text(reverse)
    loaded = load(path)
    plan = oracle.plan(loaded, project.target)
    with connect(project.target, role="test") as connection:
        Ledger(connection).register(plan, loaded.text)
    back = Journey(project.target, plan)
    for phase in back.phases:
        if phase != "contract":
            assert project.starts(project.new) == 0, "the version that runs now"
        back.go(phase)
    assert project.starts(project.old) == 0
    assert project.pending() == [], "so the version that has the file would run on a schema that is not its own"
    over(project.target, plan.name)
    (statement,) = [line.removeprefix("#   ") for line in reverse.splitlines() if line.startswith("#   DELETE")]
    execute(project.target, statement)
    assert project.starts(project.old) == 0
    assert project.pending() == ["V2__mass.sql"]
    assert yaml.safe_load(reverse)["name"] == "release-reverse"
    project.registered().go()
    assert only(project.target, "SELECT count(mass) FROM person") == 300
    assert project.starts(project.new) == 0


def over(target: Target, name: str) -> None:
    with connect(target, role="test") as connection:
        for state in (MigrationState.RUNNING, MigrationState.FINISHED):
            Ledger(connection).set_state(name, state)


def test_a_rehearsal_writes_the_rows_on_its_clone_only(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import plan as planning

    monkeypatch.setenv("LOCKSTEP_PROJECT_URL", project.target.conninfo)
    project.write_spec(RUN)
    assert planning.show(str(project.spec), "project", None, "md", 1_000) == 0
    assert rows(project.target, WRITTEN) == []
