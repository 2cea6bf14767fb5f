"""What depends on a renamed or dropped column follows it, or is refused by name; tables under two names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tasks.database import oracle
from tasks.database.connection import Target
from tasks.planning.errors import UsageError
from tests.conftest import AnyServer, _new_database, server_major
from tests.integration.staging import PHASES, carry_out, row, undo, writers, written
from tests.integration.test_objects import by_hand, texts

SCHEMA = """
CREATE TABLE person (
    id int PRIMARY KEY, name text NOT NULL, nick text, town text, note text, shown text,
    twice text GENERATED ALWAYS AS (shown || shown) STORED, told text, tale text
);
CREATE TABLE log (id int GENERATED ALWAYS AS IDENTITY, what text);
CREATE VIEW names AS SELECT id, name FROM person;
CREATE VIEW loud WITH (security_barrier = true) AS SELECT id, upper(name) AS loud FROM names;
CREATE VIEW louder AS SELECT l.id, l.loud || '!' AS louder, p.name FROM loud l JOIN person p USING (id);
COMMENT ON VIEW names IS 'of people';
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN INSERT INTO log (what) VALUES (TG_OP); RETURN NULL; END';
CREATE FUNCTION log_note() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN INSERT INTO log (what) VALUES (NEW.note); RETURN NULL; END';
CREATE FUNCTION trim_told() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN NEW.told := trim(NEW.told); RETURN NEW; END';
CREATE FUNCTION towns() RETURNS bigint LANGUAGE plpgsql AS
  'BEGIN RETURN (SELECT count(DISTINCT town) FROM person); END';
CREATE TRIGGER on_name AFTER UPDATE OF name ON person FOR EACH ROW
  WHEN (OLD.name IS DISTINCT FROM NEW.name) EXECUTE FUNCTION audit();
CREATE TRIGGER on_note AFTER UPDATE ON person FOR EACH ROW EXECUTE FUNCTION log_note();
CREATE TRIGGER on_told BEFORE INSERT ON person FOR EACH ROW EXECUTE FUNCTION trim_told();
CREATE STATISTICS together ON name, nick FROM person;
CREATE INDEX loud_name ON person (upper(name));
CREATE TABLE guarded (id int PRIMARY KEY, owner text NOT NULL);
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON guarded USING (owner = CURRENT_USER) WITH CHECK (owner <> '');
CREATE MATERIALIZED VIEW tales AS SELECT tale FROM person;
CREATE TABLE tag (id serial PRIMARY KEY, name text NOT NULL UNIQUE, person_id int REFERENCES person (id));
CREATE INDEX tag_of ON tag (person_id);
CREATE TABLE tagged (id int PRIMARY KEY, tag_id int REFERENCES tag (id));
CREATE VIEW tags AS SELECT * FROM tag;
CREATE FUNCTION count_tags() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM tag); END';
CREATE TABLE fax (id int PRIMARY KEY, person_id int REFERENCES person (id), number text);
GRANT SELECT (id, name), UPDATE (name) ON person TO PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON tag TO PUBLIC;
INSERT INTO person (id, name, town) SELECT n, 'n' || n, 't' FROM generate_series(1, 5) AS n;
INSERT INTO guarded VALUES (1, 'me');
INSERT INTO tag (name, person_id) VALUES ('one', 1);
INSERT INTO fax VALUES (1, 1, '555');
"""

RENAME = """
ALTER TABLE person RENAME name TO full_name;
ALTER TABLE guarded RENAME owner TO holder;
"""

RENAME_TABLE = """
ALTER TABLE tag RENAME TO label;
ALTER TABLE label RENAME CONSTRAINT tag_pkey TO label_pkey;
ALTER INDEX tag_of RENAME TO label_of;
ALTER SEQUENCE tag_id_seq RENAME TO label_id_seq;
CREATE VIEW labels AS SELECT * FROM label;
COMMENT ON TABLE label IS 'was tag';
CREATE OR REPLACE FUNCTION count_tags() RETURNS bigint LANGUAGE plpgsql AS
  'BEGIN RETURN (SELECT count(*) FROM label); END';
