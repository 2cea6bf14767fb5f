"""The runbook's scripts where something is in the way: they stop, say why, and go on when run again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from tasks.database import oracle
from tasks.database.connection import Target, connect
from tasks.database.ledger import Ledger, install
from tasks.database.runbook import scripts
from tasks.database.runner import open_runner
from tasks.planning.errors import MissingPrivilege, RunnerBusy
from tasks.planning.plan import Plan
from tasks.planning.states import MigrationState
from tests.conftest import AnyServer, _new_database
from tests.integration.by_hand import ByHand
from tests.integration.journey import eventually, only
from tests.integration.staging import written
from tests.integration.synthetic import ignore, register
from tests.integration.test_planner import hash_of

SCHEMA = """
CREATE TABLE item (id int PRIMARY KEY, a text NOT NULL, n int CHECK (n >= 0));
INSERT INTO item SELECT n, n::text, n FROM generate_series(1, 3000) AS n;
"""
CHANGE = """
ALTER TABLE item ADD COLUMN b int NOT NULL, DROP COLUMN a;
CREATE INDEX item_n ON item (n);
UPDATE item SET n = n + 1 WHERE id <= 10;
"""
REST = "soak: 1h\nmapping: {item.b: {up: 'a::int', down: {a: 'b::text'}}}"


@pytest.fixture(scope="module")
def planned(server: AnyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Target, Plan]]:
    with _new_database(server, "template0") as target:
        execute_in(target, SCHEMA)
        yield target, oracle.plan(written(tmp_path_factory.mktemp("spec"), "by-hand", CHANGE, REST), target)


@pytest.fixture
def hand(server: AnyServer, planned: tuple[Target, Plan], tmp_path: Path) -> Iterator[ByHand]:
    template, plan = planned
    with _new_database(server, template.name) as target:
        yield ByHand(target, tmp_path, scripts(plan))


def execute(hand: ByHand, text: str) -> None:
    execute_in(hand.target, text)


def execute_in(target: Target, text: str) -> None:
    with psycopg.connect(target.conninfo, autocommit=True) as connection:
        connection.execute(text.encode())


def test_a_phase_waits_for_the_one_before_it_and_going_back_for_the_one_behind(hand: ByHand) -> None:
    hand.must("00-prepare.sql")
    assert "phase expand is not done yet" in hand.run("02-backfill.sql").stderr
    hand.must("01-expand.sql", "02-backfill.sql")
    answer = hand.run("10-rollback-expand.sql")
    assert answer.returncode != 0
    assert "take backfill back first" in answer.stderr


def test_two_people_do_not_do_the_same_step(hand: ByHand) -> None:
    hand.must("00-prepare.sql", "01-expand.sql")
    with psycopg.connect(hand.target.conninfo) as application:
        application.execute("SELECT FROM item WHERE id = 5 FOR UPDATE")
        with ThreadPoolExecutor() as both:
            first = both.submit(hand.run, "02-backfill.sql")
            eventually(lambda: only(hand.target, "SELECT count(*) FROM item WHERE b IS NOT NULL") == 2999, "it works")
            answer = hand.run("02-backfill.sql")
            assert answer.returncode != 0
            assert "somebody else is carrying by-hand out" in answer.stderr
            assert "run this again" in first.result().stderr


def test_approval_is_asked_for(hand: ByHand) -> None:
    hand.must("00-prepare.sql", "01-expand.sql", "02-backfill.sql", "03-constrain.sql")
    answer = hand.run("04-switch.sql")
    assert answer.returncode != 0
    assert "not approved" in answer.stderr
    assert "May the new application version be deployed" in answer.stdout
    hand.must("04-switch.sql")


def test_rows_that_others_keep_locked_stop_the_batches_and_no_row_is_changed_twice(hand: ByHand) -> None:
    hand.must("00-prepare.sql", "01-expand.sql")
    with psycopg.connect(hand.target.conninfo) as application:
        application.execute("SELECT FROM item WHERE id IN (5, 2500) FOR UPDATE")
        answer = hand.run("02-backfill.sql")
        assert answer.returncode != 0
        assert "run this again" in answer.stderr
        assert only(hand.target, "SELECT count(*) FROM item WHERE b IS NULL") == 2
    hand.must("02-backfill.sql")
    assert only(hand.target, "SELECT count(*) FROM item WHERE b IS DISTINCT FROM id") == 0
    assert only(hand.target, "SELECT count(*) FROM item WHERE n <> id + CASE WHEN id <= 10 THEN 1 ELSE 0 END") == 0


def test_a_check_that_fails_stops_before_anything_is_done(hand: ByHand) -> None:
    hand.must("00-prepare.sql")
    execute(hand, "UPDATE item SET a = 'seven' WHERE id = 7")
    assert hand.run("01-expand.sql").returncode == 0  # the trigger will say of each row what cannot be brought over
    answer = hand.run("02-backfill.sql")
    assert answer.returncode != 0
    assert "invalid input syntax for type integer" in answer.stderr
    execute(hand, "UPDATE item SET a = '7' WHERE id = 7")
    hand.must("02-backfill.sql", "03-constrain.sql")
    execute(hand, "SET lockstep.direction = 'none'; UPDATE item SET b = 8 WHERE id = 7")
    answer = hand.run("03-constrain.sql")
    assert answer.returncode != 0
    assert "[7]" in answer.stderr


def test_an_index_that_a_failed_build_left_is_built_anew(hand: ByHand) -> None:
    hand.must("00-prepare.sql", "01-expand.sql", "02-backfill.sql")
    execute(
        hand,
        "CREATE INDEX item_n ON item (n); UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'item_n'::regclass",
    )
    hand.must("03-constrain.sql")
    assert only(hand.target, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'item_n'::regclass")


def test_the_way_back_brings_every_row_back(hand: ByHand, planned: tuple[Target, Plan]) -> None:
    _, plan = planned
    hand.must(*hand.forward(last="switch"))
    execute(hand, "INSERT INTO item (id, b, n) VALUES (4000, 4000, 1)")
    hand.must(*hand.back(hand.forward(last="switch")))
    assert hash_of(hand.target, plan) == plan.schema_before
    assert only(hand.target, "SELECT a FROM item WHERE id = 4000") == "4000"
    assert only(hand.target, "SELECT count(*) FROM item WHERE n <> id AND id < 4000") == 0


def test_what_lockstep_carries_out_is_not_carried_out_by_hand(hand: ByHand, planned: tuple[Target, Plan]) -> None:
    _, plan = planned
    hand.must("00-prepare.sql")
    register(hand.target, plan)
    with open_runner(hand.target, plan.name) as runner:
        runner.run_phase("expand", ignore)
    for script in ("00-prepare.sql", "01-expand.sql", "10-rollback-expand.sql"):
        answer = hand.run(script)
        assert answer.returncode != 0
        assert "is being carried out by Lockstep" in answer.stderr


def test_what_is_carried_out_by_hand_is_not_carried_out_by_lockstep(
    hand: ByHand, planned: tuple[Target, Plan], tmp_path: Path
) -> None:
    _, plan = planned
    register(hand.target, plan)
    hand.must("00-prepare.sql", "01-expand.sql")
    with connect(hand.target, role="test") as connection, pytest.raises(RunnerBusy, match="by hand"):
        Ledger(connection).set_state(plan.name, MigrationState.RUNNING)
    with pytest.raises(RunnerBusy, match="by hand"):
        oracle.plan(written(tmp_path, plan.name, CHANGE, REST), hand.target)
    with pytest.raises(RunnerBusy, match="item is in the middle of another migration"):
        oracle.plan(written(tmp_path, "another", "ALTER TABLE item ADD COLUMN c int;"), hand.target)
    hand.must("10-rollback-expand.sql")
    assert oracle.plan(written(tmp_path, plan.name, CHANGE, REST), hand.target).change_hash == plan.change_hash


def test_the_way_back_goes_on_where_it_stopped(database: Target, tmp_path: Path) -> None:
    hand = by_hand(database, tmp_path, "ALTER TABLE item DROP CONSTRAINT item_n_check;")
    dropping = next(name for name, text in hand.texts.items() if "DROP CONSTRAINT" in text)
    last = dropping.removesuffix(".sql").split("-")[1]
    hand.must(*hand.forward(last=last))
    execute(hand, "INSERT INTO item VALUES (4000, 'x', -1)")
    back = next(name for name in hand.names if name.endswith(f"-rollback-{last}.sql"))
    later = [name for name in hand.back(hand.forward(last=last)) if name != back]
    for _ in range(2):  # the constraint is there again since the first time, not valid
        answer = hand.run(back)
        assert answer.returncode != 0
        assert "violated by some row" in answer.stderr
    answer = hand.run(dropping, "-v", "approved=yes")
    assert answer.returncode != 0
    assert "half taken back" in answer.stderr
    execute(hand, "DELETE FROM item WHERE n < 0")
    hand.must(back, *later)
    assert only(database, "SELECT convalidated FROM pg_constraint WHERE conname = 'item_n_check'") is True


def test_both_shapes_run_for_the_time_agreed(hand: ByHand, planned: tuple[Target, Plan]) -> None:
    _, plan = planned
    assert plan.soak_seconds
    hand.must(*hand.forward(last="switch"))
    answer = hand.run("05-contract.sql", "-v", "approved=yes")
    assert answer.returncode != 0
    assert "both shapes have not run for" in answer.stderr
    execute(hand, f"UPDATE lockstep.runbook SET at = at - interval '{plan.soak_seconds} seconds'")
    assert hand.run("05-contract.sql", "-v", "approved=yes").returncode == 0


def test_a_transaction_that_looks_at_the_rows_unfilled_is_waited_for(database: Target, tmp_path: Path) -> None:
    hand = by_hand(database, tmp_path, "ALTER TABLE item ALTER n TYPE bigint;")
    hand.must("00-prepare.sql", "01-expand.sql")
    with psycopg.connect(database.conninfo) as report:
        report.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        report.execute("SELECT FROM pg_class LIMIT 1")
        hand.must("02-backfill.sql", "03-constrain.sql")
        ending = threading.Timer(2, report.rollback)
        ending.start()
        began = time.monotonic()
        hand.must("04-switch.sql")
        assert time.monotonic() - began >= 1.5
        ending.join()


def test_somebody_who_does_not_see_what_others_look_at_is_told(database: Target, tmp_path: Path) -> None:
    hand = by_hand(database, tmp_path, "ALTER TABLE item ALTER n TYPE bigint;")
    hand.must("00-prepare.sql", "01-expand.sql", "02-backfill.sql", "03-constrain.sql")
    execute(hand, "DROP ROLE IF EXISTS sightless; CREATE ROLE sightless LOGIN PASSWORD 'x'")
    execute(hand, "GRANT ALL ON SCHEMA lockstep TO sightless; GRANT ALL ON ALL TABLES IN SCHEMA lockstep TO sightless")
    execute(hand, "GRANT ALL ON SCHEMA public TO sightless; ALTER TABLE item OWNER TO sightless")
    url = psycopg.conninfo.make_conninfo(database.conninfo, user="sightless", password="x")
    blind = ByHand(Target("blind", url), tmp_path, hand.texts)
    answer = blind.run("04-switch.sql", "-v", "approved=yes")
    assert answer.returncode != 0
    assert "GRANT pg_monitor" in answer.stderr


def by_hand(target: Target, folder: Path, change: str) -> ByHand:
    execute_in(target, SCHEMA)
    return ByHand(target, folder, scripts(oracle.plan(written(folder, "by-hand", change), target)))


def test_a_role_that_may_not_read_the_ledger_is_told_what_to_grant(database: Target, tmp_path: Path) -> None:
    execute_in(database, SCHEMA)
    with connect(database, role="test") as connection:
        install(connection)
    execute_in(database, "DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN PASSWORD 'x'")
    reader = Target("reader", psycopg.conninfo.make_conninfo(database.conninfo, user="reader", password="x"))
    with pytest.raises(MissingPrivilege, match="may not read Lockstep's ledger") as told:
        oracle.plan(written(tmp_path, "reading", "ALTER TABLE item ADD COLUMN c int;"), reader)
    assert "GRANT USAGE ON SCHEMA lockstep" in told.value.grant
