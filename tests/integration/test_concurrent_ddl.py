"""Somebody else's DDL on the tables of a migration: named as what it is, with the data safe, and gone on from."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tasks.database import progress
from tasks.database import runner as runner_module
from tasks.database.progress import Progress, Report
from tasks.database.runner import open_runner
from tasks.planning.errors import SchemaChanged, StepFailed
from tasks.planning.states import PhaseState, StepState
from tests.conftest import AnyServer, _new_database
from tests.integration.journey import Journey, columns, eventually, execute, only, prepared, rows

ROWS = 1_500
SCHEMA = f"""
CREATE TABLE item (id int PRIMARY KEY, a text, note text, kept int);
INSERT INTO item SELECT n, n::text, 'note ' || n, n FROM generate_series(1, {ROWS}) AS n;
"""
CHANGE = """
ALTER TABLE item ADD COLUMN b int, DROP COLUMN a, ADD COLUMN c int NOT NULL;
ALTER TABLE item RENAME COLUMN note TO remark;
CREATE INDEX item_b ON item (b);
"""
MAPPING = "{item.b: {up: 'a::int', down: {a: 'b::text'}}, item.c: {up: id}}"


@pytest.fixture(scope="module")
def template(server: AnyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journey]:
    with _new_database(server, "template0") as original:
        yield prepared(original, tmp_path_factory.mktemp("ddl"), SCHEMA, CHANGE, MAPPING)


@pytest.fixture
def journey(server: AnyServer, template: Journey, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journey]:
    """The planned migration on a database of its own; its backfill reports after every batch."""
    monkeypatch.setattr(progress, "REPORT_SECONDS", 0)
    with _new_database(server, template.target.name) as copy:
        yield Journey(copy, template.plan)


INTRUSIONS = {
    "ALTER TABLE item ADD COLUMN x int": ("'x'", "ALTER TABLE item DROP COLUMN x"),
    "ALTER TABLE item DROP COLUMN kept": ("'kept'", "ALTER TABLE item ADD COLUMN kept int"),
    "ALTER TABLE item ALTER kept TYPE bigint": ("bigint", "ALTER TABLE item ALTER kept TYPE int"),
    "CREATE INDEX theirs ON item (kept)": ("'theirs'", "DROP INDEX theirs"),
    "CREATE VIEW theirs AS SELECT id, kept FROM item": ("theirs", "DROP VIEW theirs"),
    "ALTER TABLE item ENABLE ROW LEVEL SECURITY": ("row_security", "ALTER TABLE item DISABLE ROW LEVEL SECURITY"),
}
HARMLESS = ("ANALYZE item", "VACUUM item", "VACUUM FULL item", "REINDEX TABLE item")


def test_ddl_between_any_two_phases_is_named_and_nothing_is_run_on_it(journey: Journey) -> None:
    """Before each phase in turn; once it is undone the same command goes on."""
    for phase in journey.phases:
        for statement, (named, undo) in INTRUSIONS.items():
            execute(journey.target, statement)
            before = columns(journey.target, "item")
            with pytest.raises(SchemaChanged) as refused:
                journey.run(phase)
            assert named in str(refused.value), (phase, statement)
            assert "Undo that change and run again" in str(refused.value)
            assert columns(journey.target, "item") == before
            execute(journey.target, undo)
        execute(journey.target, *HARMLESS)
        journey.go(phase)
    assert only(journey.target, "SELECT count(*) FROM item WHERE b = id AND remark = 'note ' || id") == ROWS


def during(journey: Journey, *statements: str) -> Report:
    """Return a reporter of progress that runs statements between the first batch and the second."""
    left = list(statements)

    def report(told: Progress) -> None:
        if left:
            assert 0 < told.rows_done < ROWS
            execute(journey.target, left.pop(0))

    return report


@pytest.mark.parametrize("statement", [name for name in INTRUSIONS if "kept" not in name or "TYPE" in name])
def test_ddl_during_the_backfill_is_named_and_no_row_is_left_out(journey: Journey, statement: str) -> None:
    journey.run("expand")
    with open_runner(journey.target, journey.plan.name) as runner, pytest.raises(SchemaChanged) as refused:
        runner.run_phase("backfill", during(journey, statement))
    named, undo = INTRUSIONS[statement]
    assert named in str(refused.value)
    assert only(journey.target, "SELECT state FROM lockstep.phase WHERE phase = 'backfill'") == PhaseState.FAILED
    execute(journey.target, undo)
    journey.go("backfill")
    assert only(journey.target, "SELECT count(*) FROM item WHERE b = id AND lockstep_pending = 0") == ROWS


def test_a_new_column_that_is_dropped_during_the_backfill_is_named(journey: Journey) -> None:
    journey.run("expand")
    with open_runner(journey.target, journey.plan.name) as runner, pytest.raises(SchemaChanged) as refused:
        runner.run_phase("backfill", during(journey, "ALTER TABLE item DROP COLUMN b"))
    assert "missing: column public.item 'b'" in str(refused.value)
    assert only(journey.target, "SELECT count(*) FROM item WHERE a = id::text") == ROWS


@pytest.mark.parametrize("statement", HARMLESS)
def test_maintenance_during_the_backfill_is_no_hindrance(journey: Journey, statement: str) -> None:
    """VACUUM FULL gives every row another place under way."""
    journey.run("expand")
    with open_runner(journey.target, journey.plan.name) as runner:
        runner.run_phase("backfill", during(journey, statement))
        runner.finish_phase("backfill")
    assert only(journey.target, "SELECT count(*) FROM item WHERE b = id AND lockstep_pending = 0") == ROWS


WAITING_BUILD = """
SELECT count(*) FROM pg_stat_progress_create_index
 WHERE datname = current_database() AND phase LIKE 'waiting for writers%'
