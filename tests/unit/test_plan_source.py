"""What counts as a change of a spec, what is meant as a file, and which database is taken."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.database.connection import Target
from tasks.database.records import MigrationRecord
from tasks.plan_source import choose_database, is_spec, load_spec, make_plan
from tasks.planning.errors import SpecError, UsageError
from tasks.planning.plan import Plan
from tasks.planning.spec import LoadedSpec
from tasks.planning.states import MigrationState

YAML = """
name: number
database: acceptance
change: |
  ALTER TABLE person RENAME COLUMN code TO number;
mapping:
  person.number: {up: "code", down: "number"}
gates: {rules: {short: {table: person, where: "code < 9"}}}
soak: 7d
"""
SQL = "ALTER TABLE person ADD COLUMN number int;\n"
NOWHERE = Target("acceptance", "postgresql://127.0.0.1:1/none")


def loaded(folder: Path, text: str, name: str = "number.yaml") -> LoadedSpec:
    (folder / name).write_text(text)
    return load_spec(str(folder / name))


def recorded(spec: LoadedSpec, state: MigrationState = MigrationState.WAITING) -> MigrationRecord:
    plan = Plan(
        name=spec.spec.name, database="acceptance", strategy="direct", why="", change=spec.change,
        change_hash=spec.change_hash, server_version=160000, phases=(),
    )  # fmt: skip
    now = datetime.now(UTC)
    return MigrationRecord(
        name=plan.name, state=state, plan=plan, spec=spec.text, change_hash=plan.change_hash, token=1,
        switched_at=None, created_at=now, updated_at=now, error=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\nname", "\n# A word about it.\nname"),
        ("database: acceptance\n", "database: acceptance   # its name\n"),
        ("  ALTER", "  -- A word about it.\n  ALTER"),
        ("soak: 7d\n", "soak: 168h\n"),
        ('{up: "code", down: "number"}', '{down: "number", up: "code"}'),
    ],
)
def test_what_means_the_same_goes_on_with_the_stored_plan(tmp_path: Path, old: str, new: str) -> None:
    stored = recorded(loaded(tmp_path, YAML))
    assert make_plan(loaded(tmp_path, YAML.replace(old, new)), NOWHERE, stored) is stored.plan


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("TO number;", "TO digits;"),
        ('down: "number"', 'down: "trim(number)"'),
        ("code < 9", "code < 10"),
        ("soak: 7d", "soak: 1d"),
        ("soak: 7d", "soak: 7d\napprovals: [switch]"),
        ("soak: 7d", "soak: 7d\npersonal: [person.number]"),
        ("soak: 7d", 'soak: 7d\nqueries: ["SELECT 1"]'),
    ],
)
def test_what_means_something_else_is_refused(tmp_path: Path, old: str, new: str) -> None:
    stored = recorded(loaded(tmp_path, YAML))
    assert old in YAML
    with pytest.raises(UsageError, match="has changed"):
        make_plan(loaded(tmp_path, YAML.replace(old, new)), NOWHERE, stored)


def test_the_throttle_of_an_unfinished_migration_may_change(tmp_path: Path) -> None:
    stored = recorded(loaded(tmp_path, YAML))
    plan = make_plan(loaded(tmp_path, YAML + "throttle: {lock_waiters: 3}\n"), NOWHERE, stored)
    assert plan.throttle.lock_waiters == 3
    assert plan.model_copy(update={"throttle": stored.plan.throttle}) == stored.plan


def test_comments_of_files_with_sql_do_not_count(tmp_path: Path) -> None:
    stored = recorded(loaded(tmp_path, SQL, "number.sql"))
    assert make_plan(loaded(tmp_path, f"-- name: it\n{SQL}", "number.sql"), NOWHERE, stored) is stored.plan
    with pytest.raises(UsageError, match="has changed"):
        make_plan(loaded(tmp_path, SQL.replace("int", "text"), "number.sql"), NOWHERE, stored)
    (tmp_path / "change.sql").write_text(SQL)
    beside = "name: number\nchange_file: change.sql\n"
    stored = recorded(loaded(tmp_path, beside))
    (tmp_path / "change.sql").write_text(f"-- name: it\n{SQL}")
    assert make_plan(loaded(tmp_path, beside), NOWHERE, stored) is stored.plan


def test_a_folder_is_no_spec(tmp_path: Path) -> None:
    (tmp_path / "number.yaml").write_text(YAML)
    with pytest.raises(SpecError, match="is a folder") as refused:
        load_spec(str(tmp_path))
    assert str(tmp_path / "number.yaml") in str(refused.value.remedy)
    (tmp_path / "number.yaml").unlink()
    with pytest.raises(SpecError, match="is a folder"):
        load_spec(str(tmp_path))


@pytest.mark.parametrize(
    ("migration", "file"),
    [("intake-v2", False), ("v2_1", False), ("intake-v2.yaml", True), ("here/intake-v2", True), ("..", True)],
)
def test_what_is_meant_as_a_file(migration: str, file: bool) -> None:
    assert is_spec(migration) is file


def test_the_only_database_is_taken_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LOCKSTEP_")]:
        monkeypatch.delenv(name)
    bare, said = loaded(tmp_path, SQL, "number.sql"), list[str]()
    with pytest.raises(UsageError, match="which database") as refused:
        choose_database(bare, None, said.append)
    assert "LOCKSTEP_<NAME>_URL" in str(refused.value.remedy)
    monkeypatch.setenv("LOCKSTEP_DRINK_WATER_URL", "postgresql://localhost/a")
    assert choose_database(bare, None, said.append) == "drink-water"
    assert said == ["Database: drink-water, the only one that is known here."]
    monkeypatch.setenv("LOCKSTEP_OTHER_URL", "postgresql://localhost/b")
    with pytest.raises(UsageError, match="which database") as refused:
        choose_database(bare, None, said.append)
    assert refused.value.remedy == "Add one of: --database drink-water, --database other."
    assert choose_database(bare, "other", said.append) == "other"
    assert choose_database(loaded(tmp_path, YAML), None, said.append) == "acceptance"
    assert len(said) == 1
