"""UPDATE and DELETE in a change, and columns computed for each row: planned, carried out, taken back."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import psycopg
import pytest

from tasks.database import oracle
from tasks.database.connection import Target, connect
from tasks.database.crash import VARIABLE
from tasks.database.ledger import Ledger
from tasks.database.locks import Patience
from tasks.database.runner import open_runner
from tasks.planning.errors import LockNotAcquired, MigrationError, SpecError, StepFailed
from tasks.planning.plan import DeleteRows, Plan, UpdateRows
from tests.integration.lossy_proxy import lossy
from tests.integration.staging import written
from tests.integration.synthetic import ask, ignore, start_phase

ROWS = 3_000
SCHEMA = f"""
CREATE TABLE shop (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE item (
    id bigint PRIMARY KEY, shop_id int REFERENCES shop, n int NOT NULL DEFAULT 0, price numeric(8,2), label text,
    half int GENERATED ALWAYS AS (n / 2) STORED
);
CREATE TABLE line (id int PRIMARY KEY, item_id bigint REFERENCES item ON DELETE CASCADE);
CREATE TABLE pair ("Key 50%" text, part uuid, v text, UNIQUE ("Key 50%", part));
ALTER TABLE pair ALTER "Key 50%" SET NOT NULL, ALTER part SET NOT NULL;
CREATE TABLE keyless (a int);
CREATE TABLE code (id int PRIMARY KEY, code text UNIQUE, place int UNIQUE DEFERRABLE);
CREATE TABLE follower (id int PRIMARY KEY, code text UNIQUE REFERENCES code (code) ON UPDATE CASCADE);
CREATE TABLE forgetter (id int PRIMARY KEY, code text REFERENCES follower (code) ON UPDATE SET NULL);
CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree);
INSERT INTO shop SELECT n, 'shop ' || n FROM generate_series(1, 9) AS n;
INSERT INTO item SELECT n, n % 9 + 1, n % 10, n, 'label ' || n % 50 FROM generate_series(1, {ROWS}) AS n;
INSERT INTO pair SELECT 'k' || n % 7, md5(n::text)::uuid, n::text FROM generate_series(1, 300) AS n;
"""
REST = "approvals: []\n"


@pytest.fixture
def shop(database: Target) -> Target:
    ask(database, SCHEMA)
    return database


def plan_of(target: Target, folder: Path, change: str, rest: str = REST) -> Plan:
    found = oracle.plan(written(folder, "data", change, rest), target)
    with connect(target, role="test") as connection:
        Ledger(connection).register(found, "name: data\n")
    return found


def run(target: Target, *phases: str) -> None:
    with open_runner(target, "data") as runner:
        for phase in phases:
            runner.run_phase(phase, ignore)
            runner.finish_phase(phase)


def go_back(target: Target, *phases: str) -> None:
    with open_runner(target, "data") as runner:
        for phase in phases:
            runner.undo_phase(phase, ignore)


def content(target: Target, table: str = "item") -> list[tuple[object, ...]]:
    return ask(target, f"SELECT md5(string_agg(t::text, ',' ORDER BY t::text)), count(*) FROM {table} AS t")


def kept(target: Target) -> list[str]:
    found = ask(target, "SELECT relname FROM pg_class WHERE relname LIKE 'lockstep_kept%' AND relkind = 'r'")
    return [f"lockstep.{row[0]}" for row in found]


# ------------------------------------------------------------------------------------------------ populating


@pytest.mark.every_version
def test_an_update_of_a_new_column_is_its_up_and_the_column_can_be_not_null(shop: Target, tmp_path: Path) -> None:
    plan = plan_of(
        shop, tmp_path,
        """
        ALTER TABLE item ADD COLUMN gross numeric(8,2);
        UPDATE item SET gross = price * 2 WHERE n >= 5 AND gross IS NULL;
        UPDATE item SET gross = price WHERE gross IS NULL;
        ALTER TABLE item ALTER COLUMN gross SET NOT NULL;
        """,
    )  # fmt: skip
    (group,) = plan.groups
    assert group.new == ("gross",)
    assert not any(isinstance(step.action, UpdateRows) for phase in plan.phases for step in phase.steps)
    run(shop, "expand", "backfill", "constrain", "switch")
    ask(shop, "INSERT INTO item (id, n, price) VALUES (-1, 5, 7), (-2, 4, 7); UPDATE item SET price = 3 WHERE id = 1")
    assert ask(shop, "SELECT id, gross FROM item WHERE id < 2 ORDER BY id") == [(-2, 7), (-1, 14), (1, 3)]
    run(shop, "contract")
    assert ask(shop, "SELECT count(*) FROM item WHERE gross <> CASE WHEN n >= 5 THEN price * 2 ELSE price END") == [
        (0,)
    ]
    with pytest.raises(psycopg.errors.NotNullViolation):
        ask(shop, "UPDATE item SET gross = NULL WHERE id = 1")


def test_a_mapping_that_says_something_else_than_the_update_is_refused(shop: Target, tmp_path: Path) -> None:
    change = "ALTER TABLE item ADD COLUMN gross numeric; UPDATE item SET gross = price * 2;"
    with pytest.raises(SpecError, match="own UPDATE"):
        plan_of(shop, tmp_path, change, 'mapping: {item.gross: {up: "price * 3"}}')
    assert plan_of(shop, tmp_path, change, 'mapping: {item.gross: {up: "price*2"}}').groups


# ------------------------------------------------------------------------------------------------ defaults


@pytest.mark.every_version
def test_a_volatile_default_gives_each_row_its_own_value_without_a_rewrite(shop: Target, tmp_path: Path) -> None:
    file = ask(shop, "SELECT pg_relation_filenode('item')")
    plan = plan_of(
        shop, tmp_path,
        """
        ALTER TABLE item ADD COLUMN token uuid NOT NULL DEFAULT gen_random_uuid() UNIQUE;
        ALTER TABLE item ADD COLUMN seen timestamptz DEFAULT clock_timestamp(), ADD COLUMN at date DEFAULT now();
        """,
    )  # fmt: skip
    assert plan.strategy == "direct"
    run(shop, "expand")
    ask(shop, "INSERT INTO item (id) VALUES (-1); UPDATE item SET n = 9 WHERE id = 1")
    assert ask(shop, "SELECT token IS NULL, seen IS NULL, at IS NULL FROM item WHERE id IN (-1, 1) ORDER BY id") == [
        (False, False, False), (True, True, False),
    ]  # fmt: skip
    run(shop, "backfill", "constrain")
    assert ask(shop, "SELECT count(DISTINCT token), count(DISTINCT seen) > 9, count(at) FROM item") == [
        (ROWS + 1, True, ROWS + 1)
    ]
    assert ask(shop, "SELECT pg_relation_filenode('item')") == file
    go_back(shop, "constrain", "backfill", "expand")
    assert ask(shop, "SELECT count(*) FROM item") == [(ROWS + 1,)]


def test_a_default_set_apart_is_for_later_rows_and_the_update_for_those_there(shop: Target, tmp_path: Path) -> None:
    plan_of(
        shop, tmp_path,
        """
        ALTER TABLE item ADD COLUMN state text;
        UPDATE item SET state = CASE WHEN n > 5 THEN 'many' ELSE 'few' END WHERE state IS NULL;
        ALTER TABLE item ALTER state SET DEFAULT 'new', ALTER state SET NOT NULL, ADD CHECK (state <> 'none');
        """,
    )  # fmt: skip
    run(shop, "expand")
    ask(shop, "INSERT INTO item (id) VALUES (-1); UPDATE item SET n = 9 WHERE id = 1")
    run(shop, "backfill", "constrain", "contract")
    found = ask(shop, "SELECT state, count(*) FROM item GROUP BY state ORDER BY state")
    assert found == [("few", ROWS * 6 // 10 - 1), ("many", ROWS * 4 // 10 + 1), ("new", 1)]
    assert kept(shop) == []


# ------------------------------------------------------------------------------------------------ rows

CHANGE = """
UPDATE item AS i SET n = i.n + 1, label = label || '%'
 WHERE i.n % 2 = 0 AND shop_id IN (SELECT id FROM shop WHERE id < 7);
