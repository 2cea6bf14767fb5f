"""The trial finds a sync that fails the application's statement, changes its values or leaves the shapes apart."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tasks.application.drink_water import EXAMPLE
from tasks.database import oracle
from tasks.database.catalog import snapshot
from tasks.database.connection import Target, connect
from tasks.database.sync_trial import try_writes
from tasks.planning.catalog import Catalog
from tasks.planning.errors import Unsupported
from tasks.planning.names import TableName
from tasks.planning.plan import Plan
from tasks.planning.spec import load
from tests.acceptance.harness import execute, query
from tests.integration.staging import PHASES, carry_out, planned, written

INTAKE = TableName("public", "water_intake")
FAULTS = {
    "it fails": (
        "IF NEW.volume > 10 THEN RAISE division_by_zero; END IF; RETURN NEW;",
        r"write of the old application version .* fails while both versions run: division_by_zero \(SQLSTATE 22012\)",
    ),
    "it changes what was given": (
        "NEW.volume := 7; NEW.volume_ml := 7; NEW.recorded_at := NEW.date_time_utc AT TIME ZONE 'UTC';"
        " NEW.lockstep_pending := 0; RETURN NEW;",
        "write of the old application version .* does not leave the values",
    ),
    "it fills in anything and says that it is right": (
        "NEW.volume_ml := 1; NEW.recorded_at := now(); NEW.lockstep_pending := 0; RETURN NEW;",
        "write of the old application version .* apart without a mark",
    ),
    "it leaves out what the new shape demands": (
        "NEW.lockstep_pending := 0; RETURN NEW;",
        r"write of the old application version .* fails while both versions run: .*23514",
    ),
    "it fills on INSERT only": (
        "IF TG_OP = 'INSERT' THEN NEW.recorded_at := NEW.date_time_utc AT TIME ZONE 'UTC';"
        " NEW.volume_ml := CASE NEW.volume_unit WHEN 'OZ' THEN NEW.volume * 29.5735 ELSE NEW.volume END; END IF;"
        " NEW.lockstep_pending := 0; RETURN NEW;",
        "write of the old application version .* apart without a mark",
    ),
}


@pytest.fixture
def plan(drink_water: Target) -> Plan:
    return oracle.plan(load(EXAMPLE / "intake-v2.yaml"), drink_water)


@pytest.fixture
def target(drink_water: Target) -> Catalog:
    """The catalog that the user's change leads to."""
    with psycopg.connect(drink_water.conninfo) as connection:
        connection.execute("TRUNCATE water_intake CASCADE")
        connection.execute(load(EXAMPLE / "intake-v2.yaml").change.encode())
        after = snapshot(connection)
        connection.rollback()
    return after


@pytest.mark.every_version
def test_a_sync_that_keeps_its_promises_passes(drink_water: Target, plan: Plan, target: Catalog) -> None:
    execute(drink_water, b"TRUNCATE water_intake CASCADE")
    carry_out(drink_water, plan, PHASES[:1])
    with connect(drink_water, role="test", settings=plan.settings) as connection:
        assert try_writes(plan, connection, target, after="expand")[INTAKE] > 10
    carry_out(drink_water, plan, PHASES[1:4])
    with connect(drink_water, role="test", settings=plan.settings) as connection:
        assert try_writes(plan, connection, target, after="switch")[INTAKE] > 20
        assert connection.execute("SELECT count(*) FROM water_intake").fetchone() == (0,)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_sync_is_found(drink_water: Target, plan: Plan, target: Catalog, fault: str) -> None:
    body, said = FAULTS[fault]
    execute(drink_water, b"TRUNCATE water_intake CASCADE")
    carry_out(drink_water, plan, PHASES[:1])
    ((function,),) = query(drink_water, "SELECT tgfoid::regproc::text FROM pg_trigger WHERE tgname ~ 'lockstep'")
    execute(
        drink_water,
        f"CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body} END$$".encode(),
    )
    with (
        connect(drink_water, role="test", settings=plan.settings) as connection,
        pytest.raises(Unsupported, match=said),
    ):
        try_writes(plan, connection, target, after="expand")


def test_a_broken_way_down_is_found_after_the_switch(drink_water: Target, plan: Plan, target: Catalog) -> None:
    execute(drink_water, b"TRUNCATE water_intake CASCADE")
    carry_out(drink_water, plan, PHASES[:4])
    execute(drink_water, b"ALTER TABLE water_intake ADD CONSTRAINT whole CHECK (volume % 2 = 0) NOT VALID")
    with (
        connect(drink_water, role="test", settings=plan.settings) as connection,
        pytest.raises(Unsupported, match=r"write of the new application version .* fails .*whole"),
    ):
        try_writes(plan, connection, target, after="switch")


def test_a_table_that_references_itself_is_tried_too(database: Target, tmp_path: Path) -> None:
    """Its primary key, which comes first by name, takes the foreign key with it."""
    schema = "CREATE TABLE item (id int PRIMARY KEY, up int REFERENCES item, n int)"
    plan = planned(database, schema, written(tmp_path, "wider", "ALTER TABLE item ALTER COLUMN n TYPE bigint"))
    assert [phase.name for phase in plan.phases] == list(PHASES)