"""

REFUSED = {
    "a generated column": ("ALTER TABLE person RENAME shown TO displayed", "generated column .*twice.*add it again"),
    "a materialized view": (
        "ALTER TABLE person RENAME tale TO story",
        "materialized view public.tales.*create it again",
    ),
    "a trigger function that would fail": (
        "ALTER TABLE person RENAME note TO remark",
        "log_note.*Replace the function",
    ),
    "a BEFORE trigger on the column": ("ALTER TABLE person RENAME told TO said", "trim_told.*before the sync"),
}


@pytest.fixture(scope="module")
def people(server: AnyServer) -> Iterator[Target]:
    with _new_database(server, "template0") as target:
        with psycopg.connect(target.conninfo, autocommit=True) as connection:
            connection.execute(SCHEMA.encode())
        yield target


@pytest.mark.every_version
def test_views_policies_triggers_and_statistics_follow_a_renamed_column(
    server: AnyServer, people: Target, tmp_path: Path
) -> None:
    with _new_database(server, people.name) as target:
        plan = oracle.plan(written(tmp_path, "follow", RENAME), target)
        before = texts(target)
        stage = carry_out(target, plan, PHASES[:4])
        with stage.session() as application:
            application.execute("UPDATE person SET full_name = 'new' WHERE id = 1")
            application.execute("UPDATE names SET name = 'by view' WHERE id = 2")
            assert row(application, "SELECT name, full_name FROM person WHERE id = 1") == ("new", "new")
            assert row(application, "SELECT name, full_name FROM person WHERE id = 2") == ("by view", "by view")
            assert row(application, "SELECT louder, name FROM louder WHERE id = 2") == ("BY VIEW!", "by view")
            # The trigger listens to both names, and a write through the view counts as one of the new shape.
            assert row(application, "SELECT count(*) FROM log WHERE what = 'UPDATE'") == (2,)
            assert writers(application) == 0
        undo(target, plan, PHASES[:4])
        assert texts(target) == before
        carry_out(target, plan, PHASES)
        assert texts(target) == by_hand(server, people, RENAME)


@pytest.mark.skipif(server_major() < 14, reason="bodies in standard SQL came with PostgreSQL 14")
def test_a_function_with_a_parsed_body_follows(server: AnyServer, people: Target, tmp_path: Path) -> None:
    function = "CREATE FUNCTION called(n int) RETURNS text BEGIN ATOMIC SELECT name FROM person WHERE id = n; END"
    with _new_database(server, people.name) as target:
        with psycopg.connect(target.conninfo, autocommit=True) as connection:
            connection.execute(function.encode())
        plan = oracle.plan(written(tmp_path, "follow", RENAME), target)
        stage = carry_out(target, plan, PHASES)
        with stage.session() as application:
            assert row(application, "SELECT called(3)") == ("n3",)


def test_a_function_whose_body_is_text_is_named(people: Target, tmp_path: Path) -> None:
    plan = oracle.plan(written(tmp_path, "follow", "ALTER TABLE person RENAME town TO city;"), people)
    assert [note.severity for note in plan.notes if "public.towns()" in note.text] == ["WARNING"]


def test_a_trigger_function_is_replaced_at_the_switch(server: AnyServer, people: Target, tmp_path: Path) -> None:
    change = """
    ALTER TABLE person RENAME note TO remark;
    CREATE OR REPLACE FUNCTION log_note() RETURNS trigger LANGUAGE plpgsql AS
      'BEGIN INSERT INTO log (what) VALUES (NEW.remark); RETURN NULL; END';
    """
    with _new_database(server, people.name) as target:
        plan = oracle.plan(written(tmp_path, "follow", change), target)
        assert "Function public.log_note() is changed" in [step.title for step in plan.phase("switch").steps]
        stage = carry_out(target, plan, PHASES[:4])
        with stage.session() as application:
            application.execute("UPDATE person SET note = 'of old' WHERE id = 1")
            application.execute("UPDATE person SET remark = 'of new' WHERE id = 1")
            logged = application.execute("SELECT what FROM log WHERE what LIKE 'of %' ORDER BY id").fetchall()
        assert logged == [("of old",), ("of new",)]
        carry_out(target, plan, PHASES[4:])


def test_a_trigger_that_goes_before_the_column_needs_no_other_function(people: Target, tmp_path: Path) -> None:
    change = "ALTER TABLE person RENAME note TO remark; DROP TRIGGER on_note ON person;"
    plan = oracle.plan(written(tmp_path, "follow", change), people)
    titles = [step.title for step in plan.phase("contract").steps]
    assert titles.index("Trigger on_note on public.person is dropped") < titles.index(
        "Remove the old shape of public.person"
    )


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_follow_is_refused_by_name(people: Target, tmp_path: Path, case: str) -> None:
    change, reason = REFUSED[case]
    with pytest.raises(UsageError) as refused:
        oracle.plan(written(tmp_path, "follow", change + ";"), people)
    assert re.search(reason, f"{refused.value.what} {refused.value.remedy}", re.DOTALL), refused.value


def test_a_column_that_a_publication_names_is_refused(server: AnyServer, people: Target, tmp_path: Path) -> None:
    with _new_database(server, people.name) as target:
        with psycopg.connect(target.conninfo, autocommit=True) as connection:
            connection.execute("CREATE PUBLICATION told FOR TABLE tag")
        with pytest.raises(UsageError, match="the publication told sends"):
            oracle.plan(written(tmp_path, "follow", "ALTER TABLE tag RENAME TO label;"), target)


@pytest.mark.every_version
def test_a_renamed_table_has_both_names_until_contract(server: AnyServer, people: Target, tmp_path: Path) -> None:
    with _new_database(server, people.name) as target:
        plan = oracle.plan(written(tmp_path, "names", RENAME_TABLE), target)
        before = texts(target)
        stage = carry_out(target, plan, PHASES[:4])
        with stage.session() as application:
            for table in ("tag", "label"):
                insert = f"INSERT INTO {table} (name, person_id) VALUES ('{table}', 1) RETURNING id > 1"
                assert row(application, insert) == (True,)
                upsert = f"INSERT INTO {table} (name) VALUES ('{table}') ON CONFLICT (name) DO UPDATE SET person_id = 2"
                application.execute(upsert.encode())
                assert row(application, f"SELECT person_id FROM {table} WHERE name = '{table}' FOR UPDATE") == (2,)
                application.execute(f"UPDATE {table} SET person_id = 3 WHERE name = '{table}'".encode())
                application.execute(f"DELETE FROM {table} WHERE name = '{table}'".encode())
            assert row(application, "SELECT count(*) FROM tag, label, tags, labels") == (1,)
            assert row(application, "SELECT count_tags()") == (1,)
            for impossible in ("TRUNCATE tag", "COPY tag TO STDOUT", "SELECT ctid FROM tag"):
                with pytest.raises(psycopg.Error):
                    application.execute(impossible.encode())
            application.execute("SET ROLE pg_monitor")  # nobody's in particular: it has what PUBLIC has
            assert row(application, "SELECT name FROM tag") == ("one",)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                application.execute("SELECT * FROM fax")
        undo(target, plan, PHASES[:4])
        assert texts(target) == before
        carry_out(target, plan, PHASES)
        assert texts(target) == by_hand(server, people, RENAME_TABLE)


def test_row_security_holds_through_the_old_name(server: AnyServer, people: Target, tmp_path: Path) -> None:
    spec = written(tmp_path, "names", "ALTER TABLE guarded RENAME TO kept;")
    with _new_database(server, people.name) as target:
        with psycopg.connect(target.conninfo, autocommit=True) as connection:
            connection.execute("GRANT SELECT ON guarded TO pg_monitor")
        if server_major() < 15:
            with pytest.raises(UsageError, match="row security"):
                oracle.plan(spec, target)
            return
        plan = oracle.plan(spec, target)
        stage = carry_out(target, plan, PHASES[:4])
        with stage.session() as application:
            assert row(application, "SELECT count(*) FROM guarded") == (1,)
            application.execute("SET ROLE pg_monitor")
            assert row(application, "SELECT count(*) FROM guarded") == (0,)


def test_writers_of_a_table_that_goes_are_counted(server: AnyServer, people: Target, tmp_path: Path) -> None:
    with _new_database(server, people.name) as target:
        plan = oracle.plan(written(tmp_path, "gone", "DROP TABLE fax;"), target)
        gate = plan.phase("contract").gate_before
        assert gate is not None
        check = next(check for check in gate.checks if check.kind == "old_writers")
        before = texts(target)
        stage = carry_out(target, plan, ("switch",))
        with stage.session() as application:
            assert row(application, check.sql)[0] == 0
            application.execute("INSERT INTO fax VALUES (2, 2, '556')")
            assert row(application, check.sql)[0] == 1
        undo(target, plan, ("switch",))
        assert texts(target) == before
        carry_out(target, plan, ("switch", "contract"))
        assert texts(target) == by_hand(server, people, "DROP TABLE fax")
