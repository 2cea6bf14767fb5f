"""A new type under the same name, through a new column: what the application may do at every moment of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tasks.database.catalog import snapshot
from tasks.database.connection import Target, connect
from tasks.planning.errors import UsageError
from tasks.planning.plan import Step
from tasks.planning.schema_hash import schema_hash
from tests.conftest import AnyServer, _new_database
from tests.integration.staging import PHASES, Stage, carry_out, pending, perform, planned, recorded, row, undo, written

SCHEMA = """
CREATE TABLE parent (
    id     int GENERATED ALWAYS AS IDENTITY (START WITH 100) PRIMARY KEY,
    boss   int CONSTRAINT boss REFERENCES parent ON DELETE SET NULL,
    amount smallint NOT NULL DEFAULT 7 CHECK (amount > 0),
    code   int UNIQUE
);
CREATE TABLE child (
    id     serial PRIMARY KEY,
    parent int NOT NULL REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE,
    code   int REFERENCES parent (code) ON UPDATE CASCADE
);
CREATE INDEX child_parent ON child (parent);
CREATE UNIQUE INDEX parent_amount_code ON parent (amount, code) WHERE amount > 5;
COMMENT ON COLUMN parent.id IS 'who'; COMMENT ON CONSTRAINT boss ON parent IS 'whose';
COMMENT ON INDEX child_parent IS 'quickly';
INSERT INTO parent (boss, amount, code) OVERRIDING SYSTEM VALUE VALUES (NULL, 1, 1), (100, 2, 2), (101, 3, NULL);
INSERT INTO child (parent, code) VALUES (100, 1), (101, 2), (102, NULL);
"""
CHANGE = """
ALTER TABLE parent ALTER id TYPE bigint, ALTER boss TYPE bigint, ALTER amount TYPE integer USING amount::integer;
ALTER TABLE parent ALTER code TYPE bigint;
ALTER TABLE child ALTER parent TYPE bigint, ALTER id TYPE bigint, ALTER code TYPE bigint;
ALTER SEQUENCE child_id_seq AS bigint;
"""
GREAT = 3_000_000_000


@pytest.fixture(scope="module")
def filled_template(server: AnyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Stage]]:
    folder = tmp_path_factory.mktemp("same-name")
    with _new_database(server, "template0") as original:
        plan = planned(original, SCHEMA, written(folder, "wider-keys", CHANGE))
        yield original.name, carry_out(original, plan, PHASES[:3])


@pytest.fixture
def filled(server: AnyServer, filled_template: tuple[str, Stage]) -> Iterator[Stage]:
    """Before the switch: both columns of every name are there, with their keys."""
    with _new_database(server, filled_template[0]) as copy:
        yield Stage(copy, filled_template[1].plan)


@pytest.fixture
def switched(filled: Stage) -> Stage:
    return carry_out(filled.target, filled.plan, ("switch",))


def hash_of(stage: Stage) -> str:
    with connect(stage.target, role="test") as connection:
        return schema_hash(snapshot(connection), stage.plan.scope)


def everything(app: psycopg.Connection[tuple[object, ...]]) -> None:
    """What an application does, whichever version: every statement goes through, and the keys act as declared."""
    app.prepare_threshold = None
    (boss,) = row(app, "INSERT INTO parent (amount) VALUES (9) RETURNING id")
    (worker,) = row(app, f"INSERT INTO parent (boss, code) VALUES ({boss}, {boss}) RETURNING id")
    assert row(app, f"SELECT boss, amount, code FROM parent WHERE id = {worker}") == (boss, 7, boss)
    (first,) = row(app, f"INSERT INTO child (parent, code) VALUES ({worker}, {boss}) RETURNING id")
    app.execute(f"INSERT INTO parent (code) VALUES ({boss}) ON CONFLICT (code) DO UPDATE SET amount = 12".encode())
    app.execute(
        f"INSERT INTO parent (code) VALUES ({boss}) ON CONFLICT ON CONSTRAINT parent_code_key DO NOTHING".encode()
    )
    app.execute(f"UPDATE parent SET code = {worker} + 1000000 WHERE id = {worker}".encode())
    assert row(app, f"SELECT code FROM child WHERE id = {first}") == (worker + 1_000_000,)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        app.execute("INSERT INTO child (parent) VALUES (1)")
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        app.execute("INSERT INTO parent (boss) VALUES (1)")
    with pytest.raises(psycopg.errors.UniqueViolation):
        app.execute(f"INSERT INTO child (id, parent) VALUES ({first}, {worker})".encode())
    with pytest.raises(psycopg.errors.CheckViolation):
        app.execute("INSERT INTO parent (amount) VALUES (0)")
    with pytest.raises(psycopg.errors.NotNullViolation):
        app.execute("INSERT INTO child (parent) VALUES (NULL)")
    with app.transaction():  # both rows of one transaction: the server checks the keys of such a row again
        (other,) = row(app, "INSERT INTO parent (amount) VALUES (1) RETURNING id")
        (follower,) = row(app, f"INSERT INTO parent (boss) VALUES ({other}) RETURNING id")
        app.execute(f"DELETE FROM parent WHERE id = {other}".encode())
    assert row(app, f"SELECT boss FROM parent WHERE id = {follower}") == (None,)
    app.execute(f"DELETE FROM parent WHERE id = {boss}".encode())
    assert row(app, f"SELECT boss FROM parent WHERE id = {worker}") == (None,)
    app.execute(f"DELETE FROM child WHERE code = {worker} + 1000000".encode())
    app.execute(f"INSERT INTO child (parent) VALUES ({worker})".encode())
    app.execute(f"DELETE FROM parent WHERE id = {worker}".encode())
    assert row(app, f"SELECT count(*) FROM child WHERE parent = {worker}") == (0,)
    app.execute(f"DELETE FROM parent WHERE id = {follower}".encode())


def in_step(stage: Stage) -> None:
    """In every row the two columns of each name say the same."""
    with stage.session() as app:
        assert recorded(app) == []
        for group in stage.plan.groups:
            columns = {name for (name,) in app.execute(COLUMNS, (str(group.table),))}
            now = group if set(group.new) <= columns else group.from_switch
            pair = (sql.Identifier(now.old[0]), sql.Identifier(now.new[0]))
            differing = sql.SQL("SELECT count(*) FROM {} WHERE {} IS DISTINCT FROM {}")
            assert app.execute(differing.format(group.table.identifier, *pair)).fetchone() == (0,)


COLUMNS = "SELECT attname::text FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"


def test_a_serial_whose_sequence_stays_narrow_is_warned_of(database: Target, tmp_path: Path) -> None:
    """An identity's sequence grows with its column."""
    schema = (
        "CREATE TABLE one (id serial PRIMARY KEY); CREATE TABLE two (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY)"
    )
    change = "ALTER TABLE one ALTER id TYPE bigint; ALTER TABLE two ALTER id TYPE bigint;"
    told = [note.text for note in planned(database, schema, written(tmp_path, "wider", change)).notes]
    assert [text for text in told if "ALTER SEQUENCE" in text] == [
        "public.one.id becomes bigint, but its sequence public.one_id_seq still ends at 2,147,483,647, and the INSERT "
        "after that number would fail. Add to the change: ALTER SEQUENCE public.one_id_seq AS bigint;"
    ]
    followed = planned(database, "", written(tmp_path, "wider", f"{change} ALTER SEQUENCE one_id_seq AS bigint;"))
    assert not any("ALTER SEQUENCE" in note.text for note in followed.notes)


