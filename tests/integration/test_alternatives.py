"""What a plan says of the strategies: the chosen one's costs and the others', from the database and the change."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tasks.database import oracle
from tasks.database.connection import Target
from tasks.database.foresight import survey
from tasks.lint import look_at
from tasks.planning.alternatives import alternatives
from tasks.planning.errors import Unsupported
from tasks.planning.plan import Plan
from tasks.planning.report import render
from tasks.planning.script import script
from tasks.planning.today import Survey
from tests.integration.staging import written

SCHEMA = """
CREATE TABLE reading (id int PRIMARY KEY, amount int NOT NULL, a text, b text, c text);
CREATE TABLE remark (id int PRIMARY KEY, reading int NOT NULL REFERENCES reading, text text);
INSERT INTO reading SELECT n, n, n, n, n FROM generate_series(1, 50000) AS n;
ANALYZE;
"""


@pytest.fixture
def shop(database: Target) -> Target:
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        connection.execute(SCHEMA.encode())
    return database


def surveyed(target: Target, plan: Plan) -> Survey:
    seen = survey(target, plan, sample_seconds=0.2)
    return Survey(*seen, None, look_at([script(plan.change, "change.sql")], target).verdicts)


def test_each_strategy_has_the_costs_of_this_change_on_this_database(shop: Target, tmp_path: Path) -> None:
    plan = oracle.plan(written(tmp_path, "wider", "ALTER TABLE reading ALTER amount TYPE bigint;"), shop)
    seen = surveyed(shop, plan)
    found = {one.strategy: one for one in alternatives(plan, seen)}
    assert list(found) == ["expand-contract", "the statements as they stand", "shadow table", "blue-green"]
    assert found["expand-contract"].choice == "chosen"
    assert "reverse migration" in found["expand-contract"].back
    stand = found["the statements as they stand"]
    assert stand.application.startswith("writes wait for all of it (public.reading)")
    assert "more while it rewrites" in stand.space
    shadow = found["shadow table"]
    assert "1 foreign key from elsewhere" in shadow.application
    assert shadow.choice == found["blue-green"].choice == "not built yet"
    assert "to copy 50,000 rows" in found["blue-green"].time
    document = render(plan, seen)
    assert stand.application in document
    assert "the statements as they stand" not in render(plan)


def test_what_only_adds_is_added_directly(shop: Target, tmp_path: Path) -> None:
    plan = oracle.plan(written(tmp_path, "more", "ALTER TABLE reading ADD COLUMN more int;"), shop)
    assert [one.strategy for one in alternatives(plan, surveyed(shop, plan))] == ["direct", "expand-contract"]


def test_a_break_of_the_running_application_is_what_the_statements_cost(shop: Target, tmp_path: Path) -> None:
    change = "ALTER TABLE reading RENAME COLUMN a TO alpha;"
    plan = oracle.plan(written(tmp_path, "renaming", change), shop)
    stand = alternatives(plan, surveyed(shop, plan))[1]
    assert "alpha" in stand.application or "renamed" in stand.application
    assert stand.space == "none to speak of"


@pytest.mark.parametrize(
    ("change", "because"),
    [
        ("ALTER TABLE reading ALTER id TYPE bigint; ALTER TABLE remark ALTER reading TYPE bigint;", "primary key"),
        ("ALTER TABLE reading " + ", ".join(f"ALTER {name} TYPE int USING {name}::int" for name in "abc"), "3 columns"),
    ],
)  # fmt: skip
def test_a_better_strategy_is_named_with_what_expand_contract_costs_instead(
    shop: Target, tmp_path: Path, change: str, because: str
) -> None:
    down = "".join(f"  reading.{name}: {{down: '{name}::text', old_version_reads: true}}\n" for name in "abc")
    plan = oracle.plan(written(tmp_path, "better", change, f"mapping:\n{down}" if "USING" in change else ""), shop)
    (note,) = [note.text for note in plan.notes if "better strategy" in note.text]
    assert note.startswith("shadow-table would be the better strategy")
    assert because in note
    assert "with expand-contract the rows are updated in place" in note


@pytest.mark.parametrize("wanted", ["direct", "shadow-table", "blue-green"])
def test_a_strategy_that_it_cannot_have_is_refused_with_the_reason(shop: Target, tmp_path: Path, wanted: str) -> None:
    spec = written(tmp_path, "wanted", "ALTER TABLE reading DROP COLUMN a;", f"strategy: {wanted}")
    with pytest.raises(Unsupported, match=wanted) as refused:
        oracle.plan(spec, shop)
    assert "expand-contract" in (refused.value.remedy or "")


@pytest.mark.parametrize("wanted", ["direct", "expand-contract"])
def test_a_strategy_that_it_has_anyway_may_be_asked_for(shop: Target, tmp_path: Path, wanted: str) -> None:
    spec = written(tmp_path, "wanted", "ALTER TABLE reading ADD COLUMN d text;", f"strategy: {wanted}")
    assert oracle.plan(spec, shop).phases
