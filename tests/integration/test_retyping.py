"""Changes of type that the server makes in its catalog alone, and those that only look like it."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tasks.database.catalog import snapshot
from tasks.database.connection import Target, connect
from tasks.planning.errors import SpecError
from tasks.planning.plan import Irreversible, Plan
from tasks.planning.schema_hash import schema_hash
from tests.integration.staging import PHASES, carry_out, planned, row, undo, written

SCHEMA = """
CREATE TABLE item (
    id int PRIMARY KEY, code varchar(50) NOT NULL CHECK (code <> ''), price numeric(8,2), at timestamp(3),
    net cidr, local timestamp, indexed timestamp, word varchar UNIQUE
);
COMMENT ON CONSTRAINT item_code_check ON item IS 'never empty';
CREATE TABLE part (code varchar REFERENCES item (word), id int PRIMARY KEY);
CREATE INDEX item_code ON item (code);
CREATE INDEX item_indexed ON item (indexed);
INSERT INTO item (id, code, word) VALUES (1, 'a', 'w');
"""
WIDER = """
ALTER TABLE item ALTER code TYPE varchar(100), ALTER price TYPE numeric(10,2), ALTER at TYPE timestamp(6);
ALTER TABLE item ALTER net TYPE inet USING net::inet, ALTER word TYPE text;
ALTER TABLE item ALTER local TYPE timestamptz;
"""
WORD = "mapping: {item.local: {old_version_reads: true}}"


def steps(plan: Plan, phase: str) -> list[str]:
    return [step.id for step in plan.phase(phase).steps if step.id.startswith("retype/")]


@pytest.mark.every_version
def test_types_are_changed_where_they_stand(database: Target, tmp_path: Path) -> None:
    plan = planned(database, SCHEMA, written(tmp_path, "wider", WIDER, WORD))
    columns = ("code", "price", "at", "net", "local", "word")
    ids = [f"retype/public.item.{name}" for name in columns]
    found = steps(plan, "constrain")
    assert [phase.name for phase in plan.phases] == ["expand", "constrain"]
    assert [step for step in found if "validate" not in step and "analyze" not in step] == ids
    assert "retype/validate/public.item.item_code_check" in found
    assert found[-1] == "retype/analyze/public.item"
    locked = {step.id: {str(lock.table) for lock in step.locks} for step in plan.phase("constrain").steps}
    assert locked["retype/public.item.word"] == {"public.item", "public.part"}
    with psycopg.connect(database.conninfo) as connection:
        files = row(connection, FILES)
    stage = carry_out(database, plan, PHASES)
    with stage.session() as app:
        assert row(app, FILES) == files
        with pytest.raises(psycopg.errors.CheckViolation):
            app.execute("INSERT INTO item (id, code) VALUES (2, '')")
        app.execute("INSERT INTO item (id, code, price) VALUES (2, repeat('x', 100), 12345678.90)")
    with connect(database, role="test") as connection:
        assert schema_hash(snapshot(connection), plan.scope) == plan.schema_target
    warning = next(note for note in plan.notes if "0A000" in note.text)
    assert warning.severity == "WARNING"
    assert "public.item.code (character varying(50) → character varying(100))" in warning.text


FILES = "SELECT array_agg(pg_relation_filenode(oid) ORDER BY relname) FROM pg_class WHERE relname ~ '^item'"


def test_beside_other_changes_types_change_at_the_switch_and_go_back_where_that_is_free(
    database: Target, tmp_path: Path
) -> None:
    change = "ALTER TABLE item ALTER word TYPE text; ALTER TABLE item RENAME price TO cost;"
    plan = planned(database, SCHEMA, written(tmp_path, "mixed", change))
    assert steps(plan, "switch") == ["retype/public.item.word", "retype/analyze/public.item"]
    carry_out(database, plan, PHASES[:4])
    undo(database, plan, PHASES[:4])
    with connect(database, role="test") as connection:
        assert schema_hash(snapshot(connection), plan.scope) == plan.schema_before


def test_what_cannot_be_narrowed_again_says_so(database: Target, tmp_path: Path) -> None:
    plan = planned(database, SCHEMA, written(tmp_path, "wide", "ALTER TABLE item ALTER price TYPE numeric(10,2);"))
    undone = plan.phase("constrain").steps[0].undo
    assert isinstance(undone, Irreversible)
    assert "write the whole table again" in undone.reason
    assert "TYPE numeric(8,2)" in plan.reverse


def test_a_type_that_the_old_version_may_not_read_needs_a_word(database: Target, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="old_version_reads"):
        planned(database, SCHEMA, written(tmp_path, "zoned", "ALTER TABLE item ALTER local TYPE timestamptz;"))
