"""The runbook's scripts where something is in the way: they stop, say why, and go on when run again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tasks.database import oracle
from tasks.database.connection import Target
from tasks.database.runbook import scripts
from tasks.database.runner import open_runner
from tasks.planning.plan import Plan
from tests.conftest import AnyServer, _new_database
from tests.integration.by_hand import ByHand
from tests.integration.journey import only
from tests.integration.staging import written
from tests.integration.synthetic import ignore, register
from tests.integration.test_planner import hash_of

SCHEMA = """
CREATE TABLE item (id int PRIMARY KEY, a text NOT NULL, n int);
INSERT INTO item SELECT n, n::text, n FROM generate_series(1, 3000) AS n;
"""
CHANGE = """
ALTER TABLE item ADD COLUMN b int NOT NULL, DROP COLUMN a;
CREATE INDEX item_n ON item (n);
UPDATE item SET n = n + 1 WHERE id <= 10;
"""
MAPPING = "mapping: {item.b: {up: 'a::int', down: {a: 'b::text'}}}"


@pytest.fixture(scope="module")
def planned(server: AnyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Target, Plan]]:
    with _new_database(server, "template0") as target:
        with psycopg.connect(target.conninfo, autocommit=True) as connection:
            connection.execute(SCHEMA.encode())
        yield target, oracle.plan(written(tmp_path_factory.mktemp("spec"), "by-hand", CHANGE, MAPPING), target)


@pytest.fixture
def hand(server: AnyServer, planned: tuple[Target, Plan], tmp_path: Path) -> Iterator[ByHand]:
    template, plan = planned
    with _new_database(server, template.name) as target:
        yield ByHand(target, tmp_path, scripts(plan))


def execute(hand: ByHand, text: str) -> None:
    with psycopg.connect(hand.target.conninfo, autocommit=True) as connection:
        connection.execute(text.encode())


def test_a_phase_waits_for_the_one_before_it_and_going_back_for_the_one_behind(hand: ByHand) -> None:
    hand.must("00-prepare.sql")
    assert "phase expand is not done yet" in hand.run("02-backfill.sql").stderr
    hand.must("01-expand.sql", "02-backfill.sql")
    answer = hand.run("10-rollback-expand.sql")
    assert answer.returncode != 0
    assert "take backfill back first" in answer.stderr


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
    register(hand.target, plan)
    with open_runner(hand.target, plan.name) as runner:
        runner.run_phase("expand", ignore)
    answer = hand.run("00-prepare.sql")
    assert answer.returncode != 0
    assert "is being carried out by Lockstep" in answer.stderr
