"""Maintenance windows on a real server, by its clock: what begins, what stops at the end, and what goes on later."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from tasks.database.connection import Target, connect
from tasks.database.ledger import Ledger
from tasks.database.locks import Patience
from tasks.database.runner import open_runner
from tasks.due import may_go_on
from tasks.planning.errors import StepFailed, Waiting
from tasks.planning.plan import Forecast, Phase, Plan, Step
from tasks.planning.states import MigrationState, PhaseState, StepState
from tasks.planning.windows import Window
from tasks.standing import Standing, standing_of
from tests.integration.filling import WRONG
from tests.integration.openings import from_to, now, open_for, shut
from tests.integration.synthetic import (
    CONTRACT_EXPAND,
    EXPAND,
    FILL,
    INDEX,
    NAME,
    SPEC_TEXT,
    ask,
    backfill,
    create_readings,
    ignore,
    phase,
    plan,
    register,
    step,
    transaction,
)

VALIDATE = "constrain/validate"
PAUSE = "CREATE OR REPLACE FUNCTION pause() RETURNS int LANGUAGE plpgsql AS $$ BEGIN {} RETURN 0; END $$"
SLOW, QUICK = PAUSE.format("PERFORM pg_sleep(0.001);"), PAUSE.format("")
"""What the backfill calls for each row: at most a thousand rows a second, or as many as it can."""
ROWS = 8_000
HELD = "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) WHERE a.datname = current_database()"
"""Locks of others in this database; the asker's own end with its query."""


def heavy(name: str, *steps: Step) -> Phase:
    return phase(name, *steps).model_copy(update={"heavy": True})


def forecast(found: Step, worst: float) -> Step:
    return found.model_copy(update={"forecast": Forecast(best=0.0, worst=worst)})


def migration(window: Window | None, *constrain: Step) -> Plan:
    phases = [
        phase("expand", transaction("expand/readings", *EXPAND, undo=CONTRACT_EXPAND)),
        heavy("backfill", step(FILL, backfill("litres * 1000 + pause()"))),
    ]
    phases += [heavy("constrain", *constrain)] if constrain else []
    return plan(*phases).model_copy(update={"window": window})


def move(target: Target, window: Window | None, *constrain: Step) -> None:
    """Give the migration another window, as a changed spec does."""
    register(target, migration(window, *constrain))


def expanded(target: Target, rows: int, *constrain: Step) -> None:
    """Register the migration without a window, begin it, and run expand."""
    create_readings(target, rows)
    ask(target, f"ANALYZE readings; {QUICK}")
    register(target, migration(None, *constrain))
    with connect(target, role="test") as connection:
        Ledger(connection).set_state(NAME, MigrationState.RUNNING)
    run(target, "expand")
    finish(target, "expand")


def run(target: Target, name: str) -> None:
    with open_runner(target, NAME, patience=Patience(tries=3, seconds=5, first_wait=0.05, longest_wait=0.1)) as runner:
        runner.run_phase(name, ignore)


def finish(target: Target, name: str) -> None:
    with open_runner(target, NAME) as runner:
        runner.finish_phase(name)


def waits(target: Target, name: str) -> Waiting:
    with pytest.raises(Waiting) as due:
        run(target, name)
    assert (due.value.reason, due.value.phase, due.value.exit_code) == ("window", name, 3)
    return due.value


def nothing_is_held(target: Target) -> None:
    time.sleep(0.1)  # a closed connection's backend ends a moment later
    assert ask(target, "SELECT count(*) FROM lockstep.lease") == [(0,)]
    assert ask(target, "SELECT count(*) FROM lockstep.session") == [(0,)]
    assert ask(target, f"{HELD} AND a.pid <> pg_backend_pid() AND a.application_name LIKE 'lockstep%'") == [(0,)]


def waiting_standing(target: Target) -> Standing:
    """Where the migration stands once its run has said that it waits."""
    with connect(target, role="test") as connection:
        Ledger(connection).set_state(NAME, MigrationState.WAITING)
    return standing_of(target, NAME)