@pytest.mark.every_version
def test_after_every_step_of_the_switch_and_of_its_way_back_the_application_goes_on(filled: Stage) -> None:
    """Each step commits by itself: a runner that dies between two of them leaves one of these states for ever."""
    before = hash_of(filled)
    steps: tuple[Step, ...] = filled.plan.phase("switch").steps
    with filled.session() as app, connect(filled.target, role="test", settings=filled.plan.settings) as runner:
        everything(app)
        for step in steps:
            perform(runner, (step.action,))
            everything(app)
            in_step(filled)
        for step in reversed(steps):
            assert isinstance(step.undo, tuple)
            for action in step.undo:
                perform(runner, (action,))
                everything(app)
            in_step(filled)
        assert hash_of(filled) == before
        for step in steps:
            perform(runner, (step.action,))
        everything(app)
    in_step(filled)
    carry_out(filled.target, filled.plan, ("contract",))
    assert hash_of(filled) == filled.plan.schema_target
    with filled.session() as app:
        everything(app)


@pytest.mark.parametrize("last", [3, 4])
def test_the_way_back_leads_to_the_old_catalog(filled: Stage, last: int) -> None:
    carry_out(filled.target, filled.plan, PHASES[3:last])
    undo(filled.target, filled.plan, PHASES[:last])
    assert hash_of(filled) == filled.plan.schema_before
    with filled.session() as app:
        everything(app)
        assert row(app, "SELECT count(*), sum(id), sum(boss), sum(amount) FROM parent") == (3, 303, 201, 6)


