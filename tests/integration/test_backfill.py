"""The backfill: every unfilled row, no other row, whatever happens meanwhile."""

import signal
import threading
import time

import psycopg
import pytest

from tasks.database.connection import Target, connect
from tasks.database.ledger import Ledger
from tasks.database.locks import Patience
from tasks.database.runner import open_runner
from tasks.database.server import EmbeddedServer, start
from tasks.planning.errors import LockNotAcquired, SyncFailing
from tests.integration.filling import WRONG, expanded, fill
from tests.integration.synthetic import (
    FILL,
    NAME,
    ask,
    backfill,
    create_readings,
    ignore,
    start_phase,
)

IMPATIENT = Patience(tries=3, seconds=5, first_wait=0.05, longest_wait=0.1)


def test_every_row_is_filled_and_progress_ends_at_the_total(database: Target) -> None:
    create_readings(database, 20_000)
    expanded(database)
    told = fill(database)
    assert ask(database, WRONG) == [(0,)]
    assert (told[-1].rows_done, told[-1].eta_seconds) == (20_000, 0)
    assert told[-1].table == "public.readings"


def test_a_row_that_is_in_step_is_not_touched(database: Target) -> None:
    create_readings(database, 1_000)
    expanded(database)
    ask(
        database,
        "SET lockstep.direction = 'none'; UPDATE readings SET millilitres = 7, lockstep_pending = 0 WHERE id = 500;"
        "UPDATE readings SET millilitres = 8, lockstep_pending = 2 WHERE id = 501",
    )
    fill(database)
    found = ask(database, "SELECT millilitres, lockstep_pending FROM readings WHERE id IN (500, 501) ORDER BY id")
    assert found == [(7, 0), (8, 2)]


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("('x' || chr(65 + (n * 7 % 50)) || n)", "text"),
        ("md5(n::text)::uuid", "uuid"),
        ("(n - 1500) * 1000003", "bigint"),
        ("n / 7.0", "numeric"),
        ("timestamptz '2024-03-31 00:00+00' + n * interval '1 minute'", "timestamptz"),
    ],
)
def test_keys_of_other_types_with_gaps_and_signs(database: Target, column: str, kind: str) -> None:
    ask(
        database,
        f'CREATE TABLE readings ("Key %s" {kind} PRIMARY KEY, litres int);'
        f"INSERT INTO readings SELECT {column}, n % 90 FROM generate_series(1, 3000) AS n",
    )
    names = {"timestamptz": "timestamp with time zone"}
    expanded(database, backfill(key=("Key %s",), types=(names.get(kind, kind),)))
    fill(database)
    assert ask(database, WRONG) == [(0,)]


def test_a_composite_key_and_an_expression_with_percent(database: Target) -> None:
    ask(
        database,
        "CREATE TABLE readings (a text, b int, litres int, PRIMARY KEY (a, b));"
        "INSERT INTO readings SELECT 'k' || n % 3, n, n % 90 FROM generate_series(1, 3000) AS n",
    )
    expanded(database, backfill("litres * 1000 + 100 % 10", key=("a", "b"), types=("text", "integer")))
    fill(database)
    assert ask(database, WRONG) == [(0,)]


def test_a_partitioned_table_is_filled_by_key(database: Target) -> None:
    ask(
        database,
        "CREATE TABLE readings (id bigint PRIMARY KEY, litres int) PARTITION BY RANGE (id);"
        "CREATE TABLE p1 PARTITION OF readings FOR VALUES FROM (0) TO (500);"
        "CREATE TABLE p2 PARTITION OF readings DEFAULT;"
        "INSERT INTO readings SELECT n, n % 90 FROM generate_series(1, 1000) AS n",
    )
    expanded(database)
    fill(database)
    assert ask(database, WRONG) == [(0,)]


def test_writers_lose_nothing_and_wait_for_nothing_long(database: Target) -> None:
    create_readings(database, 30_000)
    expanded(database)
    stop = threading.Event()
    stalls: list[float] = []

    def write() -> None:
        with psycopg.connect(database.conninfo, autocommit=True) as connection:
            number = 0
            while not stop.is_set():
                number += 1
                began = time.monotonic()
                connection.execute("UPDATE readings SET litres = litres + 1 WHERE id = %s", (number * 97 % 30_000 + 1,))
                connection.execute("UPDATE readings SET id = -id WHERE id = %s", (number * 193 % 30_000 + 1,))
                connection.execute("INSERT INTO readings VALUES (%s, 5)", (100_000 + number,))
                connection.execute("DELETE FROM readings WHERE id = %s", (number * 389 % 30_000 + 1,))
                stalls.append(time.monotonic() - began)

    thread = threading.Thread(target=write)
    thread.start()
    fill(database)
    stop.set()
    thread.join()
    assert ask(database, WRONG) == [(0,)]
    assert len(stalls) > 10
    assert max(stalls) < 5


