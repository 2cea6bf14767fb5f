"""Steps: their limits, their locks, their ledger row; lost connections, indexes, interrupts."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from tasks.database.connection import Target, connect
from tasks.database.ledger import Ledger
from tasks.database.locks import Patience, query_shape
from tasks.database.runner import open_runner
from tasks.planning.errors import LockNotAcquired, RollbackRefused, StepFailed
from tasks.planning.plan import Irreversible, Phase
from tasks.planning.states import PhaseState, StepState
from tests.integration.synthetic import (
    INDEX,
    NAME,
    READINGS,
    ask,
    create_readings,
    ignore,
    phase,
    plan,
    register,
    start_phase,
    step,
    transaction,
)

IMPATIENT = Patience(tries=3, seconds=5, first_wait=0.05, longest_wait=0.1)


def run(target: Target, *phases: Phase, patience: Patience | None = None) -> None:
    """Register a plan of these phases and run them."""
    wanted = plan(*phases)
    register(target, wanted)
    with open_runner(target, NAME, patience=patience) as runner:
        for one in wanted.phases:
            runner.run_phase(one.name, ignore)
            runner.finish_phase(one.name)


def states(target: Target) -> dict[str, StepState]:
    with connect(target, role="test") as connection:
        return {one.step: one.state for one in Ledger(connection).steps(NAME)}


@contextmanager
def background(work: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join(timeout=30)


def wait_for(target: Target, question: str, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while ask(target, question) in ([], [(0,)], [(False,)]):
        assert time.monotonic() < deadline, question
        time.sleep(0.05)


def test_the_session_really_has_the_steps_limits_and_settings(database: Target) -> None:
    statements = (
        "CREATE TABLE seen AS SELECT current_setting('lock_timeout') AS lock_timeout, "
        "current_setting('statement_timeout') AS statement_timeout, current_setting('TimeZone') AS zone, "
        "current_setting('application_name') AS application",
    )
    run(database, phase("one", transaction("one/a", *statements, lock_timeout_ms=321, statement_timeout_ms=4321)))
    assert ask(database, "SELECT * FROM seen") == [("321ms", "4321ms", "UTC", f"lockstep:work:{NAME}")]


def test_a_failing_transaction_leaves_nothing_and_names_step_and_sqlstate(database: Target) -> None:
    create_readings(database, 10)
    steps = transaction("one/a", "CREATE TABLE half (n int)", "INSERT INTO readings VALUES (1, 4711)")
    with pytest.raises(StepFailed, match="23505") as failure:
        run(database, phase("one", steps))
    assert (failure.value.step, failure.value.sqlstate) == ("one/a", "23505")
    assert "4711" not in str(failure.value)
    assert ask(database, "SELECT to_regclass('half')::text") == [(None,)]
    with connect(database, role="test") as connection:
        found = Ledger(connection).phases(NAME)[0]
    assert found.state is PhaseState.FAILED
    assert found.error is not None
    assert "23505" in found.error


def test_a_lock_that_is_not_granted_names_its_holder_without_values(database: Target) -> None:
    create_readings(database, 10)
    with psycopg.connect(database.conninfo, application_name="the blocker") as blocker:
        blocker.execute("UPDATE readings SET litres = 987654 WHERE id = 3")
        with pytest.raises(LockNotAcquired) as refused:
            run(database, phase("one", transaction("one/a", "ALTER TABLE readings ADD x int")), patience=IMPATIENT)
        text = str(refused.value)
        assert f"pid {blocker.info.backend_pid} (application the blocker" in text
        assert "idle in transaction" in text
        assert "UPDATE readings SET litres =" in text
        assert "987654" not in text
        assert "3 tries" in text
        assert refused.value.table == "readings"


def test_a_lock_that_becomes_free_is_taken_on_a_later_try(database: Target) -> None:
    create_readings(database, 10)
    blocker = psycopg.connect(database.conninfo)
    blocker.execute("LOCK TABLE readings IN ACCESS SHARE MODE")

    def release() -> None:
        time.sleep(1)
        blocker.close()

    with background(release):
        run(database, phase("one", transaction("one/a", "ALTER TABLE readings ADD x int")))
    assert states(database) == {"one/a": StepState.DONE}


def test_an_invalid_index_is_dropped_and_rebuilt_and_a_valid_one_kept(database: Target) -> None:
    create_readings(database, 10)
    ask(database, "ALTER TABLE readings ADD millilitres int DEFAULT 5")
    with pytest.raises(Exception, match="could not create unique index"):
        ask(database, "CREATE UNIQUE INDEX CONCURRENTLY readings_millilitres ON readings (millilitres)")
    assert ask(database, "SELECT indisvalid FROM pg_index WHERE indrelid = 'readings'::regclass ORDER BY 1") == [
        (False,),
        (True,),
    ]
    run(database, phase("one", step("one/index", INDEX)))
    built = ask(
        database,
        "SELECT indexrelid, indisvalid, indisunique FROM pg_index "
        "WHERE indexrelid::regclass::text = 'readings_millilitres'",
    )
    assert built[0][1:] == (True, False)
    # The ledger forgets, the catalog does not.
    ask(database, "UPDATE lockstep.step SET state = 'running' RETURNING 1")
    with open_runner(database, NAME) as runner:
        runner.run_phase("one", ignore)
    again = ask(database, "SELECT indexrelid FROM pg_index WHERE indexrelid::regclass::text = 'readings_millilitres'")
    assert again == [built[0][:1]]


def test_duplicates_stop_a_unique_index_and_leave_no_invalid_one(database: Target) -> None:
    create_readings(database, 200)
    unique = INDEX.model_copy(
        update={"statement": "CREATE UNIQUE INDEX CONCURRENTLY readings_millilitres ON public.readings (litres)"}
    )
    with pytest.raises(StepFailed, match="23505"):
        run(database, phase("one", step("one/index", unique)))
    assert ask(database, "SELECT to_regclass('readings_millilitres')::text") == [(None,)]


@pytest.mark.parametrize("moment", ["in the step", "after its commit"])
def test_a_terminated_backend_neither_loses_nor_repeats_a_step(database: Target, moment: str) -> None:
    create_readings(database, 10)
    wait = ("SELECT pg_sleep(1)",) if moment == "in the step" else ()
    work = transaction("one/a", "CREATE SEQUENCE runs", "UPDATE readings SET litres = litres + 1", *wait)

    def terminate() -> None:
        if moment == "in the step":
            wait_for(database, "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(1)'")
        else:
            wait_for(database, "SELECT count(*) FROM pg_class WHERE relname = 'runs'")
        ask(
            database,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name LIKE 'lockstep:work%' AND datname = current_database()",
        )

    with background(terminate):
        run(database, phase("one", work, transaction("one/b", "SELECT pg_sleep(1)")))
    assert states(database) == {"one/a": StepState.DONE, "one/b": StepState.DONE}
    assert ask(database, "SELECT sum(litres) FROM readings") == [(sum(range(1, 11)) + 10,)]
    assert ask(database, "SELECT token FROM lockstep.migration") == [(2,)]


def test_undo_goes_back_and_the_phase_can_be_run_again(database: Target) -> None:
    create_readings(database, 100)
    wanted = plan()
    run(database, *wanted.phases)
    with open_runner(database, NAME) as runner:
        for one in reversed(wanted.phases):
            runner.undo_phase(one.name, ignore)
    columns = "SELECT column_name::text FROM information_schema.columns WHERE table_name = 'readings'"
    assert ask(database, columns) == [("id",), ("litres",)]
    assert set(states(database).values()) == {StepState.UNDONE}
    assert ask(database, "SELECT count(*) FROM lockstep.progress") == [(0,)]
    with open_runner(database, NAME) as runner:
        for one in wanted.phases:
            runner.run_phase(one.name, ignore)
    assert ask(database, "SELECT count(*) FROM readings WHERE millilitres = litres * 1000") == [(100,)]


def test_an_irreversible_step_refuses_to_be_undone_but_only_if_it_ran(database: Target) -> None:
    create_readings(database, 1)
    drop = transaction("one/drop", "ALTER TABLE readings DROP COLUMN litres")
    drop = drop.model_copy(update={"undo": Irreversible(reason="the column is gone")})
    register(database, plan(phase("one", drop)))
    with open_runner(database, NAME) as runner:
        runner.undo_phase("one", ignore)
        runner.run_phase("one", ignore)
        with pytest.raises(RollbackRefused, match="the column is gone"):
            runner.undo_phase("one", ignore)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_the_sql_and_gives_the_lease_back(database: Target, number: signal.Signals) -> None:
    create_readings(database, 1)
    sleep = transaction("one/sleep", "SELECT pg_sleep(60)", statement_timeout_ms=0)
    register(database, plan(phase("one", sleep)))
    process = start_phase(database, "one", {})
    wait_for(database, "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'")
    process.send_signal(number)
    began = time.monotonic()
    while ask(
        database, "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'"
    ) != [(0,)]:
        assert time.monotonic() - began < 20, "the statement went on"
        time.sleep(0.05)
    assert process.wait(timeout=20) != 0
    process.communicate()
    assert ask(database, "SELECT count(*) FROM lockstep.lease") == [(0,)]
    assert ask(database, "SELECT state, error LIKE 'interrupted%' FROM lockstep.phase") == [("failed", True)]


@pytest.mark.parametrize(
    ("query", "shape"),
    [
        ("UPDATE t SET a = 'secret' WHERE id = 7", "UPDATE t SET a = …"),
        ("/* user=secret */ SELECT 1", "…"),
        (r"SELECT E'se\'cret', 'x'", "SELECT …"),
        ("SELECT $$secret$$", "SELECT …"),
        ("SELECT t1.a FROM t1", "SELECT t1.a FROM t1"),
    ],
)
def test_a_blockers_query_shows_no_value(query: str, shape: str) -> None:
    assert query_shape(query) == shape


def test_the_table_is_named_from_the_step_where_no_blocker_was_seen() -> None:
    from tasks.database.locks import lock_not_acquired

    error = lock_not_acquired("Step x", (READINGS,), (), tries=1, seconds=0)
    assert error.table == "public.readings"
