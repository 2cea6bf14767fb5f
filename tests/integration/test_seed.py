"""The SQL of a typical Flyway project, as its team wrote it: what is said of each file, and what is planned instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from tasks.application.drink_water import EXAMPLE
from tasks.database import oracle
from tasks.database.connection import Target
from tasks.lint import look_at_file
from tasks.planning.errors import Unsupported
from tasks.planning.findings import telling
from tasks.planning.plan import UpdateRows
from tasks.planning.script import read_scripts
from tasks.planning.spec import load
from tests.integration.staging import PHASES, carry_out

SEED = Path(__file__).parents[1] / "data" / "seed"
SCHEMA = EXAMPLE / "schema.sql"

FOUND = {
    "V2__notification_preferences.sql": {"data-change-after-lock", "data-change-unbatched", "analyze-missing"},
    "V3__water_intake_v2.sql": {"foreign-key-without-index", "data-change-after-lock"},
    "V4__validate.sql": {"opaque-block"},
    "V5__volumes_in_batches.sql": {"block-commits-in-transaction", "opaque-block"},
    "V6__index_by_user.sql": {"index-not-immutable"},
}
"""By file, beside missing timeouts."""


@pytest.fixture(scope="module")
def told() -> dict[str, list[dict[str, Any]]]:
    """What is told of the whole folder, state carried from file to file."""
    found: dict[str, list[dict[str, Any]]] = {}
    for statement in looked_at(SEED, SCHEMA):
        found.setdefault(Path(statement["file"]).name, []).append(statement)
    return found


def looked_at(files: Path, schema: Path) -> list[dict[str, Any]]:
    statements: list[dict[str, Any]] = telling.document(
        look_at_file(read_scripts([files], ()).scripts, schema).verdicts
    )["statements"]
    return statements


@pytest.mark.parametrize("file", FOUND)
def test_each_file_is_told_its_dangers(told: dict[str, list[dict[str, Any]]], file: str) -> None:
    ids = {finding["id"] for statement in told[file] for finding in statement["findings"]}
    assert ids - {"lock-timeout-missing", "statement-timeout-missing"} == FOUND[file]


def test_the_index_of_the_last_90_days_is_told_what_to_do(told: dict[str, list[dict[str, Any]]]) -> None:
    good, bad = told["V6__index_by_user.sql"]
    assert good["findings"] == []
    assert good["in_transaction"] is False
    assert "functions in index predicate must be marked IMMUTABLE" in str(bad["error"])
    assert "A fixed date in WHERE" in str(bad["findings"])


@pytest.fixture
def drink_water(database: Target) -> Target:
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        connection.execute(SCHEMA.read_bytes())
        connection.execute(
            "INSERT INTO users (email, password_hash, full_name) "
            "SELECT n || '@example.org', 'x', CASE WHEN n > 5 THEN 'User ' || n END FROM generate_series(1, 20) AS n"
        )
    return database


def test_populating_a_new_column_is_planned_in_batches(drink_water: Target) -> None:
    plan = oracle.plan(load(SEED / "V2__notification_preferences.sql"), drink_water)
    assert not any(isinstance(step.action, UpdateRows) for phase in plan.phases for step in phase.steps)
    assert any(group.new == ("display_name",) for group in plan.groups), "it is computed for later rows too"
    carry_out(drink_water, plan, PHASES)
    with psycopg.connect(drink_water.conninfo) as connection:
        names = connection.execute("SELECT display_name FROM users ORDER BY id").fetchall()
    assert names == [(str(n),) for n in range(1, 6)] + [(f"User {n}",) for n in range(6, 21)]


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("V3__water_intake_v2.sql", "INSERT in a change"),
        ("V4__validate.sql", "DO in a change"),
        ("V5__volumes_in_batches.sql", "DO in a change"),
    ],
)
def test_what_is_not_planned_is_refused_with_what_to_do_instead(drink_water: Target, file: str, named: str) -> None:
    with pytest.raises(Unsupported, match=named) as refused:
        oracle.plan(load(SEED / file), drink_water)
    assert refused.value.remedy


def test_a_rollback_script_is_looked_at(tmp_path: Path) -> None:
    schema = tmp_path / "schema.sql"
    schema.write_text(SCHEMA.read_text() + (SEED / "V2__notification_preferences.sql").read_text())
    *_, last = looked_at(SEED / "rollback.sql", schema)
    assert last["dangerous"]
    gone = {finding["message"].split(".")[2] for finding in last["findings"] if finding["id"] == "column-dropped"}
    assert gone == {"display_name and its values are gone", "notification_enabled and its values are gone"}
