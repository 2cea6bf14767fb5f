"""The users' own triggers and rules: handled, named, or refused, and never silently in the way of a row."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tasks.database.connection import Target
from tasks.planning.errors import MigrationError, SyncFailing, Unsupported
from tests.integration.filling import WRONG, expanded, fill
from tests.integration.journey import IMPATIENT, execute, only, prepared, rows
from tests.integration.synthetic import (
    ask,
    create_readings,
)


def prepare(target: Target, function: str, trigger: str) -> None:
    """Expand `readings`, and give the table a trigger of its owner's."""
    create_readings(target, 2_000)
    expanded(target)
    execute(
        target,
        f"CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {function} END $$",
        trigger,
    )


BEFORE = "CREATE TRIGGER theirs BEFORE UPDATE ON readings FOR EACH ROW EXECUTE FUNCTION theirs()"
DEFERRED = (
    "CREATE CONSTRAINT TRIGGER theirs AFTER UPDATE ON readings DEFERRABLE INITIALLY DEFERRED "
    "FOR EACH ROW EXECUTE FUNCTION theirs()"
)


def test_a_trigger_that_suppresses_the_backfill_is_named_and_no_lock_is_blamed(database: Target) -> None:
    prepare(database, "IF NEW.id % 100 = 0 THEN RETURN NULL; END IF; RETURN NEW;", BEFORE)
    with pytest.raises(SyncFailing, match=r"20 unfilled rows of public.readings .* trigger that returns NULL") as told:
        fill(database)
    assert told.value.failures == 20
    assert "lockstep.direction" in str(told.value)
    assert ask(database, "SELECT count(*) FROM readings WHERE lockstep_pending <> 0 AND id % 100 = 0") == [(20,)]
    execute(
        database,
        "CREATE OR REPLACE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF NEW.id % 100 = 0 AND current_setting('lockstep.direction', true) IS DISTINCT FROM 'none' "
        "THEN RETURN NULL; END IF; RETURN NEW; END $$",
    )
    fill(database)
    assert ask(database, WRONG) == [(0,)]


@pytest.mark.parametrize("trigger", [BEFORE, DEFERRED], ids=["before", "deferred to the commit"])
def test_a_trigger_that_raises_costs_its_own_rows_only_and_is_recorded(database: Target, trigger: str) -> None:
    prepare(database, "IF NEW.id IN (7, 1900) THEN RAISE 'no %', NEW.litres; END IF; RETURN NEW;", trigger)
    fill(database)
    assert ask(database, "SELECT key, sqlstate FROM lockstep.sync_failure ORDER BY id") == [
        ("[7]", "P0001"),
        ("[1900]", "P0001"),
    ]
    assert ask(database, "SELECT id FROM readings WHERE lockstep_pending <> 0 ORDER BY id") == [(7,), (1900,)]
    execute(database, "DROP TRIGGER theirs ON readings", "UPDATE lockstep.step SET state = 'running'")
    fill(database)
    assert ask(database, WRONG) == [(0,)]
    assert ask(database, "SELECT count(*) FROM lockstep.sync_failure WHERE resolved_at IS NULL") == [(0,)]


SCHEMA = """
CREATE TABLE item (id int PRIMARY KEY, note text, amount int, touched int NOT NULL DEFAULT 0);
CREATE TABLE audit (id int, row jsonb);
INSERT INTO item SELECT n, 'Note ' || n, n FROM generate_series(1, 300) AS n;
CREATE FUNCTION tidy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.note := lower(NEW.note);
    NEW.touched := NEW.touched + 1;
    RETURN NEW;
END $$;
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit VALUES (NEW.id, to_jsonb(NEW));
    RETURN NULL;
END $$;
CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'never'; END $$;
CREATE TRIGGER zzzz_tidy BEFORE INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION tidy();
CREATE TRIGGER audited AFTER UPDATE ON item FOR EACH ROW EXECUTE FUNCTION audit();
CREATE TRIGGER off BEFORE UPDATE ON item FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER on_replicas BEFORE UPDATE ON item FOR EACH ROW EXECUTE FUNCTION never();
ALTER TABLE item DISABLE TRIGGER off, ENABLE REPLICA TRIGGER on_replicas;
"""
CHANGE = "ALTER TABLE item ADD label text NOT NULL, ADD total bigint NOT NULL, DROP amount"
MAPPING = "{item.total: {up: 'amount * 2', down: {amount: 'total / 2'}}, item.label: {up: note}}"
TRIGGERS = "SELECT tgname, tgenabled::text FROM pg_trigger WHERE tgrelid = 'item'::regclass AND NOT tgisinternal"