@contextmanager
def transaction_until(target: Target, seen: str) -> Iterator[None]:
    """A transaction of the application, which a concurrent build waits for, up to when such a query waits for it."""
    waiting = f"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '{seen}%'"
    deadline = time.monotonic() + 30

    def hold() -> None:
        with psycopg.connect(target.conninfo) as connection:
            connection.execute("UPDATE readings SET litres = litres WHERE id = 1")
            held.set()
            while ask(target, waiting) == [(0,)] and time.monotonic() < deadline:
                time.sleep(0.1)

    held, thread = threading.Event(), threading.Thread(target=hold)
    thread.start()
    assert held.wait(20)
    yield
    thread.join()
    assert time.monotonic() < deadline


def test_a_heavy_phase_is_not_begun_outside_of_its_window_and_others_are(database: Target) -> None:
    expanded(database, 1_000)
    move(database, shut(database))
    due = waits(database, "backfill")
    assert "opens on" in due.what
    assert "--ignore-window" in str(due.remedy)
    standing = waiting_standing(database)
    record = standing.phases["backfill"]
    assert (record.state, record.attempts) == (PhaseState.PENDING, 0)
    assert ask(database, "SELECT count(*) FROM readings WHERE millilitres IS NOT NULL") == [(0,)]
    nothing_is_held(database)
    wait = standing.waits_for
    assert wait is not None
    assert (wait.reason, wait.subject) == ("window", "backfill")
    assert wait.until is not None
    assert timedelta(hours=1, minutes=59) < wait.until - standing.now < timedelta(hours=2, seconds=1)
    assert not may_go_on(standing)
    assert may_go_on(replace(standing, now=wait.until))
    with open_runner(database, NAME) as runner:
        runner.run_phase_at_any_time("backfill", ignore)
    assert ask(database, WRONG) == [(0,)]


@pytest.mark.every_version
def test_a_backfill_stops_between_two_batches_and_goes_on_in_the_next_window(database: Target) -> None:
    expanded(database, ROWS)
    ask(database, SLOW)
    move(database, open_for(database, 3))
    due = waits(database, "backfill")
    assert "has closed" in due.what
    assert " of 8,000 rows are done" in due.what
    standing = waiting_standing(database)
    assert standing.phases["backfill"].state is PhaseState.RUNNING
    (progress,) = standing.progress
    assert 0 < progress.rows_done < ROWS
    assert progress.cursor == (str(progress.rows_done),)
    assert ask(
        database, f"SELECT count(*) FROM readings WHERE id <= {progress.rows_done} AND lockstep_pending <> 0"
    ) == [(0,)], "what the cursor says is committed"
    (closed,) = [event for event in standing.events if event.kind == "window_closed"]
    assert closed.detail["step"] == FILL
    nothing_is_held(database)
    waits(database, "backfill")
    assert standing_of(database, NAME).phases["backfill"].attempts == 1, "it is not even begun while it is shut"

    ask(database, QUICK)
    move(database, open_for(database, 600))
    assert may_go_on(standing_of(database, NAME))
    run(database, "backfill")
    finish(database, "backfill")
    assert ask(database, WRONG) == [(0,)]
    standing = standing_of(database, NAME)
    assert standing.progress[0].rows_done == ROWS, "no row was visited twice"
    assert (standing.phases["backfill"].state, standing.phases["backfill"].attempts) == (PhaseState.DONE, 2)
    assert [event.kind for event in standing.events if event.kind.startswith("window")] == [
        "window", "window_closed", "window",
    ]  # fmt: skip


def test_a_stopped_backfill_can_be_undone(database: Target) -> None:
    expanded(database, ROWS)
    ask(database, SLOW)
    move(database, open_for(database, 3))
    waits(database, "backfill")
    with open_runner(database, NAME) as runner:
        runner.undo_phase("backfill", ignore)
        runner.undo_phase("expand", ignore)
    assert ask(database, "SELECT * FROM readings WHERE id = 1") == [(1, 1)]