def test_a_locked_row_is_swept_when_it_becomes_free(database: Target) -> None:
    create_readings(database, 500)
    expanded(database)
    blocker = psycopg.connect(database.conninfo)
    blocker.execute("SELECT 1 FROM readings WHERE id = 7 FOR UPDATE")
    timer = threading.Timer(1.0, blocker.close)
    timer.start()
    fill(database)
    timer.join()
    assert ask(database, WRONG) == [(0,)]


def test_a_row_that_stays_locked_stops_the_backfill_and_names_the_holder(database: Target) -> None:
    create_readings(database, 500)
    expanded(database)
    with psycopg.connect(database.conninfo, application_name="the holder") as blocker:
        blocker.execute("SELECT 1 FROM readings WHERE id = 7 FOR UPDATE")
        with pytest.raises(LockNotAcquired, match="the holder"):
            fill(database, IMPATIENT)
        assert ask(database, WRONG) == [(1,)]
    fill(database)
    assert ask(database, WRONG) == [(0,)]


def test_rows_that_fail_are_recorded_once_and_left_and_resolved_when_repaired(database: Target) -> None:
    create_readings(database, 3_000)
    ask(database, "UPDATE readings SET litres = 0 WHERE id IN (5, 1700, 1701)")
    ask(database, "UPDATE readings SET litres = 1 WHERE litres = 0 AND id NOT IN (5, 1700, 1701)")
    expanded(database, backfill("litres * 1000 + 0 / litres"))
    fill(database)
    with connect(database, role="test") as connection:
        ledger = Ledger(connection)
        (found,) = ledger.failures(NAME)
        assert (found.count, found.sample) == (3, ("[1700]", "[1701]", "[5]"))
        assert connection.execute("SELECT DISTINCT sqlstate FROM lockstep.sync_failure").fetchall() == [("22012",)]
    assert ask(database, "SELECT count(*) FROM readings WHERE lockstep_pending <> 0") == [(3,)]
    ask(database, "UPDATE readings SET litres = 2 WHERE id = 5; UPDATE lockstep.step SET state = 'running' RETURNING 1")
    fill(database)
    assert ask(database, "SELECT count(*) FROM lockstep.sync_failure WHERE resolved_at IS NULL") == [(2,)]
    assert ask(database, "SELECT count(*) FROM lockstep.sync_failure") == [(3,)]


def test_a_personal_key_is_recorded_as_its_md5(database: Target) -> None:
    create_readings(database, 3)
    expanded(database, backfill("litres / (id - 2)::int", personal_key=True))
    fill(database)
    assert ask(database, "SELECT key = md5('[2]') FROM lockstep.sync_failure") == [(True,)]


def test_a_mapping_that_fails_on_more_than_1000_rows_stops(database: Target) -> None:
    create_readings(database, 1_500)
    expanded(database, backfill("litres / 0"))
    with pytest.raises(SyncFailing, match="1,000") as failing:
        fill(database)
    assert failing.value.failures == 1_001
    assert ask(database, "SELECT count(*) FROM readings WHERE lockstep_pending <> 0") == [(1_500,)]


def test_a_killed_backfill_is_resumed_and_ends_with_the_same_rows(database: Target) -> None:
    create_readings(database, 20_000)
    expanded(database)
    process = start_phase(database, "backfill", {"LOCKSTEP_CRASH_AT": f"during:{FILL}:3"})
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    (done,) = ask(database, "SELECT rows_done FROM lockstep.progress")[0]
    assert isinstance(done, int)
    assert 0 < done < 20_000
    told = fill(database)
    assert ask(database, WRONG) == [(0,)]
    assert told[-1].rows_done == 20_000


def test_a_server_restarted_in_the_middle_is_survived(own_server: EmbeddedServer) -> None:
    target = Target("test", own_server.url("postgres"))
    create_readings(target, 60_000)
    expanded(target)

    def restart() -> None:
        deadline = time.monotonic() + 20
        while ask(target, "SELECT count(*) FROM lockstep.progress WHERE rows_done > 0") == [(0,)]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        own_server.stop()
        start(own_server.major, own_server.folder)

    thread = threading.Thread(target=restart)
    thread.start()
    with open_runner(target, NAME) as runner:
        before = runner.token
        runner.run_phase("backfill", ignore)
        thread.join()
        assert runner.token > before
    assert ask(target, WRONG) == [(0,)]