def test_triggers_of_every_kind_go_through_a_migration_with_their_table(database: Target, tmp_path: Path) -> None:
    """One of them writes the column that the backfill fills another one from."""
    journey = prepared(database, tmp_path, SCHEMA, CHANGE, MAPPING)
    before = sorted(rows(database, TRIGGERS))
    assert any("zzzz_tidy" in note.text for note in journey.plan.notes)
    journey.go("expand", "backfill", "constrain", "switch")
    assert only(database, "SELECT count(*) FROM item WHERE label = 'note ' || id AND label = note") == 300
    with psycopg.connect(database.conninfo, autocommit=True) as application:
        application.execute("UPDATE item SET note = 'OLD', amount = 500 WHERE id = 1")
        application.execute("UPDATE item SET total = 800 WHERE id = 2")
    assert rows(database, "SELECT label, total FROM item WHERE id = 1") == [("old", 1000)]
    written = "SELECT id, (row ->> 'amount')::int, (row ->> 'total')::int FROM audit ORDER BY ctid DESC LIMIT 2"
    assert rows(database, written) == [(2, 400, 800), (1, 500, 1000)]
    journey.run("contract")
    assert sorted(rows(database, TRIGGERS)) == before
    execute(database, "UPDATE item SET note = 'NEW' WHERE id = 3")
    assert rows(database, "SELECT note, label, total FROM item WHERE id = 3") == [("new", "note 3", 6)]


@pytest.mark.parametrize("change", ["UPDATE item SET amount = amount + 1", "DELETE FROM item"])
def test_a_data_change_that_a_trigger_suppresses_is_told_from_one_that_waits(
    database: Target, tmp_path: Path, change: str
) -> None:
    schema = """
    CREATE TABLE item (id int PRIMARY KEY, amount int NOT NULL, held boolean NOT NULL);
    INSERT INTO item SELECT n, n, n % 100 = 7 FROM generate_series(1, 300) AS n;
    CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN
      IF TG_OP = ''DELETE'' THEN IF OLD.held THEN RETURN NULL; END IF; RETURN OLD; END IF;
      IF OLD.held AND NEW.held THEN RETURN NULL; END IF; RETURN NEW; END';
    CREATE TRIGGER hold BEFORE UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION hold();
    """
    journey = prepared(database, tmp_path, schema, change)
    journey.go("expand")
    verb = change.split()[0]
    with pytest.raises(MigrationError, match=r"leaves 3 rows of public[.]item as they are.*trigger") as told:
        journey.run("backfill", patience=IMPATIENT)
    assert "correct those rows and run again" in (told.value.remedy or "")
    done = "amount = id + 1" if verb == "UPDATE" else "false"
    assert only(database, f"SELECT count(*) FROM item WHERE NOT ({done})") == 3
    execute(database, "UPDATE item SET held = false")
    journey.run("backfill")
    assert only(database, f"SELECT count(*) FROM item WHERE NOT ({done})") == 0
    journey.undo("expand", "backfill")
    assert only(database, "SELECT count(*) FROM item WHERE amount = id") == 300


@pytest.mark.parametrize(
    "rule",
    [
        'CREATE RULE "no change" AS ON UPDATE TO item DO INSTEAD NOTHING',
        "CREATE RULE logged AS ON UPDATE TO item DO ALSO INSERT INTO audit VALUES (NEW.id, 1)",
        "CREATE RULE kept AS ON DELETE TO item DO INSTEAD NOTHING",
    ],
)
def test_rules_are_refused_by_name(database: Target, tmp_path: Path, rule: str) -> None:
    name = rule.split(" AS ")[0].removeprefix("CREATE RULE ")
    schema = f"CREATE TABLE audit (id int, amount int); CREATE TABLE item (id int PRIMARY KEY, note text); {rule}"
    with pytest.raises(Unsupported, match=f"the rule {name} ON public.item") as refused:
        prepared(database, tmp_path, schema, "ALTER TABLE item RENAME note TO remark")
    assert refused.value.remedy is not None
    assert "trigger" in refused.value.remedy