def test_a_step_that_does_not_fit_is_not_begun_and_the_ones_before_it_are_kept(database: Target) -> None:
    steps = (
        transaction("constrain/first", "COMMENT ON TABLE readings IS 'first'"),
        forecast(transaction(VALIDATE, "COMMENT ON TABLE readings IS 'second'"), worst=3_600),
        step("constrain/index", INDEX),
    )
    expanded(database, 100, *steps)
    run(database, "backfill")
    move(database, open_for(database, 600), *steps)
    due = waits(database, "constrain")
    assert f"Step {VALIDATE} takes about 1 h, and the maintenance window" in due.what
    standing = waiting_standing(database)
    assert {record.step: record.state for record in standing.steps if record.phase == "constrain"} == {
        "constrain/first": StepState.DONE, VALIDATE: StepState.PENDING, "constrain/index": StepState.PENDING,
    }  # fmt: skip
    assert ask(database, "SELECT obj_description('readings'::regclass)") == [("first",)]
    finish(database, "backfill")
    finish(database, "expand")
    assert not may_go_on(standing_of(database, NAME)), "the scheduled run need not try"
    waits(database, "constrain")
    assert standing_of(database, NAME).phases["constrain"].attempts == 1

    move(database, open_for(database, 5_000), *steps)
    run(database, "constrain")
    assert ask(database, "SELECT obj_description('readings'::regclass)") == [("second",)]


def test_an_index_build_at_the_end_of_the_window_is_stopped_and_built_in_the_next(database: Target) -> None:
    build = step("constrain/index", INDEX)
    expanded(database, 100, build)
    run(database, "backfill")
    move(database, open_for(database, 3), build)
    with transaction_until(database, "DROP INDEX CONCURRENTLY"):
        due = waits(database, "constrain")
    assert "has closed" in due.what
    standing = waiting_standing(database)
    assert standing.phases["constrain"].state is PhaseState.RUNNING
    (closed,) = [event for event in standing.events if event.kind == "window_closed"]
    assert closed.detail["step"] == "constrain/index"
    nothing_is_held(database)
    indexes = "SELECT indisvalid FROM pg_index WHERE NOT indisprimary AND indrelid = 'readings'::regclass"
    assert ask(database, indexes) == [], "what the build left was dropped"

    move(database, open_for(database, 600), build)
    run(database, "constrain")
    finish(database, "constrain")
    assert ask(database, indexes) == [(True,)]


def test_a_validation_at_the_end_of_the_window_leaves_nothing_and_is_not_tried_for_ever(database: Target) -> None:
    check = transaction(
        VALIDATE, "COMMENT ON TABLE readings IS 'validated'", "SELECT pg_sleep(30)", statement_timeout_ms=60_000
    )
    expanded(database, 100, check)
    run(database, "backfill")
    finish(database, "backfill")
    move(database, open_for(database, 2), check)
    assert "has closed" in waits(database, "constrain").what
    assert ask(database, "SELECT obj_description('readings'::regclass)") == [(None,)]
    standing = standing_of(database, NAME)
    assert standing.phases["constrain"].state is PhaseState.RUNNING
    (closed,) = [event for event in standing.events if event.kind == "window_closed"]
    assert closed.detail["step"] == VALIDATE
    nothing_is_held(database)

    opens = now(database) + timedelta(seconds=30)
    move(database, from_to(opens, opens + timedelta(seconds=1)), check)
    assert "had a whole maintenance window" in waits(database, "constrain").what
    standing = waiting_standing(database)
    wait = standing.waits_for
    assert wait is not None
    assert wait.until is None
    assert not may_go_on(replace(standing, now=opens.replace(microsecond=1)))
    move(database, open_for(database, 600), check)
    assert may_go_on(standing_of(database, NAME)), "a longer window is tried"
    assert standing_of(database, NAME).record.spec == SPEC_TEXT


def test_a_timeout_of_its_own_is_still_a_failure(database: Target) -> None:
    slow_step = transaction(VALIDATE, "SELECT pg_sleep(30)", statement_timeout_ms=100)
    expanded(database, 100, slow_step)
    run(database, "backfill")
    move(database, open_for(database, 600), slow_step)
    with pytest.raises(StepFailed, match="57014"):
        run(database, "constrain")
    assert standing_of(database, NAME).phases["constrain"].state is PhaseState.FAILED
