"""The rehearsal: the whole migration on a clone full of made-up rows, there and back and to the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.application.drink_water import EXAMPLE
from tasks.database import oracle
from tasks.database.catalog import snapshot
from tasks.database.connection import Target, connect
from tasks.database.live import look
from tasks.database.made_up_rows import fill
from tasks.database.rehearsal import rehearse
from tasks.planning.errors import RehearsalFailed
from tasks.planning.forecast import PlanForecast
from tasks.planning.live import LiveFacts
from tasks.planning.made_up import Shape
from tasks.planning.names import TableName
from tasks.planning.plan import Check, Gate, Plan, Step, UpdateRows
from tasks.planning.rehearsal import Rehearsal
from tasks.planning.report import render
from tasks.planning.spec import load
from tasks.planning.today import Survey
from tasks.survey import rehearsed as rehearsed_survey
from tests.conftest import CANARY
from tests.integration.journey import execute, only
from tests.integration.staging import planned, written

INTAKE, PERSON = TableName("public", "water_intake"), TableName("public", "person")

DEMANDING = """
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE DOMAIN small_positive AS positive CHECK (VALUE < 100);
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE country (code char(2) PRIMARY KEY CHECK (code ~ '^[a-p]{1,2} ?$'), name text NOT NULL UNIQUE);
CREATE TABLE person (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    country char(2) NOT NULL REFERENCES country,
    boss integer REFERENCES person,
    email varchar(60) NOT NULL UNIQUE CHECK (email ~ '^[^@]+@[^@]+$'),
    born date NOT NULL, died date, CHECK (died IS NULL OR died >= born),
    feels mood NOT NULL, plenty positive NOT NULL, few small_positive, tags text[] NOT NULL DEFAULT '{}',
    said jsonb NOT NULL, price numeric(6,2) NOT NULL CHECK (price BETWEEN 1 AND 5000), paid boolean,
    seconds integer NOT NULL CHECK (seconds % 60 = 0 OR seconds = 7),
    twice bigint GENERATED ALWAYS AS (plenty::bigint * 2) STORED,
    active tstzrange, host inet, at timestamptz NOT NULL, code text NOT NULL,
    UNIQUE (country, email) DEFERRABLE
);
CREATE TABLE passport (person integer PRIMARY KEY REFERENCES person ON DELETE CASCADE, number uuid NOT NULL);
CREATE FUNCTION loud() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not by hand'; END $$;
CREATE TRIGGER loud BEFORE INSERT ON passport FOR EACH ROW EXECUTE FUNCTION loud();
"""
"""Every kind of demand: domains, an enum, foreign keys (itself, one to one), patterns, CHECKs over two columns."""


def rehearsed(target: Target, plan: Plan, rows: int = 2_000) -> Rehearsal:
    return rehearse(plan, target, seen(target), rows=rows)


def seen(target: Target) -> LiveFacts:
    with connect(target, role="test") as live:
        return look(live, sample_seconds=0)


def tables(found: Rehearsal) -> dict[str, tuple[int, str]]:
    return {table.table.name: (table.rows, table.why) for table in found.tables}


@pytest.mark.every_version
def test_drink_water_goes_there_and_back_and_to_the_end(drink_water: Target) -> None:
    execute(drink_water, "ANALYZE")
    plan = oracle.plan(load(EXAMPLE / "intake-v2.yaml"), drink_water)
    before = only(drink_water, "SELECT md5(string_agg(w::text, ',' ORDER BY id)) FROM water_intake AS w")

    found = rehearsed(drink_water, plan)

    assert found.failure == ""
    assert found.rolled_back
    assert tables(found) == {"water_intake": (1_000, ""), "users": (1_000, "")}
    assert [phase.phase for phase in found.phases] == [phase.name for phase in plan.phases]
    assert [(step.phase, step.step) for phase in found.phases for step in phase.steps] == [
        (phase.name, step.id) for phase in plan.phases for step in phase.steps
    ]
    # All but contract was taken back.
    assert [phase.phase for phase in found.phases if phase.undo is None] == ["contract"]
    assert all(step.seconds > 0 for phase in found.phases for step in phase.steps)
    # What the steps are planned to lock is what they were seen to lock, if it was seen at all.
    locks = {step.id: {(lock.table, lock.mode) for lock in step.locks} for phase in plan.phases for step in phase.steps}
    for phase in found.phases:
        for step in phase.steps:
            assert {(lock.table, lock.mode) for lock in step.locks} <= locks[step.step], step.step
    assert {(lock.table, lock.mode) for lock in found.locks} >= {(INTAKE, "ACCESS EXCLUSIVE")}
    # The live database is as it was: no ledger, no row of another kind.
    assert only(drink_water, "SELECT to_regnamespace('lockstep') IS NULL")
    assert only(drink_water, "SELECT md5(string_agg(w::text, ',' ORDER BY id)) FROM water_intake AS w") == before
    assert CANARY not in found.model_dump_json()


CODES = """
ALTER TABLE person ADD COLUMN code_number bigint NOT NULL CHECK (code_number < 1000000);
ALTER TABLE person DROP COLUMN code;
"""
NUMBERED = "mapping:\n  person.code_number: {up: 'code::bigint', down: {code: 'code_number::text'}}\n"


def test_rows_are_made_up_for_every_kind_of_demand(database: Target, tmp_path: Path) -> None:
    plan = planned(database, DEMANDING, written(tmp_path, "numbers", CODES, NUMBERED))
    found = rehearsed(database, plan)
    assert found.failure == ""
    assert found.rolled_back
    assert tables(found) == {
        "person": (1_000, ""),
        "country": (90, "of 1,000 made-up rows its constraints take no more"),
    }


def test_made_up_rows_satisfy_what_the_table_demands(database: Target, tmp_path: Path) -> None:
    change = f"{CODES} ALTER TABLE passport ADD CHECK (person < 700);"
    plan = planned(database, DEMANDING, written(tmp_path, "numbers", change, NUMBERED))
    with connect(database, role="test") as live:
        before, facts = snapshot(live), look(live, sample_seconds=0)
        with live.transaction(force_rollback=True):
            live.execute(change.encode())
            after = snapshot(live)
    with connect(database, role="test") as clone:
        made = fill(clone, plan, before, after, facts, {(PERSON, "paid"): Shape(1.0, 0.5, 2.0)}, most=2_000)
    assert {table.table.name: table.rows for table in made}["person"] == 1_000
    # Nothing was checked while they were written: now everything is, as the server does it.
    execute(
        database,
        "ALTER TABLE person ADD CONSTRAINT again FOREIGN KEY (country) REFERENCES country",
        "ALTER TABLE person ADD CONSTRAINT boss_again FOREIGN KEY (boss) REFERENCES person",
        "ALTER TABLE passport ADD CONSTRAINT again FOREIGN KEY (person) REFERENCES person",
        "ALTER TABLE person ADD CHECK (email ~ '^[^@]+@[^@]+$' AND seconds % 60 IN (0, 7) AND code::bigint < 1000000)",
    )
    assert only(database, "SELECT count(DISTINCT country) FROM person") == 90
    assert 400 < only(database, "SELECT count(*) FROM person WHERE paid IS NULL") < 600
    assert only(database, "SELECT count(DISTINCT feels) FROM person") == 3
    # The next row gets a number that is free.
    assert only(database, "SELECT nextval(pg_get_serial_sequence('person', 'id'))") > 1_000


def test_a_table_that_no_made_up_row_fits_stays_empty_and_is_named(database: Target, tmp_path: Path) -> None:
    schema = "CREATE TABLE odd (id int PRIMARY KEY, x text NOT NULL CHECK (length(x) = 3 AND x ~ '[äöü]'))"
    plan = planned(database, schema, written(tmp_path, "odd", "ALTER TABLE odd ADD COLUMN y int"))
    found = rehearsed(database, plan)
    assert tables(found) == {"odd": (0, "no made-up row satisfies the constraints on x")}
    assert "no made-up row satisfies" in render(plan, Survey(seen(database), PlanForecast(steps=()), rehearsal=found))


def test_no_two_made_up_rows_are_the_same_where_the_change_allows_none(database: Target, tmp_path: Path) -> None:
    schema = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE t (id int PRIMARY KEY, m mood NOT NULL)"
    plan = planned(database, schema, written(tmp_path, "moods", "ALTER TABLE t ADD UNIQUE (m)"))
    found = rehearsed(database, plan)
    assert found.failure == ""
    assert tables(found)["t"][0] == 2


def test_a_rehearsal_that_fails_says_what_failed(database: Target, tmp_path: Path) -> None:
    schema = "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL)"
    plan = planned(database, schema, written(tmp_path, "shares", "UPDATE t SET n = 100 / (n - 5) WHERE n < 50"))
    found = rehearsed(database, plan)
    assert "(22012)" in found.failure
    assert not found.rolled_back
    survey = Survey(seen(database), PlanForecast(steps=()), rehearsal=found)
    assert "It failed on 1,000 made-up rows in 1 table of a clone" in render(plan, survey)


def test_what_fails_without_a_row_is_told_too(database: Target, tmp_path: Path) -> None:
    """Before a row is made up the plan is carried out on an empty clone: a failure there is one of the plan as well."""
    plan = planned(database, "CREATE TABLE t (id int)", written(tmp_path, "more", "ALTER TABLE t ADD COLUMN n int"))
    broken = plan.model_dump_json().replace("ADD COLUMN", "ADD COLUMN there, ADD COLUMN")
    found = rehearsed(database, Plan.model_validate_json(broken))
    assert found.failure.startswith("without any row, too: ")
    assert "(42601)" in found.failure
    assert found.tables == ()


def test_rows_that_do_not_come_back_are_noticed(database: Target, tmp_path: Path) -> None:
    schema = "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL)"
    plan = planned(database, schema, written(tmp_path, "more", "UPDATE t SET n = n + 1 WHERE n > 0"))
    assert rehearsed(database, plan).rolled_back
    forgetful = changed(plan, lambda step: {"undo": ()} if isinstance(step.action, UpdateRows) else {})
    found = rehearsed(database, forgetful)
    assert found.failure == "after going back, rows are not as before in public.t"
    assert not found.rolled_back


def test_a_gate_that_fails_on_made_up_rows_fails_the_rehearsal(database: Target, tmp_path: Path) -> None:
    schema = "CREATE TABLE t (id int PRIMARY KEY)"
    plan = planned(database, schema, written(tmp_path, "more", "ALTER TABLE t ADD COLUMN n int"))
    check = Check(
        id="few", kind="schema", title="Few rows", severity="CRITICAL", table=None,
        sql="SELECT count(*), count(*), '[]'::jsonb, '{}'::jsonb FROM t",
    )  # fmt: skip
    gate = Gate(name="few", title="Few rows", checks=(check,))
    first, *others = plan.phases
    gated = plan.model_copy(update={"phases": (first.model_copy(update={"gate_after": gate}), *others)})
    assert rehearsed(database, gated).failure == "the gate few found 1000 made-up rows that fail “Few rows”"


def changed(plan: Plan, update: Callable[[Step], dict[str, object]]) -> Plan:
    """Return a plan with something else in its steps."""
    phases = (
        phase.model_copy(update={"steps": tuple(step.model_copy(update=update(step)) for step in phase.steps)})
        for phase in plan.phases
    )
    return plan.model_copy(update={"phases": tuple(phases)})


def test_a_rehearsal_that_was_asked_for_and_not_made_is_a_failure(database: Target, tmp_path: Path) -> None:
    plan = planned(database, "CREATE TABLE t (id int)", written(tmp_path, "more", "ALTER TABLE t ADD COLUMN n int"))
    with pytest.raises(RehearsalFailed, match="more was not rehearsed"):
        rehearsed_survey(None, database, plan, None, 1_000, lambda _: None)