"""
WAITING_ALTER = """
SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
 WHERE d.datname = current_database() AND l.mode = 'AccessExclusiveLock' AND NOT l.granted
"""


def test_an_alter_table_that_waits_for_an_index_build_goes_through_and_is_named(journey: Journey) -> None:
    """The ALTER waits for the build's lock, and the build for the snapshot that the ALTER has: Lockstep gives way."""
    journey.run("expand", "backfill")
    with ThreadPoolExecutor(2) as pool:
        with psycopg.connect(journey.target.conninfo) as writer:
            writer.execute("UPDATE item SET kept = kept WHERE id = 1")
            run = pool.submit(journey.run, "constrain")
            eventually(lambda: only(journey.target, WAITING_BUILD) == 1, "the build waits for the writer")
            alter = pool.submit(execute, journey.target, "ALTER TABLE item ADD COLUMN x int")
            eventually(lambda: only(journey.target, WAITING_ALTER) == 1, "the ALTER waits for the build")
        alter.result()
        with pytest.raises(SchemaChanged, match="'x'"):
            run.result()
    invalid = "SELECT count(*) FROM pg_index WHERE indrelid = 'item'::regclass AND NOT indisvalid"
    assert only(journey.target, invalid) == 0
    execute(journey.target, "ALTER TABLE item DROP COLUMN x")
    journey.go("constrain", "switch")


# ------------------------------------------------------------------------------------------- the sync's own objects

TRIGGER = "zzz_lockstep_sync"


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE item DISABLE TRIGGER ALL",
        f"ALTER TABLE item DISABLE TRIGGER {TRIGGER}",
        f"ALTER TABLE item ENABLE TRIGGER {TRIGGER}",
        f"DROP TRIGGER {TRIGGER} ON item",
    ],
)
def test_a_sync_trigger_that_does_not_always_fire_fails_every_gate(journey: Journey, statement: str) -> None:
    journey.go("expand", "backfill", "constrain", "switch")
    execute(journey.target, statement)
    for gate in ("backfill", "equality", "contract"):
        assert journey.failing(gate) == {"sync_trigger:public.item": 1}


def test_what_was_written_while_the_trigger_was_off_is_found_by_the_gate(journey: Journey) -> None:
    journey.go("expand", "backfill", "constrain")
    execute(
        journey.target,
        f"ALTER TABLE item DISABLE TRIGGER {TRIGGER}",
        "UPDATE item SET a = '7777' WHERE id = 7; INSERT INTO item (id, a) VALUES (9001, '9001')",
        f"ALTER TABLE item ENABLE ALWAYS TRIGGER {TRIGGER}",
    )
    failing = journey.failing("equality")
    assert failing["unfilled:public.item"] == 1
    assert [count for check, count in failing.items() if check.startswith("parity")] != []
    execute(journey.target, "UPDATE item SET a = '7777' || '7' WHERE id = 7", "UPDATE item SET a = '7777' WHERE id = 7")
    journey.go("switch", "contract")
    assert rows(journey.target, "SELECT id, b FROM item WHERE id <> b OR id > 9000 ORDER BY 1") == [
        (7, 7777),
        (9001, 9001),
    ]


@pytest.mark.parametrize(
    ("intrusion", "remedy"),
    [
        (f"ALTER TABLE item DISABLE TRIGGER {TRIGGER}", f"ALTER TABLE item ENABLE ALWAYS TRIGGER {TRIGGER}"),
        ("UPDATE item SET a = 'seven' WHERE id = 7", "UPDATE item SET a = '7' WHERE id = 7"),
    ],
    ids=["trigger off", "up fails"],
)
def test_contract_looks_once_more_under_its_lock(journey: Journey, intrusion: str, remedy: str) -> None:
    """The gate has held, and then something happens before the old column is dropped."""
    journey.go("expand", "backfill", "constrain", "switch")
    assert journey.failing("contract") == {}
    execute(journey.target, intrusion)
    with pytest.raises(StepFailed, match="55000"):
        journey.run("contract")
    assert "a" in columns(journey.target, "item")
    execute(journey.target, remedy)
    journey.settle()
    journey.run("contract")
    assert only(journey.target, "SELECT count(*) FROM item WHERE b = id") == ROWS


def test_ddl_while_contract_is_under_way_is_seen_before_anything_is_dropped(
    journey: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contract first validates strict constraints, which takes long on a large table: time for somebody else's DDL."""
    journey.go("expand", "backfill", "constrain", "switch")
    *before, last = journey.plan.phase("contract").steps

    def intrude(place: str, step: str) -> None:
        if (place, step) == ("after", before[-1].id):
            execute(journey.target, "CREATE INDEX theirs ON item (a)")

    monkeypatch.setattr(runner_module, "crash_point", intrude)
    with pytest.raises(SchemaChanged, match="'theirs'"):
        journey.run("contract")
    assert only(journey.target, f"SELECT state FROM lockstep.step WHERE step = '{last.id}'") == StepState.PENDING
    assert "a" in columns(journey.target, "item")
    monkeypatch.undo()
    execute(journey.target, "DROP INDEX theirs")
    journey.run("contract")
    assert only(journey.target, "SELECT count(*) FROM item WHERE b = id") == ROWS
