"""One runner: the lease, its takeover, the fencing token, lost connections."""

import os
import time

import psycopg
import pytest

from tasks.database.connection import Target
from tasks.database.failures import connection_lost
from tasks.database.lease import Lease, SessionLost
from tasks.planning.errors import LeaseLost, RunnerBusy, UnknownMigration
from tests.integration.synthetic import NAME, ask, plan, register

SECONDS = 1.0


def lease(target: Target) -> Lease:
    return Lease(target, NAME, seconds=SECONDS)


def end_backends(target: Target, like: str) -> None:
    ask(
        target,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        f"WHERE datname = current_database() AND application_name LIKE '{like}'",
    )


def test_a_second_runner_is_refused_and_told_who_runs(database: Target) -> None:
    register(database, plan())
    first, second = lease(database), lease(database)
    first.acquire()
    with pytest.raises(RunnerBusy, match=f"process {os.getpid()} on "):
        second.acquire()
    first.release()
    second.acquire()
    assert second.token > first.token
    second.release()
    assert ask(database, "SELECT count(*) FROM lockstep.lease") == [(0,)]
    assert ask(database, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]


def test_an_unknown_migration_has_no_lease(database: Target) -> None:
    register(database, plan(name="other"))
    with pytest.raises(UnknownMigration):
        lease(database).acquire()


def test_the_heartbeat_keeps_the_lease_beyond_its_length(database: Target) -> None:
    register(database, plan())
    first = lease(database)
    first.acquire()
    time.sleep(2.5 * SECONDS)
    first.check()
    with pytest.raises(RunnerBusy):
        lease(database).acquire()
    first.release()


def test_a_holder_without_heartbeat_is_replaced_and_its_sessions_are_ended(database: Target) -> None:
    register(database, plan())
    frozen, heir = lease(database), lease(database)
    frozen.acquire()
    work = frozen.session("work")
    pid = work.info.backend_pid
    assert frozen._pulse is not None
    frozen._pulse.stop()  # as a stopped process: everything stays open, nothing beats
    time.sleep(SECONDS * 0.5)
    began = time.monotonic()
    while True:
        try:
            heir.acquire()
            break
        except RunnerBusy:
            assert time.monotonic() - began < 10 * SECONDS
            time.sleep(0.1)
    assert ask(database, f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}") == [(0,)]
    with pytest.raises(LeaseLost):
        frozen.recover()
    heir.check()
    heir.release()


def test_the_old_token_is_refused_by_the_fence(database: Target) -> None:
    register(database, plan())
    first = lease(database)
    first.acquire()
    connection = first.session("work")
    ask(database, "UPDATE lockstep.migration SET token = token + 1 RETURNING token")
    with pytest.raises(LeaseLost), connection.transaction():
        first.fence(connection)
    first.release()


def test_raising_the_token_waits_for_a_commit_in_flight(database: Target) -> None:
    register(database, plan())
    first = lease(database)
    first.acquire()
    connection = first.session("work")
    with connection.transaction():
        first.fence(connection)
        with pytest.raises(Exception, match="lock timeout"):
            ask(database, "SET lock_timeout = '100ms'; UPDATE lockstep.migration SET token = token + 1")
    first.release()


def test_lost_connections_are_survived_with_a_higher_token(database: Target) -> None:
    register(database, plan())
    first = lease(database)
    first.acquire()
    first.session("work")
    before = first.token
    end_backends(database, "lockstep:lease%")
    end_backends(database, "lockstep:work%")
    time.sleep(SECONDS * 0.6)  # a heartbeat notices
    with pytest.raises(SessionLost) as lost:
        first.check()
    assert connection_lost(lost.value)
    first.recover()
    first.check()
    assert first.token > before
    assert first.session("work").execute("SELECT 1").fetchone() == (1,)
    first.release()


def test_a_frozen_transaction_is_ended_by_the_server(database: Target) -> None:
    register(database, plan())
    first = lease(database)
    first.acquire()
    connection = first.session("work")

    def freeze() -> None:
        with connection.transaction():
            connection.execute("LOCK TABLE lockstep.event IN ACCESS EXCLUSIVE MODE")
            time.sleep(SECONDS * 1.6)
            connection.execute("SELECT 1")

    with pytest.raises(psycopg.Error) as lost:
        freeze()
    assert connection_lost(lost.value)
    first.release()