def test_a_way_back_that_broke_off_between_two_steps_is_gone_to_its_end(filled: Stage) -> None:
    """Half of the switch is done: undone from there, each half of a key is found where it is."""
    steps = filled.plan.phase("switch").steps
    for done in range(1, len(steps)):
        with connect(filled.target, role="test", settings=filled.plan.settings) as runner:
            for step in steps[:done]:
                perform(runner, (step.action,))
            for step in reversed(steps[:done]):
                assert isinstance(step.undo, tuple)
                perform(runner, step.undo)
    assert hash_of(filled) == filled.plan.phase("constrain").schema_after


def test_values_beyond_the_old_type_stand_and_are_recorded(switched: Stage) -> None:
    with switched.session() as app:
        app.execute("SELECT setval('parent_id_seq', 3000000000), setval('child_id_seq', 3000000000)")
        (parent,) = row(app, "INSERT INTO parent (amount) VALUES (40000) RETURNING id")
        assert parent == GREAT + 1
        app.execute(f"INSERT INTO child (parent) VALUES ({parent})".encode())
        app.execute(f"INSERT INTO parent (boss) VALUES ({parent})".encode())
        assert row(app, f"SELECT id FROM child WHERE parent = {parent}") == (GREAT + 1,)
        hidden = switched.plan.groups[0].from_switch.old[0]
        assert row(app, f"SELECT {hidden} FROM child WHERE parent = {parent}") == (None,)
        _, failed = switched.bits("id")
        assert pending(app, "child", f"parent = {parent}") & failed
        assert {entry[:4] for entry in recorded(app)} == {
            ("public.parent", f"[{GREAT + 1}]", "22003", "down"),
            ("public.parent", f"[{GREAT + 2}]", "22003", "down"),
            ("public.child", f"[{GREAT + 1}]", "22003", "down"),
        }
        app.execute(f"DELETE FROM parent WHERE id = {parent}".encode())
        assert row(app, "SELECT count(*) FROM child") == (3,)
    carry_out(switched.target, switched.plan, ("contract",))
    assert hash_of(switched) == switched.plan.schema_target


def test_a_value_that_fits_again_can_go_back(switched: Stage) -> None:
    with switched.session() as app:
        app.execute(f"UPDATE parent SET amount = 40000, code = {GREAT} WHERE id = 100".encode())
        assert row(app, "SELECT code FROM child WHERE parent = 100") == (GREAT,)
        app.execute("INSERT INTO parent (code) VALUES (1)")  # the value that the first row had: its old twin is gone
        app.execute("UPDATE parent SET amount = 30000, code = 5 WHERE id = 100")
        assert pending(app, "parent", "id = 100") == 0
        assert pending(app, "child", "parent = 100") == 0
    undo(switched.target, switched.plan, PHASES[:4])
    assert hash_of(switched) == switched.plan.schema_before
    with switched.session() as app:
        assert row(
            app, "SELECT p.amount, p.code, c.code FROM parent p JOIN child c ON c.parent = p.id WHERE p.id = 100"
        ) == (
            30000,
            5,
            5,
        )


