"""Sessions in the way: the application goes on behind Lockstep's request for a lock, and who blocks is named."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from tasks.database import progress
from tasks.database.connection import Target
from tasks.database.runner import open_runner
from tasks.planning.errors import LockNotAcquired
from tests.integration.filling import WRONG, expanded
from tests.integration.journey import IMPATIENT, execute, only
from tests.integration.synthetic import (
    CONTRACT_EXPAND,
    EXPAND,
    INDEX,
    NAME,
    ask,
    create_readings,
    ignore,
    phase,
    plan,
    register,
    step,
    transaction,
)

STALL_MS = 500
"""An application that gives up a statement after so long must not lose one; the step's own lock_timeout is 60 ms."""


class Probe:
    """Sessions that read and write one row each, again and again, and give up a statement after `STALL_MS`."""

    def __init__(self, target: Target) -> None:
        self.errors: list[str] = []
        self.statements = 0
        self._target = target
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in (11, 12)]

    def __enter__(self) -> Probe:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int) -> None:
        with psycopg.connect(self._target.conninfo, autocommit=True) as connection:
            connection.execute(f"SET lock_timeout = {STALL_MS}".encode())
            while not self._end.is_set():
                try:
                    connection.execute("UPDATE readings SET litres = litres WHERE id = %s", (number,))
                    connection.execute("SELECT litres FROM readings WHERE id = %s", (number,))
                    self.statements += 2
                except psycopg.Error as error:
                    self.errors.append(type(error).__name__)


@contextmanager
def idle_in_transaction(target: Target, statement: str, isolation: str = "READ COMMITTED") -> Iterator[int]:
    """A session of the application that did something, and then nothing any more."""
    with psycopg.connect(target.conninfo, application_name="forgotten") as session:
        session.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}".encode())
        session.execute(statement.encode())
        yield session.info.backend_pid


def refusal(target: Target, name: str) -> str:
    with open_runner(target, NAME, patience=IMPATIENT) as runner, pytest.raises(LockNotAcquired) as refused:
        runner.run_phase(name, ignore)
    return str(refused.value)


@pytest.mark.parametrize(
    "held",
    ["SELECT count(*) FROM readings", "UPDATE readings SET litres = 5 WHERE id = 3"],
)
def test_an_idle_transaction_delays_lockstep_and_never_the_application(database: Target, held: str) -> None:
    create_readings(database, 100)
    expand = transaction("expand/readings", *EXPAND, undo=CONTRACT_EXPAND, lock_timeout_ms=60)
    register(database, plan(phase("expand", expand)))
    with idle_in_transaction(database, held) as pid, Probe(database) as probe:
        refused = refusal(database, "expand")
    assert probe.errors == []
    assert probe.statements > 20
    assert f"pid {pid} (application forgotten" in refused
    assert f"pg_terminate_backend({pid})" in refused
    assert ask(database, "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == [(0,)]
    with open_runner(database, NAME) as runner:
        runner.run_phase("expand", ignore)
    assert only(database, "SELECT count(*) FROM readings WHERE lockstep_pending = 1") == 100


def test_an_index_build_that_waits_for_an_old_snapshot_names_it_and_writes_go_on(database: Target) -> None:
    create_readings(database, 500)
    execute(database, "ALTER TABLE readings ADD millilitres int DEFAULT 5")
    register(database, plan(phase("one", step("one/index", INDEX, statement_timeout_ms=3_000))))
    held = "SELECT count(*) FROM readings"
    with idle_in_transaction(database, held, "REPEATABLE READ") as pid, Probe(database) as probe:
        refused = refusal(database, "one")
    assert f"pid {pid} (application forgotten" in refused
    assert probe.errors == []
    with open_runner(database, NAME) as runner:
        runner.run_phase("one", ignore)
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'readings_millilitres'::regclass"
    assert only(database, valid) is True


def test_a_table_that_is_locked_for_a_while_in_mid_backfill_is_waited_for(
    database: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody's ALTER TABLE or VACUUM FULL: longer than a batch's lock_timeout, at whichever statement it comes."""
    monkeypatch.setattr(progress, "REPORT_SECONDS", 0)
    create_readings(database, 20_000)
    expanded(database)
    ended = threading.Event()

    def lock_now_and_then() -> None:
        with psycopg.connect(database.conninfo) as session:
            for _ in range(12):
                session.execute("LOCK TABLE readings IN ACCESS EXCLUSIVE MODE")
                time.sleep(0.12)
                session.commit()
                if ended.wait(0.03):
                    return

    with open_runner(database, NAME) as runner:
        locker = threading.Thread(target=lock_now_and_then)
        locker.start()
        try:
            runner.run_phase("backfill", ignore)
        finally:
            ended.set()
            locker.join()
    assert ask(database, WRONG) == [(0,)]
