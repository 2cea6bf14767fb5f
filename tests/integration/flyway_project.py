"""A project that uses Flyway: a database at the old version, the folders of both, and the real Flyway to start them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tasks.database.connection import Target, connect
from tasks.database.ledger import Ledger
from tasks.flyway_source import with_its_files
from tasks.plan_source import make_plan
from tasks.planning.errors import LockstepError
from tasks.planning.flyway.settings import Settings
from tasks.planning.plan import Plan
from tasks.planning.spec import LoadedSpec, load
from tasks.planning.states import MigrationState
from tests.integration.beside_flyway import migrates, told, write
from tests.integration.journey import Journey
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

    @property
    def spec(self) -> Path:
        return self.new.parent / "release.yaml"

    def write_spec(self, rest: str = REST) -> None:
        self.spec.write_text(f"name: release\nflyway:\n  folder: new\n{rest}")

    def loaded(self, rest: str = REST) -> LoadedSpec:
        self.write_spec(rest)
        with connect(self.target, role="test") as connection:
            stored = Ledger(connection).migration("release")
        return with_its_files(load(self.spec), self.target, stored)

    def planned(self, rest: str = REST) -> Plan:
        with connect(self.target, role="test") as connection:
            stored = Ledger(connection).migration("release")
        return make_plan(self.loaded(rest), self.target, stored)

    def registered(self, rest: str = REST) -> Journey:
        plan = self.planned(rest)
        with connect(self.target, role="test") as connection:
            Ledger(connection).register(plan, self.loaded(rest).text)
        return Journey(self.target, plan)

    def begun(self) -> Journey:
        """Register, and carry out the first phase."""
        journey = self.registered()
        with connect(self.target, role="test") as connection:
            Ledger(connection).set_state("release", MigrationState.RUNNING)
        journey.go("expand")
        return journey

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
