"""Forecasts from a real ledger and a real calibration, and the error of a run that is done."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from tasks.database import calibration, live
from tasks.database.calibration import calibrate, computing_ratio
from tasks.database.connection import Target, connect
from tasks.database.foresight import earlier_runs, error_of, foresee, known_paces, survey
from tasks.database.ledger import Ledger
from tasks.database.queries import queries
from tasks.database.runner import open_runner
from tasks.planning.live import LiveFacts
from tasks.planning.names import TableName
from tasks.planning.paces import BUILT_IN
from tasks.planning.plan import Forecast, Plan
from tests.integration.synthetic import (
    FILL,
    INDEX,
    NAME,
    READINGS,
    ask,
    create_readings,
    ignore,
    phase,
    plan,
    register,
    step,
)

ROWS = 40_000
INDEX_STEP = "constrain/index"


@pytest.fixture
def readings(database: Target) -> Target:
    create_readings(database, ROWS)
    ask(database, "ANALYZE readings")
    return database


@pytest.fixture
def scratch(database: Target) -> Iterator[psycopg.Connection[TupleRow]]:
    """The database itself plays the scratch database: nothing of a calibration stays in it."""
    with connect(database, role="scratch") as connection:
        yield connection


def looked(target: Target) -> LiveFacts:
    with connect(target, role="plan") as connection:
        return live.look(connection, sample_seconds=0.0)


def foretold(worst: float) -> Plan:
    """The small migration, with rows and forecasts as a planner gives them."""
    made = plan()
    phases = []
    for found in made.phases:
        steps = tuple(
            item.model_copy(update={"forecast": Forecast(best=0.0, worst=worst, rows=ROWS)})
            if item.id in (FILL, INDEX_STEP)
            else item
            for item in found.steps
        )
        phases.append(found.model_copy(update={"steps": steps}))
    return made.model_copy(update={"phases": tuple(phases)})


def carry_out(target: Target, made: Plan) -> None:
    register(target, made)
    for found in made.phases:
        with open_runner(target, NAME) as runner:
            runner.run_phase(found.name, ignore)
            runner.finish_phase(found.name)


def test_without_any_source_the_paces_are_built_in(readings: Target) -> None:
    facts = looked(readings)
    with connect(readings, role="plan") as connection:
        expected = foresee(connection, None, plan(), facts)
    fill = expected.step(FILL)
    assert fill.pace == BUILT_IN["backfill"]
    assert fill.seconds.rows == ROWS
    assert expected.seconds.best < expected.seconds.worst
    assert expected.wal.best > 0
    assert expected.disk_needed.worst > expected.disk.worst


def test_a_run_teaches_the_next_plan(readings: Target) -> None:
    carry_out(readings, foretold(60.0))
    with connect(readings, role="plan") as connection:
        runs = {run.step.id: run for run in earlier_runs(Ledger(connection))}
        assert runs[FILL].rows == ROWS
        assert runs[FILL].seconds > 0
        # The step is as long as it was; a run of fewer seconds teaches nothing of the pace.
        ask(
            readings,
            "UPDATE lockstep.step SET finished_at = started_at + interval '2 seconds' WHERE step LIKE '%fill%'",
        )
        known = known_paces(connection, None, plan(), looked(readings))
    pace = known.of(READINGS, "backfill")
    assert pace.source == "ledger"
    assert (pace.best, pace.worst) == pytest.approx((ROWS / 2 * 1.25, ROWS / 2 * 0.5))
    assert NAME in pace.said
    assert known.of(READINGS, "scan").source == "built-in"


@pytest.mark.every_version
def test_the_error_of_a_finished_run(readings: Target) -> None:
    carry_out(readings, foretold(60.0))
    with connect(readings, role="plan") as connection:
        error = error_of(Ledger(connection), NAME)
    assert {found.step for found in error.steps} == {FILL, INDEX_STEP}
    assert error.missing == ()
    assert error.verdict == "within"
    assert 0 < error.actual < 60
    assert error.expected == Forecast(best=0.0, worst=120.0)


def test_a_run_that_was_slower_than_foretold(readings: Target) -> None:
    slow = phase("backfill", step("backfill/sleep", plan().phase("constrain").steps[0].action))
    made = foretold(60.0)
    sleep = slow.steps[0].model_copy(update={"forecast": Forecast(best=0.1, worst=0.2)})
    made = made.model_copy(update={"phases": (made.phases[0], slow.model_copy(update={"steps": (sleep,)}))})
    carry_out(readings, made)
    ask(readings, "UPDATE lockstep.step SET finished_at = started_at + interval '3 seconds' WHERE step LIKE '%sleep%'")
    with connect(readings, role="plan") as connection:
        error = error_of(Ledger(connection), NAME)
    assert (error.verdict, error.actual) == ("slower", 3.0)
    assert "backfill/sleep slower 3.0 times" in str(error)


def test_what_is_not_done_is_missing(readings: Target) -> None:
    register(readings, foretold(60.0))
    with connect(readings, role="plan") as connection:
        error = error_of(Ledger(connection), NAME)
        assert earlier_runs(Ledger(connection)) == ()
    assert error.steps == ()
    assert set(error.missing) == {FILL, INDEX_STEP}


@pytest.mark.every_version
def test_a_calibration_measures_and_leaves_nothing(readings: Target, scratch: psycopg.Connection[TupleRow]) -> None:
    facts = looked(readings)
    found = calibrate(scratch, facts, READINGS, seconds=1.0)
    assert 0 < found.seconds < 20
    speeds = {work: (quick, slow) for work, quick, slow in found.speeds}
    assert set(speeds) == {"scan", "build", "backfill", "validation"}
    # Reading is some fifty times as quick as writing every row again: beside other work it is still quicker.
    assert speeds["scan"][0] > speeds["backfill"][0] > 100
    assert speeds["validation"][0] >= speeds["validation"][1]
    # The new row, and the records around it; an entry of a bigint takes 16 bytes and its share of the page.
    assert 100 < found.filled_wal < 5_000
    assert 16 < found.entry_bytes < 40
    assert ask(readings, "SELECT 1 FROM pg_namespace WHERE nspname = 'lockstep_calibration'") == []


def test_wider_rows_need_more_of_the_log(readings: Target, scratch: psycopg.Connection[TupleRow]) -> None:
    ask(
        readings,
        "CREATE TABLE wide (id int PRIMARY KEY, note text);"
        "INSERT INTO wide SELECT n, repeat('x', 1500) FROM generate_series(1, 500) AS n; ANALYZE wide",
    )
    facts = looked(readings)
    narrow = calibrate(scratch, facts, READINGS, seconds=1.0)
    wide = calibrate(scratch, facts, TableName("public", "wide"), seconds=1.0)
    assert wide.row_bytes > 10 * narrow.row_bytes
    assert wide.filled_wal > 2 * narrow.filled_wal


def test_rows_of_which_no_statistics_tell_are_as_wide_as_the_table_is_large(
    readings: Target, scratch: psycopg.Connection[TupleRow]
) -> None:
    ask(
        readings,
        "CREATE TABLE wide (id int PRIMARY KEY, note text) WITH (autovacuum_enabled = off);"
        "ALTER TABLE wide ALTER note SET STORAGE PLAIN;"
        "INSERT INTO wide SELECT n, repeat('x', 3900) FROM generate_series(1, 500) AS n",
    )
    ask(readings, "VACUUM wide")
    facts = looked(readings)
    table = facts.table(TableName("public", "wide"))
    assert table is not None
    assert table.data_bytes is None
    found = calibrate(scratch, facts, table.name, seconds=1.0)
    assert 4_000 < found.row_bytes < 4_300
    # A new row of that width is logged, and nothing of it had to be put elsewhere.
    assert found.filled_wal > 3_900


def test_a_failed_calibration_leaves_nothing_either(
    readings: Target, scratch: psycopg.Connection[TupleRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "_SQL", {**queries("calibration"), "check": b"SELECT 1 / 0"})
    with pytest.raises(psycopg.errors.DivisionByZero):
        calibrate(scratch, looked(readings), READINGS, seconds=0.3)
    with connect(readings, role="plan") as connection:
        known = known_paces(connection, scratch, plan(), looked(readings))
    assert [str(found) for found in known.unseen] == ["a calibration: it failed: DivisionByZero (22012)"]
    assert known.of(READINGS, "backfill").source == "built-in"
    assert ask(readings, "SELECT 1 FROM pg_namespace WHERE nspname = 'lockstep_calibration'") == []


def test_a_scratch_server_that_dies_is_a_gap_and_not_the_end(
    readings: Target, scratch: psycopg.Connection[TupleRow]
) -> None:
    facts = looked(readings)
    with connect(readings, role="plan") as connection:
        connection.execute("SELECT pg_terminate_backend(%s)", (scratch.info.backend_pid,))
        known = known_paces(connection, scratch, plan(), facts)
        assert "a calibration: it failed: AdminShutdown (57P01)" in map(str, known.unseen)
        assert known.of(READINGS, "backfill").source == "built-in"


def test_the_same_server_computes_as_fast_as_itself(readings: Target, scratch: psycopg.Connection[TupleRow]) -> None:
    with connect(readings, role="plan") as connection:
        ratio = computing_ratio(connection, scratch)
        assert connection.execute("SHOW statement_timeout").fetchone() == ("0",), "its limits are left as they were"
    # Beside other work a factor of two is possible; None is beyond four.
    assert ratio is None or 0.25 <= ratio <= 4.0


def test_only_what_the_ledger_does_not_know_is_calibrated(
    readings: Target, scratch: psycopg.Connection[TupleRow]
) -> None:
    facts = looked(readings)
    only_fill = plan(phase("backfill", step(FILL, plan().phase("backfill").steps[1].action)))
    with connect(readings, role="plan") as connection:
        known = known_paces(connection, scratch, only_fill, facts, seconds=0.3)
        assert known.of(READINGS, "backfill").source == "calibration"
        assert known.calibration_of(READINGS) is not None
        expected = foresee(connection, scratch, only_fill, facts, seconds=0.3).step(FILL)
        assert expected.pace is not None
        assert "generated rows of" in expected.pace.said

        carry_out(readings, foretold(60.0))
        ask(
            readings,
            "UPDATE lockstep.step SET finished_at = started_at + interval '2 seconds' WHERE step LIKE '%fill%'",
        )
        known = known_paces(connection, scratch, only_fill, facts, seconds=0.3)
        assert known.calibrations == ()
        assert known.of(READINGS, "backfill").source == "ledger"


def test_a_ledger_that_may_not_be_read_is_said(readings: Target) -> None:
    carry_out(readings, foretold(60.0))
    name = f"stranger_{readings.name}"
    ask(readings, f"CREATE ROLE {name} LOGIN PASSWORD 'stranger'")
    try:
        stranger = Target("stranger", make_conninfo(readings.conninfo, user=name, password="stranger"))
        with connect(stranger, role="plan") as connection:
            known = known_paces(connection, None, plan(), looked(stranger))
    finally:
        ask(readings, f"DROP ROLE {name}")
    assert known.of(READINGS, "backfill").source == "built-in"
    (said,) = known.unseen
    assert (said.what, "may not read Lockstep's ledger" in said.why) == ("earlier runs", True)
    assert f'GRANT USAGE ON SCHEMA lockstep TO "{name}"' in said.remedy


def test_a_survey_looks_and_foretells(readings: Target) -> None:
    facts, expected = survey(readings, plan(), sample_seconds=0.0)
    assert facts.table(READINGS) is not None
    fill = expected.step(FILL)
    assert fill.pace is not None
    assert fill.pace.source == "calibration"
    assert 0 < fill.seconds.best < fill.seconds.worst


def test_small_tables_are_not_worth_a_calibration(database: Target, scratch: psycopg.Connection[TupleRow]) -> None:
    create_readings(database, 100)
    ask(database, "ANALYZE readings")
    indexed = plan(phase("constrain", step(INDEX_STEP, INDEX)))
    with connect(database, role="plan") as connection:
        assert known_paces(connection, scratch, indexed, looked(database)).calibrations == ()