def test_an_insert_by_position_writes_the_column_of_that_place(switched: Stage) -> None:
    with switched.session() as app:
        app.execute("INSERT INTO child VALUES (77, 101, 2)")
        assert row(app, "SELECT parent, code FROM child WHERE id = 77") == (101, 2)
    in_step(switched)


@pytest.mark.every_version
def test_prepared_statements_that_return_the_column_fail_once_it_has_changed(filled: Stage) -> None:
    """What the plan warns of: PostgreSQL refuses such a statement until the session prepares it anew."""
    assert any("0A000" in note.text and note.severity == "WARNING" for note in filled.plan.notes)
    with filled.session() as app:
        app.prepare_threshold = 0
        for number in (0, 100):
            statements = [
                ("SELECT id FROM child WHERE id = %s", False),
                ("UPDATE child SET code = code WHERE id = %s RETURNING parent", False),
                ("SELECT count(*) FROM child WHERE parent = %s", True),
                ("UPDATE child SET code = code WHERE id = %s", True),
                ("DELETE FROM child WHERE id = %s", True),
            ]
            for text, goes_on in statements:
                if number == 0 or goes_on:
                    app.execute(text.encode(), (number,))
                else:
                    with pytest.raises(psycopg.errors.FeatureNotSupported):
                        app.execute(text.encode(), (number,))
            if number == 0:
                carry_out(filled.target, filled.plan, ("switch",))
        with filled.session() as another:
            another.prepare_threshold = 0
            another.execute("SELECT id FROM child WHERE id = %s", (1,))


@pytest.mark.parametrize("privilege", ["SELECT", "UPDATE"])
def test_column_privileges_come_along(filled: Stage, privilege: str) -> None:
    with filled.session() as app:
        app.execute(f"GRANT {privilege} (parent) ON child TO pg_monitor".encode())
        carry_out(filled.target, filled.plan, ("switch",))
        held = ", ".join(f"has_column_privilege('pg_monitor', 'child', '{name}', %s)" for name in ("parent", "id"))
        ask = f"SELECT {held}"
        assert app.execute(ask.encode(), (privilege, privilege)).fetchone() == (True, False)
        undo(filled.target, filled.plan, ("switch",))
        assert app.execute(ask.encode(), (privilege, privilege)).fetchone() == (True, False)


ODD = """
CREATE TABLE "Order" (
    "Kind" text, "No" int, "Größe" int CHECK ("Größe" % 2 = 0), doc json, note varchar(9) DEFAULT 'n',
    due timestamp NOT NULL, PRIMARY KEY ("Kind", "No")
);
CREATE TABLE line (
    id int PRIMARY KEY, kind text, no int,
    CONSTRAINT whose FOREIGN KEY (kind, no) REFERENCES "Order" ("Kind", "No") MATCH FULL ON DELETE CASCADE
);
CREATE TABLE setting (id int PRIMARY KEY, no int DEFAULT 1 REFERENCES line ON DELETE SET DEFAULT);
CREATE TABLE price (id int PRIMARY KEY, amount numeric(10,2) UNIQUE, seen int);
CREATE VIEW dear AS SELECT seen FROM price WHERE seen > 3;
INSERT INTO "Order" VALUES ('a', 1, 4, '{"b": 1,  "b": 2}', NULL, '2024-01-01');
INSERT INTO "Order" VALUES ('b', 2, NULL, NULL, 'x', '2024-06-01');
INSERT INTO line VALUES (1, 'a', 1), (2, NULL, NULL);
"""
ODD_CHANGE = """
ALTER TABLE "Order" ALTER "No" TYPE bigint, ALTER "Größe" TYPE numeric, ALTER doc TYPE jsonb;
ALTER TABLE "Order" ALTER note DROP DEFAULT, ALTER note TYPE int USING length(note), ALTER note SET DEFAULT 5;
ALTER TABLE "Order" ALTER due TYPE timestamptz USING due AT TIME ZONE 'Europe/Berlin';
ALTER TABLE line ALTER no TYPE bigint;
"""
ODD_REST = """
mapping:
  '"Order".doc': {old_version_reads: true}
  '"Order".note': {old_version_reads: true, down: "repeat('x', least(note, 20))"}
  '"Order".due': {old_version_reads: true, down: "due AT TIME ZONE 'Europe/Berlin'"}
"""


