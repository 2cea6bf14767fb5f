"""The runner: killed, frozen or doubled, a migration has one runner and one result."""

import os
import signal
import time

import pytest

from tasks.database.connection import Target
from tasks.database.runner import open_runner
from tasks.planning.errors import RunnerBusy
from tests.integration.filling import WRONG, expanded
from tests.integration.synthetic import (
    FILL,
    NAME,
    ask,
    create_readings,
    ignore,
    phase,
    plan,
    register,
    start_phase,
    transaction,
)

QUICK = {"LOCKSTEP_LEASE_SECONDS": "1"}
BOUNDARIES = [f"{side}:{name}" for name in ("expand/readings", FILL, "constrain/index") for side in ("before", "after")]


@pytest.mark.parametrize("place", BOUNDARIES)
def test_a_runner_killed_at_a_step_boundary_is_continued(database: Target, place: str) -> None:
    create_readings(database, 2_000)
    wanted = plan()
    register(database, wanted)
    killed = 0
    for one in wanted.phases:
        process = start_phase(database, one.name, {**QUICK, "LOCKSTEP_CRASH_AT": place})
        process.communicate(timeout=60)
        if process.returncode != 0:
            assert process.returncode == -signal.SIGKILL
            killed += 1
            with open_runner(database, NAME) as runner:
                runner.run_phase(one.name, ignore)
                runner.finish_phase(one.name)
    assert killed == 1
    assert ask(database, WRONG) == [(0,)]
    assert ask(database, "SELECT DISTINCT state FROM lockstep.phase") == [("done",)]
    assert ask(
        database, "SELECT indisvalid FROM pg_index WHERE NOT indisprimary AND indrelid = 'readings'::regclass"
    ) == [(True,)]


def test_a_second_run_at_the_same_time_is_refused(database: Target) -> None:
    register(database, plan(phase("one", transaction("one/a", "SELECT 1"))))
    with open_runner(database, NAME) as runner:
        process = start_phase(database, "one", QUICK)
        _, error = process.communicate(timeout=60)
        assert process.returncode != 0
        assert "RunnerBusy" in error
        assert f"process {os.getpid()} on" in error
        runner.run_phase("one", ignore)
    assert ask(database, "SELECT attempts FROM lockstep.phase") == [(1,)]


def test_a_frozen_runner_is_replaced_and_writes_nothing_when_it_wakes(database: Target) -> None:
    create_readings(database, 60_000)
    expanded(database)
    process = start_phase(database, "backfill", QUICK)
    deadline = time.monotonic() + 30
    while ask(database, "SELECT count(*) FROM lockstep.progress WHERE rows_done > 0") == [(0,)]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGSTOP)
    assert ask(database, "SELECT state FROM lockstep.step WHERE step = 'backfill/fill'") == [("running",)]
    while True:
        try:
            with open_runner(database, NAME) as runner:
                runner.run_phase("backfill", ignore)
                runner.finish_phase("backfill")
            break
        except RunnerBusy:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    before = ask(database, "SELECT md5(string_agg(r::text || r.xmin::text, ',' ORDER BY r.id)) FROM readings AS r")
    ledger = ask(database, "SELECT phase, state, attempts FROM lockstep.phase ORDER BY position")
    process.send_signal(signal.SIGCONT)
    _, error = process.communicate(timeout=90)
    assert process.returncode != 0
    assert "LeaseLost" in error
    assert (
        ask(database, "SELECT md5(string_agg(r::text || r.xmin::text, ',' ORDER BY r.id)) FROM readings AS r") == before
    )
    assert ask(database, "SELECT phase, state, attempts FROM lockstep.phase ORDER BY position") == ledger
    assert ask(database, WRONG) == [(0,)]


def test_nothing_is_held_between_phases(database: Target) -> None:
    create_readings(database, 10)
    expanded(database)
    assert ask(database, "SELECT count(*) FROM lockstep.lease") == [(0,)]
    assert ask(database, "SELECT count(*) FROM lockstep.session") == [(0,)]
    assert ask(database, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]
    time.sleep(0.2)
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'lockstep:%readings-v2'"
    assert ask(database, sessions + " AND datname = current_database()") == [(0,)]


def test_the_ledger_of_a_runner_survives_a_lost_session(database: Target) -> None:
    register(database, plan(phase("one", transaction("one/a", "SELECT 1"))))
    with open_runner(database, NAME) as runner:
        runner.run_phase("one", ignore)
        ask(
            database,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name LIKE 'lockstep:ledger%' AND datname = current_database()",
        )
        runner.finish_phase("one")
    assert ask(database, "SELECT state FROM lockstep.phase") == [("done",)]
