"""The throttle: the work waits while a limit is exceeded, says why, takes up what is asked for, and ends right."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tasks.database import throttle
from tasks.database.connection import Target, connect
from tasks.database.gauge import Gauge, Work
from tasks.database.ledger import VERSION, Ledger, install
from tasks.database.progress import Progress
from tasks.database.records import ThrottleRecord
from tasks.database.runner import open_runner
from tasks.database.server import EmbeddedServer
from tasks.planning import throttle as limits_module
from tasks.planning.errors import Waiting
from tasks.planning.states import MigrationState, PhaseState, StepState
from tasks.planning.throttle import Limits
from tests.integration.filling import WRONG, expanded
from tests.integration.synthetic import (
    FILL,
    NAME,
    ask,
    create_readings,
)
from tests.standby import standby_of

FILLED = "SELECT count(*) FROM readings WHERE lockstep_pending = 0"
ROWS = 3_000


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look ten times as often, so that a test need not last."""
    monkeypatch.setattr(throttle, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(throttle, "COST", 1)


def prepare(target: Target, rows: int = ROWS, **limits: Any) -> None:
    """Rows to fill, the migration registered with these limits, and its first phase carried out."""
    create_readings(target, rows)
    ask(target, "ANALYZE readings")
    expanded(target, throttle=Limits(**limits))


class Filling:
    """A backfill in a thread of its own; `until` looks at what it tells."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.told: list[Progress] = []
        self.error: Exception | None = None

    def _run(self) -> None:
        try:
            with open_runner(self._target, NAME) as runner:
                runner.run_phase("backfill", self.told.append)
        except Exception as error:  # noqa: BLE001 - raised again by `end`
            self.error = error

    def start(self) -> Filling:
        self._thread.start()
        return self

    def until(self, words: str) -> str:
        """Wait until it says that it waits for a reason with these words."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            found = [told.throttled for told in list(self.told) if words in told.throttled]
            if found:
                return found[-1]
            assert self.error is None, self.error
            time.sleep(0.02)
        raise AssertionError(self.told[-3:])

    def end(self) -> None:
        """Wait for its end and raise what it raised."""
        self._thread.join(timeout=40)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error


def seen(target: Target) -> ThrottleRecord:
    with connect(target, role="test") as connection:
        return Ledger(connection).throttle(NAME)


@contextmanager
def application(target: Target) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(target.conninfo, application_name="the application") as connection:
        yield connection


@pytest.mark.every_version
def test_an_idle_server_holds_nothing_back(database: Target) -> None:
    prepare(database)
    filling = Filling(database).start()
    filling.end()
    assert [told.throttled for told in filling.told if told.throttled] == []
    assert ask(database, WRONG) == [(0,)]
    load = seen(database).load
    assert load is not None
    assert (load.sees_all, load.lock_waiters, load.replicas) == (True, 0, ())


def test_own_sql_decides_and_the_ledger_says_so(database: Target) -> None:
    ask(database, "CREATE TABLE quiet (yes boolean)")
    prepare(database, sql=("SELECT true", "SELECT yes FROM quiet UNION ALL SELECT false LIMIT 1"))
    filling = Filling(database).start()
    assert filling.until("says no") == "the throttle's own SQL 2 says no"
    record = seen(database)
    assert record.reasons == ("the throttle's own SQL 2 says no",)
    assert record.since is not None
    assert ask(database, FILLED) == [(0,)]
    ask(database, "INSERT INTO quiet VALUES (true)")
    filling.end()
    assert ask(database, WRONG) == [(0,)]
    assert seen(database).reasons == ()
    assert seen(database).since is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SELECT yes FROM quiet", "failed (SQLSTATE 42P01)"),
        ("SELECT pg_sleep(60) IS NULL", "took longer than 100 ms"),
        ("SELECT 1", "no single true or false"),
        ("SELECT true WHERE false", "no single true or false"),
        ("SELECT nextval('numbers') > 0", "failed (SQLSTATE 25006)"),
        ("SELECT '100%s' LIKE '100%'", ""),
    ],
)
def test_own_sql_is_asked_read_only_and_briefly(
    database: Target, text: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.database.gauge.OWN_SQL_TIMEOUT_MS", 100)
    ask(database, "CREATE SEQUENCE numbers")
    with connect(database, role="throttle") as connection:
        load = Gauge().look(connection, Work(), (text,))
    assert load.objections == ()
    assert all(said.startswith("the throttle's own SQL 1 ") for said in load.failures)
    assert words in "".join(load.failures)
    assert bool(load.failures) == bool(words)


def test_own_sql_that_goes_on_failing_pauses_the_migration(database: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "FAILING_SECONDS", 0.5)
    prepare(database, sql=("SELECT yes FROM quiet",))
    filling = Filling(database).start()
    with pytest.raises(Waiting, match=r"paused by Lockstep.*SQLSTATE 42P01") as waiting:
        filling.end()
    assert (waiting.value.reason, waiting.value.phase) == ("pause", "backfill")
    assert ask(database, FILLED) == [(0,)]
    with connect(database, role="test") as connection:
        ledger = Ledger(connection)
        ledger.set_limits(NAME, {"sql": []}, who="test")
        assert ledger.resume(NAME, who="test")
    Filling(database).start().end()
    assert ask(database, WRONG) == [(0,)]


def test_lock_waiters_are_waited_for(database: Target) -> None:
    prepare(database, lock_waiters=0)
    ask(database, "CREATE TABLE other (id int)")
    with application(database) as holder, application(database) as waiter:
        holder.execute("LOCK TABLE other")
        thread = threading.Thread(target=lambda: waiter.execute("SELECT 1 FROM other"))
        thread.start()
        filling = Filling(database).start()
        assert filling.until("wait for locks") == "1 sessions wait for locks, limit 0"
        holder.rollback()
        thread.join()
    filling.end()
    assert ask(database, WRONG) == [(0,)]


def test_active_sessions_are_waited_for(database: Target) -> None:
    prepare(database, active_sessions=0)
    with application(database) as busy:
        thread = threading.Thread(target=sleep, args=(busy,))
        thread.start()
        filling = Filling(database).start()
        filling.until("1 sessions are active, limit 0")
        busy.cancel_safe()
        thread.join()
    filling.end()
    assert ask(database, WRONG) == [(0,)]


def sleep(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    with contextlib.suppress(psycopg.errors.QueryCanceled):
        connection.execute("SELECT pg_sleep(60)")


def test_the_wal_rate_is_kept_on_average(database: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    # So few rows are filled before the second look of a fast machine.
    monkeypatch.setattr("tasks.database.throttle.LOOK_SECONDS", 0.02)
    prepare(database, rows=20_000, wal_rate="1MB/s")
    began, before = time.monotonic(), wal(database)
    filling = Filling(database).start()
    filling.until("of WAL, limit 1 MB/s")
    filling.end()
    rate = (wal(database) - before) / (time.monotonic() - began)
    assert rate < 1.5 * 2**20
    assert ask(database, WRONG) == [(0,)]


def wal(target: Target) -> int:
    return int(str(ask(target, "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")[0][0]))


@pytest.mark.every_version
@pytest.mark.parametrize("kind", ["physical", "logical"])
def test_a_slot_that_holds_wal_back_is_named(database: Target, kind: str) -> None:
    if kind == "logical" and ask(database, "SHOW wal_level") != [("logical",)]:
        pytest.skip("the server's wal_level is not logical")
    name = f"abandoned_{kind}"
    options = {"physical": f"'{name}', true", "logical": f"'{name}', 'pgoutput'"}
    prepare(database, slot_lag="8kB", rows=20_000)
    ask(database, f"SELECT pg_create_{kind}_replication_slot({options[kind]})")
    try:
        filling = Filling(database).start()
        assert f"the inactive replication slot {name} holds back" in filling.until("limit 8 kB")
    finally:
        ask(database, f"SELECT pg_drop_replication_slot('{name}')")
    filling.end()
    assert ask(database, WRONG) == [(0,)]


def test_a_slot_that_is_to_be_ignored_is(database: Target) -> None:
    prepare(database, slot_lag="8kB", ignore=("known",))
    ask(database, "SELECT pg_create_physical_replication_slot('known', true)")
    try:
        filling = Filling(database).start()
        filling.end()
    finally:
        ask(database, "SELECT pg_drop_replication_slot('known')")
    assert [told for told in filling.told if told.throttled] == []


@pytest.mark.every_version
def test_an_old_snapshot_bounds_the_bloat_and_is_named(database: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "LEAST_DEAD_ROWS", 1_000)
    prepare(database, rows=20_000, dead_rows="10%", rows_per_second=20_000)
    with application(database) as report:
        report.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        report.execute("SELECT count(*) FROM readings")
        filling = Filling(database).start()
        said = filling.until("dead rows of public.readings cannot be removed, limit 2,000")
        assert f"pid {report.info.backend_pid} (application the application" in said
        assert "idle in transaction" in said
        time.sleep(0.5)
        (filled,) = ask(database, FILLED)[0]
        assert isinstance(filled, int)
        assert 2_000 < filled < 20_000
    filling.end()
    assert ask(database, WRONG) == [(0,)]


def test_a_snapshot_of_another_database_bounds_nothing(database: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "LEAST_DEAD_ROWS", 100)
    prepare(database, dead_rows="1%")
    with psycopg.connect(make_conninfo(database.conninfo, dbname="postgres")) as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT 1 FROM pg_class")
        filling = Filling(database).start()
        filling.end()
    assert [told.throttled for told in filling.told if told.throttled] == []


def test_limits_change_while_it_runs(database: Target) -> None:
    prepare(database, rows=20_000, rows_per_second=200)
    began = time.monotonic()
    filling = Filling(database).start()
    until(lambda: ask(database, FILLED) != [(0,)])
    time.sleep(1)
    (filled,) = ask(database, FILLED)[0]
    assert isinstance(filled, int)
    # The first batch has 500 rows, before there is a rate; without the limit all 20,000 are filled by now.
    assert filled <= 500 + 200 * (time.monotonic() - began + 1)
    with connect(database, role="test") as connection:
        Ledger(connection).set_limits(NAME, {"rows_per_second": "off"}, who="test")
    changed = time.monotonic()
    filling.end()
    assert time.monotonic() - changed < 60, "at the former limit it would take 100 seconds"
    assert ask(database, WRONG) == [(0,)]


def test_another_throttle_in_the_spec_counts_from_the_next_run_on(database: Target) -> None:
    prepare(database, rows_per_second=1)
    with connect(database, role="test") as connection:
        ledger = Ledger(connection)
        ledger.set_state(NAME, MigrationState.RUNNING)
        changed = ledger.known_migration(NAME).plan.model_copy(update={"throttle": Limits(lock_waiters=3)})
        assert ledger.register(changed, "text").plan.throttle.lock_waiters == 3
        assert ledger.events(NAME)[-1].kind == "limits"
    began = time.monotonic()
    Filling(database).start().end()
    assert time.monotonic() - began < 20
    assert ask(database, WRONG) == [(0,)]


def test_a_pause_ends_the_run_between_batches_and_leaves_nothing_behind(database: Target) -> None:
    prepare(database, rows=20_000, rows_per_second=2_000)
    filling = Filling(database).start()
    until(lambda: ask(database, FILLED) != [(0,)])
    with connect(database, role="test") as connection:
        ledger = Ledger(connection)
        ledger.pause(NAME, who="me@here", why="the evening's peak")
        asked = time.monotonic()
        with pytest.raises(Waiting, match=r"paused by me@here since .*: the evening's peak") as waiting:
            filling.end()
        assert time.monotonic() - asked < 5, "at the limit the rest would take 10 seconds"
        assert "lockstep resume" in str(waiting.value.remedy)
        assert ledger.holder(NAME) is None
        assert {found.phase: found.state for found in ledger.phases(NAME)}["backfill"] is PhaseState.RUNNING
        assert ledger.step(NAME, FILL).state is StepState.RUNNING
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' OR relation = 'readings'::regclass"
        assert ask(database, held) == [(0,)]
        with pytest.raises(Waiting, match="paused"):
            Filling(database).start().end()
        (done,) = ask(database, FILLED)[0]
        assert ledger.resume(NAME, who="me@here")
        assert not ledger.resume(NAME, who="me@here")
        ledger.set_limits(NAME, {"rows_per_second": "off"}, who="test")
        assert [event.kind for event in ledger.events(NAME)][-3:] == ["paused", "resumed", "limits"]
    Filling(database).start().end()
    assert isinstance(done, int)
    assert 0 < done < 20_000
    assert ask(database, WRONG) == [(0,)]


def test_a_replica_that_stands_still_is_waited_for_and_one_that_is_gone_is_not(own_server: EmbeddedServer) -> None:
    target = Target("test", own_server.url("postgres"))
    prepare(target, rows=20_000, replication_lag="500ms", rows_per_second=4_000)
    with standby_of(own_server) as standby:
        ask(standby, "SELECT pg_wal_replay_pause()")
        filling = Filling(target).start()
        said = filling.until("behind, limit 0.5 s")
        assert said.startswith("the replica walreceiver is ")
        (filled,) = ask(target, FILLED)[0]
        time.sleep(0.5)
        assert ask(target, FILLED) == [(filled,)]
        ask(standby, "SELECT pg_wal_replay_resume()")
        until(lambda: ask(target, FILLED) != [(filled,)])
        told = len(filling.told)
        ask(standby, "SELECT pg_wal_replay_pause()")
        until(lambda: any(progress.throttled for progress in filling.told[told:]))
    filling.end()
    assert ask(target, WRONG) == [(0,)]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_ledger_of_version_1_is_read_and_brought_up(database: Target) -> None:
    prepare(database)
    ask(database, "DROP TABLE lockstep.throttle; UPDATE lockstep.version SET version = 1")
    with connect(database, role="test") as connection:
        assert Ledger(connection).throttle(NAME) == ThrottleRecord()
        install(connection)
        Ledger(connection).pause(NAME, who="me")
        assert Ledger(connection).throttle(NAME).paused_by == "me"
    assert ask(database, "SELECT max(version) FROM lockstep.version") == [(VERSION,)]


def test_a_role_that_may_not_look_says_so_and_still_counts_waiters(database: Target) -> None:
    ask(
        database, "DROP ROLE IF EXISTS shortsighted; CREATE ROLE shortsighted LOGIN PASSWORD 'x'; CREATE TABLE other ()"
    )
    own = Target("test", make_conninfo(database.conninfo, user="shortsighted", password="x"))
    with application(database) as holder, application(database) as waiter, connect(own, role="throttle") as connection:
        holder.execute("LOCK TABLE other")
        thread = threading.Thread(target=lambda: waiter.execute("SELECT 1 FROM other"))
        thread.start()
        deadline = time.monotonic() + 10
        while (load := Gauge().look(connection, Work(), ())).lock_waiters != 1:
            assert time.monotonic() < deadline
        assert (load.sees_all, load.active_sessions, load.failures) == (False, None, ())
        holder.rollback()
        thread.join()
    ask(database, "DROP ROLE shortsighted")