@pytest.mark.every_version
def test_composite_keys_odd_names_and_computed_values(database: Target, tmp_path: Path) -> None:
    plan = planned(database, ODD, written(tmp_path, "odd", ODD_CHANGE, ODD_REST))
    stage = carry_out(database, plan, PHASES[:3])
    with stage.session() as app:
        app.execute("""INSERT INTO "Order" VALUES ('c', 3, 6, '{}', 'abc', '2024-03-01')""")
        with pytest.raises(psycopg.errors.CheckViolation):
            app.execute("""INSERT INTO "Order" ("Kind", "No", "Größe", due) VALUES ('d', 4, 7, '2024-03-01')""")
    carry_out(database, plan, ("switch",))
    with stage.session(("TimeZone", "UTC")) as app:
        found = row(app, """SELECT "No", "Größe", doc, note, due::text FROM "Order" WHERE "Kind" = 'c'""")
        assert found == (3, 6, {}, 3, "2024-02-29 23:00:00+00")
        app.execute("""INSERT INTO "Order" ("Kind", "No", due) VALUES ('e', 5000000000, '2024-03-01Z')""")
        app.execute("INSERT INTO line (id, kind, no) VALUES (3, 'e', 5000000000)")
        app.execute("""UPDATE "Order" SET "Größe" = 8.0, note = 12 WHERE "Kind" = 'a'""")
        assert [entry[1:4] for entry in recorded(app)] == [
            ('["e", 5000000000]', "22003", "down"),
            ("[3]", "22003", "down"),
            ('["a", 1]', "22001", "down"),
        ]
        app.execute("""DELETE FROM "Order" WHERE "No" = 5000000000""")
        assert row(app, "SELECT count(*) FROM line WHERE id = 3") == (0,)
        app.execute("""UPDATE "Order" SET note = NULL WHERE "Kind" = 'a'""")
    undo(database, plan, PHASES[:4])
    assert hash_of(stage) == plan.schema_before
    carry_out(database, plan, PHASES)
    assert hash_of(stage) == plan.schema_target


REFUSED = {
    "a key that could merge": (
        "ALTER TABLE price ALTER amount TYPE int",
        "{price.amount: {old_version_reads: true}}",
        "two values could become one",
    ),
    "a view reads it": ("ALTER TABLE price ALTER seen TYPE bigint", "", "view"),
    "a foreign key that sets a default": (
        "ALTER TABLE line ALTER id TYPE bigint; ALTER TABLE setting ALTER no TYPE bigint",
        "",
        "SET DEFAULT",
    ),
    "the replica identity is an index": (
        "ALTER TABLE price ALTER id TYPE bigint",
        "",
        "replica identity",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(database: Target, tmp_path: Path, case: str) -> None:
    change, mapping, reason = REFUSED[case]
    schema = ODD
    if case == "the replica identity is an index":
        schema += "ALTER TABLE price REPLICA IDENTITY USING INDEX price_pkey;"
    with pytest.raises(UsageError, match=reason) as refused:
        planned(database, schema, written(tmp_path, "refused", change + ";", f"mapping: {mapping}" if mapping else ""))
    assert refused.value.safety == "Nothing was touched."