DELETE FROM pair WHERE v::int % 3 = 0;
"""
PLAINLY = CHANGE


@pytest.mark.every_version
def test_rows_are_changed_as_the_statements_say_and_come_back(shop: Target, tmp_path: Path) -> None:
    before = (content(shop), content(shop, "pair"))
    ask(shop, "CREATE SCHEMA plain; CREATE TABLE plain.item AS TABLE item; CREATE TABLE plain.pair AS TABLE pair")
    with connect(shop, role="test") as connection:
        connection.execute("SET search_path TO plain, public")
        connection.execute(PLAINLY.encode())
    plan = plan_of(shop, tmp_path, CHANGE)
    assert [phase.name for phase in plan.phases] == ["expand", "backfill", "contract"]
    run(shop, "expand", "backfill")
    columns = "id, shop_id, n, price, label"
    assert ask(shop, f"(SELECT {columns} FROM item EXCEPT SELECT {columns} FROM plain.item) UNION ALL "
                     f"(SELECT {columns} FROM plain.item EXCEPT SELECT {columns} FROM item)") == []  # fmt: skip
    assert ask(shop, "SELECT count(*) FROM pair") == ask(shop, "SELECT count(*) FROM plain.pair")
    go_back(shop, "backfill", "expand")
    assert (content(shop), content(shop, "pair")) == before
    assert kept(shop) == []
    run(shop, "expand", "backfill", "contract")
    assert kept(shop) == []
    assert ask(shop, "SELECT count(*) FROM information_schema.columns WHERE column_name LIKE 'lockstep%' "
                     "AND table_schema = 'public'") == [(0,)]  # fmt: skip


def test_what_follows_by_cascade_comes_back_and_so_does_a_tree_whose_references_were_cleared(
    shop: Target, tmp_path: Path
) -> None:
    ask(shop, "DROP TABLE forgetter; INSERT INTO code SELECT n, 'c' || n, n FROM generate_series(1, 3) AS n")
    ask(shop, "INSERT INTO follower SELECT id, code FROM code")
    ask(shop, f"INSERT INTO tree SELECT n, nullif(n - 1, 0) FROM generate_series(1, {ROWS}) AS n")
    tables = ("code", "follower", "tree")
    before = [content(shop, table) for table in tables]
    plan_of(
        shop, tmp_path,
        """
        UPDATE code SET code = upper(code);
        UPDATE tree SET parent = NULL WHERE id > 10;
        DELETE FROM tree WHERE id > 10;
        """,
    )  # fmt: skip
    run(shop, "expand", "backfill")
    assert ask(shop, "SELECT string_agg(code, ' ' ORDER BY id) FROM follower") == [("C1 C2 C3",)]
    assert ask(shop, "SELECT count(*) FROM tree") == [(10,)]
    go_back(shop, "backfill", "expand")
    assert [content(shop, table) for table in tables] == before


def test_what_the_application_writes_after_the_change_wins_over_going_back(shop: Target, tmp_path: Path) -> None:
    plan_of(shop, tmp_path, "UPDATE item SET n = n + 100 WHERE n < 5; DELETE FROM pair WHERE v::int <= 2;")
    run(shop, "expand", "backfill")
    ask(shop, "UPDATE item SET n = 7 WHERE id = 1; DELETE FROM item WHERE id = 2; UPDATE item SET id = -3 WHERE id = 3;"
              "UPDATE item SET label = 'mine' WHERE id = 4;"
              "INSERT INTO pair VALUES ('k1', md5('1')::uuid, 'mine')")  # fmt: skip
    go_back(shop, "backfill")
    assert ask(shop, "SELECT id, n, label = 'mine' FROM item WHERE id < 5 ORDER BY id") == [
        (-3, 103, False), (1, 7, False), (4, 4, True),
    ]  # fmt: skip
    assert ask(shop, "SELECT v FROM pair WHERE part IN (md5('1')::uuid, md5('2')::uuid) ORDER BY v") == [
        ("2",), ("mine",),
    ]  # fmt: skip
    events = ask(shop, "SELECT detail FROM lockstep.event WHERE kind = 'taken_back' ORDER BY detail->>'step'")
    assert [(e[0]["rows"], e[0]["left to the application"]) for e in events] == [  # type: ignore[index]
        (ROWS // 2 - 3, 3), (1, 1),
    ]  # fmt: skip


def test_a_row_is_changed_once_whatever_becomes_of_its_key(
    shop: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moved ahead of the cursor after its change, behind it before; locked, and changed while it was locked."""
    monkeypatch.setenv("LOCKSTEP_LEASE_SECONDS", "2")
    plan = plan_of(shop, tmp_path, "UPDATE item SET n = n + 1 WHERE n >= 0")
    run(shop, "expand")
    (step,) = [step for step in plan.phase("backfill").steps if isinstance(step.action, UpdateRows)]
    assert _killed(start_phase(shop, "backfill", {VARIABLE: f"during:{step.id}:2"}, migration="data"))
    done = ask(shop, "SELECT min(id), max(id) FROM item WHERE lockstep_due = 0")[0]
    rest = ask(shop, "SELECT max(id) FROM item WHERE lockstep_due <> 0")[0]
    ask(shop, f"UPDATE item SET id = id + 100000 WHERE id = {done[0]}; UPDATE item SET id = -1 WHERE id = {rest[0]}")
    with psycopg.connect(shop.conninfo) as other, start_phase(shop, "backfill", {}, migration="data") as process:
        other.execute(f"UPDATE item SET n = 50 WHERE id = {ROWS - 5}".encode())
        deadline = time.monotonic() + 30
        while ask(shop, "SELECT count(*) FROM item WHERE lockstep_due <> 0") != [(1,)]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        other.commit()
        assert process.wait(60) == 0
    assert ask(shop, "SELECT sum(n) FROM item") == [(ROWS * 45 // 10 + ROWS + 50 - (ROWS - 5) % 10,)]


def test_rows_that_stay_locked_stop_the_step_and_are_named(shop: Target, tmp_path: Path) -> None:
    plan_of(shop, tmp_path, "DELETE FROM pair WHERE v::int < 100")
    run(shop, "expand")
    with psycopg.connect(shop.conninfo) as other:
        other.execute("SELECT FROM pair WHERE v = '5' FOR KEY SHARE")
        with (
            open_runner(shop, "data", patience=Patience(tries=3, first_wait=0.01)) as runner,
            pytest.raises(LockNotAcquired, match="1 rows stay locked"),
        ):
            runner.run_phase("backfill", ignore)
    run(shop, "backfill")
    assert ask(shop, "SELECT count(*) FROM pair WHERE v::int < 100") == [(0,)]


def test_deleted_rows_that_cannot_come_back_now_stay_kept_and_the_way_back_is_not_called_done(
    shop: Target, tmp_path: Path
) -> None:
    plan_of(shop, tmp_path, "DELETE FROM pair WHERE v::int < 100")
    before = content(shop, "pair")
    run(shop, "expand", "backfill")
    (table,) = kept(shop)
    with psycopg.connect(shop.conninfo) as other:
        other.execute("LOCK TABLE pair IN SHARE MODE")
        with (
            open_runner(shop, "data", patience=Patience(tries=2, seconds=3, first_wait=0.01)) as runner,
            pytest.raises(LockNotAcquired, match="99 rows stay locked"),
        ):
            runner.undo_phase("backfill", ignore)
    assert ask(shop, f"SELECT count(*) FROM {table}") == [(99,)]
    ask(
        shop,
        "CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER never BEFORE INSERT ON pair FOR EACH ROW EXECUTE FUNCTION never()",
    )
    with pytest.raises(MigrationError, match=r"99 deleted rows do not come back .*never"):
        go_back(shop, "backfill")
    assert ask(shop, f"SELECT count(*) FROM {table}") == [(99,)]
    ask(shop, "CREATE OR REPLACE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
    go_back(shop, "backfill", "expand")
    assert content(shop, "pair") == before


def test_an_old_value_that_is_taken_meanwhile_stops_the_way_back_and_says_what_to_do(
    shop: Target, tmp_path: Path
) -> None:
    ask(shop, "ALTER TABLE item ADD CONSTRAINT once UNIQUE (price)")
    before = content(shop)
    plan_of(shop, tmp_path, "UPDATE item SET price = price + 10000 WHERE id <= 700")
    run(shop, "expand", "backfill")
    ask(shop, "INSERT INTO item (id, price) VALUES (9999, 650)")
    with pytest.raises(MigrationError, match=r"UniqueViolation .*constraint once") as stopped:
        go_back(shop, "backfill")
    (table,) = kept(shop)
    assert table in (stopped.value.remedy or "")
    ask(shop, "DELETE FROM item WHERE id = 9999")
    go_back(shop, "backfill", "expand")
    assert content(shop) == before


def test_a_row_whose_values_make_the_statement_fail_stops_it_by_its_key(shop: Target, tmp_path: Path) -> None:
    plan_of(shop, tmp_path, "UPDATE item SET n = 100 / n WHERE id < 1000 AND n >= 0")
    ask(shop, "UPDATE item SET n = 5; UPDATE item SET n = 0 WHERE id = 777")
    run(shop, "expand")
    with pytest.raises(StepFailed, match=r"row \[777\]: DivisionByZero") as caught:
        run(shop, "backfill")
    assert "5" not in str(caught.value).split("DivisionByZero")[1].split(".")[1]
    ask(shop, "UPDATE item SET n = 4 WHERE id = 777")
    run(shop, "backfill")
    assert ask(shop, "SELECT n, count(*) FROM item WHERE id < 1000 GROUP BY n ORDER BY n") == [(20, 998), (25, 1)]


def test_killed_between_batches_forward_and_in_the_middle_of_going_back(
    shop: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCKSTEP_LEASE_SECONDS", "2")
    before = content(shop)
    plan = plan_of(shop, tmp_path, "UPDATE item SET n = n + 1; DELETE FROM pair WHERE v::int % 2 = 0;")
    run(shop, "expand")
    (update, delete) = [
        step.id for step in plan.phase("backfill").steps if isinstance(step.action, UpdateRows | DeleteRows)
    ]
    for place in (f"during:{update}:2", f"after:{update}", f"during:{delete}:1"):
        assert _killed(start_phase(shop, "backfill", {VARIABLE: place}, migration="data"))
    run(shop, "backfill")
    assert ask(shop, "SELECT sum(n) FROM item") == [(ROWS * 45 // 10 + ROWS,)]
    assert ask(shop, "SELECT count(*) FROM pair") == [(150,)]
    for place in (f"during-undo:{delete}:1", f"during-undo:{update}:2", f"after-undo:{update}"):
        assert _killed(_start_undo(shop, "backfill", place))
    go_back(shop, "backfill", "expand")
    assert content(shop) == before
    assert ask(shop, "SELECT count(*) FROM pair") == [(300,)]


def _killed(process: subprocess.Popen[str]) -> bool:
    with process:
        return process.wait(60) == -signal.SIGKILL


def _start_undo(target: Target, phase: str, place: str) -> subprocess.Popen[str]:
    return start_phase(target, f"undo:{phase}", {VARIABLE: place}, migration="data")


def test_a_lost_answer_to_commit_changes_no_row_twice(
    shop: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCKSTEP_LEASE_SECONDS", "2")
    plan_of(shop, tmp_path, "UPDATE item SET n = n + 1")
    run(shop, "expand")
    with lossy(shop, every=25) as (target, proxy):
        run(target, "backfill")
        assert proxy.lost > 0
    assert ask(shop, "SELECT sum(n) FROM item") == [(ROWS * 45 // 10 + ROWS,)]


def test_a_statement_that_is_done_is_not_repeated_where_rows_satisfy_it_only_since(
    shop: Target, tmp_path: Path
) -> None:
    plan_of(shop, tmp_path, "UPDATE item SET n = n + 1 WHERE n > 5; UPDATE item SET n = n * 10 WHERE n < 5;")
    before = content(shop)
    run(shop, "expand", "backfill")
    expected = ask(shop, "SELECT n, count(*) FROM item GROUP BY n ORDER BY n")
    assert [n for n, _ in expected] == [0, 5, 7, 8, 9, 10, 20, 30, 40]
    with open_runner(shop, "data") as runner:
        runner.settle(ignore)
    assert ask(shop, "SELECT n, count(*) FROM item GROUP BY n ORDER BY n") == expected
    go_back(shop, "backfill", "expand")
    assert content(shop) == before


def test_the_sync_carries_a_data_change_into_the_new_shape(shop: Target, tmp_path: Path) -> None:
    plan_of(
        shop, tmp_path,
        """
        ALTER TABLE item RENAME COLUMN price TO amount;
        UPDATE item SET amount = amount + 1 WHERE amount > 4;
        """,
    )  # fmt: skip
    run(shop, "expand", "backfill", "constrain", "switch")
    assert ask(shop, "SELECT count(*) FROM item WHERE price IS DISTINCT FROM amount OR lockstep_pending <> 0") == [(0,)]
    ask(shop, "UPDATE item SET amount = 77 WHERE id = 9")
    run(shop, "contract")
    assert ask(shop, "SELECT sum(amount) FROM item") == [(ROWS * (ROWS + 1) // 2 + ROWS - 4 + 77 - 10,)]
