"""The migration that goes back after contract, as the plan writes it: planned and carried out, to the schema before."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
import yaml

from tasks.database import oracle
from tasks.database.connection import Target
from tasks.planning.errors import SpecError, Unsupported
from tasks.planning.plan import Irreversible
from tasks.planning.spec import load
from tests.integration import test_same_name
from tests.integration.staging import PHASES, Stage, carry_out, planned, written
from tests.integration.test_same_name import hash_of

SCHEMA = """
CREATE TABLE item (
    id int PRIMARY KEY, a int NOT NULL DEFAULT 3 CONSTRAINT small CHECK (a < 1000), b text, c int, d int
);
CREATE INDEX item_a ON item (a);
CREATE INDEX item_ac ON item (a, c);
CREATE INDEX item_d ON item (d);
INSERT INTO item SELECT n, n, n::text, n, n FROM generate_series(1, 50) AS n;
"""
TYPES = """
SELECT data_type, count(*) FROM information_schema.columns WHERE table_name IN ('parent', 'child') GROUP BY 1 ORDER BY 1
"""
CASES = {
    "a wider type, its keys and its index": ("ALTER TABLE item ALTER a TYPE bigint;", ""),
    "beside a dropped and a new column": (
        "ALTER TABLE item ALTER a TYPE bigint, DROP COLUMN d, ADD COLUMN e int; CREATE INDEX item_e ON item (e);",
        "mapping: {item.e: {up: 'd', down: {d: 'e'}}}",
    ),
    "by a conversion": (
        "ALTER TABLE item ALTER b TYPE int USING length(b) * 2;",
        "mapping: {item.b: {down: \"repeat('x', least(b, 90) / 2)\", old_version_reads: true}}",
    ),
    "a column computed from one that keeps its name": (
        "ALTER TABLE item ALTER a TYPE bigint; ALTER TABLE item RENAME c TO count;",
        "",
    ),
    "an index that comes and one that goes": (
        "ALTER TABLE item ALTER a TYPE bigint; CREATE INDEX item_new ON item (a, id); DROP INDEX item_ac;",
        "",
    ),
}


def reversed_spec(text: str) -> str:
    """Give the words that the head asks for."""
    spec = yaml.safe_load(text)
    for line in text.splitlines():
        if "Yours to say" in line:
            column = line.split(" copes with ")[1].split(" as ")[0]
            spec.setdefault("mapping", {}).setdefault(column, {})["old_version_reads"] = True
    return yaml.safe_dump(spec)


@pytest.mark.parametrize("case", CASES)
def test_it_leads_to_the_schema_before(database: Target, tmp_path: Path, case: str) -> None:
    change, rest = CASES[case]
    leads_back(database, tmp_path, SCHEMA, change, rest)


@pytest.mark.every_version
def test_narrower_keys_need_a_pause_and_the_plan_says_so(database: Target, tmp_path: Path) -> None:
    """The statements lead back; beside the application a greater value would fail."""
    plan = planned(database, test_same_name.SCHEMA, written(tmp_path, "there", test_same_name.CHANGE))
    (why,) = {
        step.undo.reason
        for step in plan.phase("contract").steps
        if isinstance(step.undo, Irreversible) and "public.parent.id" in step.undo.reason
    }
    assert "only while the application pauses: public.parent." in why
    assert "public.parent.id belongs to the key parent_pkey, and integer does not hold all that bigint does" in why
    assert "# Lockstep refuses to do this beside a running application: public.child.parent belongs to" in plan.reverse
    carry_out(database, plan, PHASES)
    path = tmp_path / "back.yaml"
    path.write_text(reversed_spec(plan.reverse))
    with pytest.raises(Unsupported, match="the application's statement would fail"):
        oracle.plan(load(path), database)
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        connection.execute(load(path).change.encode())
        types = connection.execute(TYPES).fetchall()
    assert types == [("integer", 6), ("smallint", 1)]


def test_it_asks_for_the_word_that_only_a_person_can_give(database: Target, tmp_path: Path) -> None:
    plan = planned(database, SCHEMA, written(tmp_path, "there", "ALTER TABLE item ALTER a TYPE bigint;"))
    assert "# Yours to say before it can be planned" in plan.reverse
    assert "public.item.a as integer" in plan.reverse
    carry_out(database, plan, PHASES)
    path = tmp_path / "back.yaml"
    path.write_text(plan.reverse)
    with pytest.raises(SpecError, match="old application version would read and write the new type"):
        oracle.plan(load(path), database)


def leads_back(target: Target, folder: Path, schema: str, change: str, rest: str) -> None:
    plan = planned(target, schema, written(folder, "there", change, rest))
    assert "lockstep_new" not in plan.reverse
    carry_out(target, plan, PHASES)
    assert hash_of(Stage(target, plan)) == plan.schema_target
    path = folder / "back.yaml"
    path.write_text(reversed_spec(plan.reverse))
    back = oracle.plan(load(path), target)
    carry_out(target, back, PHASES)
    assert hash_of(Stage(target, plan)) == plan.schema_before
    with psycopg.connect(target.conninfo) as connection:
        assert connection.execute("SELECT count(*) FROM pg_attribute WHERE attname ~ '^lockstep'").fetchone() == (0,)
