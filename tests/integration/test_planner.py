"""What the planner accepts, proven on clones, and what it refuses by name: exit 2, with a remedy, nothing touched."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tasks.database import oracle
from tasks.database.catalog import snapshot
from tasks.database.connection import Target, connect
from tasks.planning.errors import UsageError
from tasks.planning.plan import BuildIndex, DropIndex, Plan
from tasks.planning.schema_hash import schema_hash
from tasks.planning.spec import LoadedSpec, load
from tests.conftest import AnyServer, _new_database
from tests.integration.staging import PHASES, carry_out, undo, written

SCHEMA = """
CREATE DOMAIN filled AS text NOT NULL;
CREATE TABLE tag (id int PRIMARY KEY, name text NOT NULL UNIQUE);
CREATE TABLE person (
    id     int PRIMARY KEY,
    tag_id int REFERENCES tag (id) ON DELETE SET NULL,
    email  text NOT NULL UNIQUE,
    name   text NOT NULL CHECK (name <> ''),
    age    int NOT NULL CHECK (age >= 0),
    nick   text DEFAULT 'none',
    seen   text,
    shown  text,
    twice  text GENERATED ALWAYS AS (shown || shown) STORED,
    worded filled DEFAULT 'x',
    CONSTRAINT grown CHECK (age < 200)
);
CREATE INDEX person_name ON person (lower(name)) WHERE age > 3;
CREATE INDEX person_tag ON person (tag_id);
CREATE UNIQUE INDEX person_seen ON person (seen, tag_id) WHERE tag_id > 100;
CREATE VIEW seen_person AS SELECT id, seen FROM person;
CREATE FUNCTION noop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE FUNCTION inner_up(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper($1)';
CREATE FUNCTION outer_up(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN inner_up($1); END';
CREATE FUNCTION outer_fixed(text) RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = public
  AS 'BEGIN RETURN inner_up($1); END';
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE span (
    id int PRIMARY KEY, low int NOT NULL, high int NOT NULL, kept int, felt mood NOT NULL DEFAULT 'glad',
    CHECK (low < high), CHECK (kept IS NOT NULL AND high > 0)
);
CREATE TABLE formed (id int PRIMARY KEY, plate text NOT NULL CHECK (plate ~ '^[A-Z]{2}-[0-9]+$'));
INSERT INTO span SELECT n, n, n + 5, n FROM generate_series(1, 5) AS n;
CREATE TABLE keyless (a int, b text);
CREATE TABLE parted (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);
CREATE TABLE guarded (id int PRIMARY KEY, owner text);
CREATE POLICY own ON guarded USING (owner = CURRENT_USER);
CREATE TABLE "Größe" (
    "a ""b"" c" uuid, k text,
    "sixty_three_bytes_long_name_of_a_column_that_is_as_long_as_it_g" int NOT NULL DEFAULT 3,
    PRIMARY KEY ("a ""b"" c", k)
);
INSERT INTO tag VALUES (1, 'one');
INSERT INTO person (id, tag_id, email, name, age)
SELECT n, 1, 'e' || n, 'First Last' || n, n FROM generate_series(1, 9) n;
INSERT INTO "Größe" SELECT gen_random_uuid(), n::text, n FROM generate_series(1, 5) AS n;
"""
LONG = "sixty_three_bytes_long_name_of_a_column_that_is_as_long_as_it_g"

REFUSED = {
    "the same name, and the referring column stays": (
        "ALTER TABLE tag ALTER id TYPE bigint",
        "",
        'public.person.tag_id refers.*ALTER COLUMN "tag_id" TYPE bigint',
    ),
    "the same name with a type that the old version may not read": (
        "ALTER TABLE tag ALTER name TYPE int USING length(name)",
        "{tag.name: {down: 'name::text'}}",
        "old_version_reads",
    ),
    "unique over a mapping that merges": (
        "ALTER TABLE person ADD mail text NOT NULL UNIQUE, DROP email",
        "{person.mail: {up: 'lower(email)', down: {email: mail}}}",
        "could become one",
    ),
    "unique over a rounding cast": (
        "ALTER TABLE tag ADD code bigint UNIQUE, DROP name",
        "{tag.code: {up: 'name::bigint', down: {name: 'code::text'}}}",
        "could become one|cannot be used|row",
    ),
    "a unique constraint that the old shape lacks": (
        "ALTER TABLE person RENAME name TO called; ALTER TABLE person ADD UNIQUE (called)",
        "",
        "old application does not know it",
    ),
    "a unique index that is stronger than the old one": (
        "ALTER TABLE person RENAME tag_id TO label_id; CREATE UNIQUE INDEX i ON person (seen, label_id)",
        "",
        "old application does not know it",
    ),
    "a unique index on a column that up fills": (
        "ALTER TABLE person ADD x int UNIQUE",
        "{person.x: {up: id}}",
        "old application does not know it",
    ),
    "a mapping of a column that is not there": (
        "ALTER TABLE person RENAME email TO mail",
        "{person.meil: {up: email}}",
        "no such column",
    ),
    "a foreign key over a computed column": (
        "ALTER TABLE person ADD t int REFERENCES tag (id), DROP tag_id",
        "{person.t: {up: 'tag_id + 0', down: {tag_id: 't + 0'}}}",
        "foreign key",
    ),
    "dropping NOT NULL without down": ("ALTER TABLE person DROP age", "", "NOT NULL without a default"),
    "adding NOT NULL without anything": ("ALTER TABLE person ADD x int NOT NULL", "", "existing rows"),
    "a generated column reads it": ("ALTER TABLE person RENAME shown TO displayed", "", "generated column"),
    "a column of the primary key": ("ALTER TABLE tag RENAME id TO tag_id", "", "primary key"),
    "a partitioned table": ("ALTER TABLE parted RENAME a TO b", "", "partitioned"),
    "a table without key": ("ALTER TABLE keyless RENAME a TO c", "", "no primary key"),
    "two ways back": (
        "ALTER TABLE person ADD f text NOT NULL, ADD l text NOT NULL, DROP name",
        "{person.f: {up: name, down: {name: f}}, person.l: {up: name, down: {name: l}}}",
        "two different down",
    ),
    "an unknown table": ("ALTER TABLE person ADD x int", "{nobody.x: {up: '1'}}", "no table"),
    "an unknown column in up": ("ALTER TABLE person ADD x int", "{person.x: {up: 'nothing + 1'}}", "nothing"),
    "a table that is not changed": ("ALTER TABLE person ADD x int", "{tag.name: {up: 'name'}}", "does not touch"),
    "a volatile up": ("ALTER TABLE person ADD x float", "{person.x: {up: 'random()'}}", "volatile"),
    "an identity column": ("ALTER TABLE person ADD x int GENERATED ALWAYS AS IDENTITY", "", "identity"),
    "a generated column": ("ALTER TABLE person ADD x int GENERATED ALWAYS AS (age + 1) STORED", "", "generated"),
    "the default of a mapped column": (
        "ALTER TABLE person ADD x int NOT NULL DEFAULT 3",
        "{person.x: {up: 'age + 1'}}",
        "DEFAULT",
    ),
    "an INSERT that cannot be told apart": ("ALTER TABLE person RENAME nick TO alias", "", "cannot be told"),
    "a domain that refuses NULL": ("ALTER TABLE person RENAME worded TO phrase", "", "refuses NULL"),
    "up that fails on a row": ("ALTER TABLE person ADD x int", "{person.x: {up: 'name::int'}}", "22P02"),
    "a function that relies on search_path": (
        "ALTER TABLE person ADD x text",
        "{person.x: {up: outer_up(name)}}",
        "42883.*search_path",
    ),
    "down that a check refuses": (
        "ALTER TABLE person ADD years int NOT NULL, DROP age",
        "{person.years: {up: age, down: {age: years}}}",
        "old shape refuses",
    ),
}

ACCEPTED = {
    "add nullable": ("ALTER TABLE person ADD x int", "", 0),
    "add with default": ("ALTER TABLE person ADD x int NOT NULL DEFAULT 3", "", 0),
    "add with up": (
        "ALTER TABLE person ADD x text NOT NULL CHECK (x <> '')",
        "{person.x: {up: upper(name)}}",
        1,
    ),
    "add with a function of the user's": (
        "ALTER TABLE person ADD x text",
        "{person.x: {up: outer_fixed(name)}}",
        1,
    ),
    "rename with unique, check, index, foreign key": (
        "ALTER TABLE person RENAME email TO mail; ALTER TABLE person RENAME name TO called;"
        " ALTER TABLE person RENAME age TO years; ALTER TABLE person RENAME tag_id TO label_id",
        "",
        4,
    ),
    "a unique index that the old one implies": (
        "ALTER TABLE tag RENAME name TO title; CREATE UNIQUE INDEX titles ON tag (title, id)",
        "",
        1,
    ),
    "renames under CHECKs over several columns, and of an enum with a default": (
        "ALTER TABLE span RENAME low TO bottom; ALTER TABLE span RENAME high TO top;"
        " ALTER TABLE span RENAME felt TO feeling",
        "",
        3,
    ),
    "retype and rename": (
        "ALTER TABLE person ALTER age TYPE bigint; ALTER TABLE person RENAME age TO years",
        "{person.years: {down: 'least(years, 199)::int'}}",
        1,
    ),
    "split": (
        "ALTER TABLE person ADD first text NOT NULL, ADD last text NOT NULL, DROP name",
        "{person.first: {up: \"split_part(name, ' ', 1)\", down: {name: \"first || ' ' || last\"}},"
        " person.last: {up: \"split_part(name, ' ', 2)\"}}",
        1,
    ),
    "drop nullable": ("ALTER TABLE person DROP nick", "", 0),
    "drop NOT NULL": ("ALTER TABLE person DROP age", "{person.age: {down: '0'}}", 1),
    "indexes": (
        "CREATE UNIQUE INDEX i1 ON person (email, age) INCLUDE (name);"
        " CREATE INDEX i2 ON person (upper(name)) WHERE age > 2; DROP INDEX person_tag",
        "",
        0,
    ),
    "several tables": ("ALTER TABLE person ADD x int; ALTER TABLE tag RENAME name TO title", "", 1),
    "odd names": (f'ALTER TABLE "Größe" RENAME {LONG} TO "Ü; -- ""%s"" {{}}"', "", 1),
}

ON_EVERY_VERSION = {"add with up", "split", "indexes", "odd names"}


@pytest.fixture(scope="module")
def people(server: AnyServer) -> Iterator[Target]:
    """A database to plan on; planning only reads it."""
    with _new_database(server, "template0") as target:
        with psycopg.connect(target.conninfo, autocommit=True) as connection:
            connection.execute(SCHEMA.encode())
        yield target


def spec_of(folder: Path, change: str, mapping: str) -> LoadedSpec:
    return written(folder, "people-v2", change + ";", f"mapping: {mapping}\n" if mapping else "")


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name_with_a_remedy(people: Target, tmp_path: Path, case: str) -> None:
    change, mapping, reason = REFUSED[case]
    with pytest.raises(UsageError) as refused:
        oracle.plan(spec_of(tmp_path, change, mapping), people)
    assert re.search(reason, f"{refused.value.what} {refused.value.remedy}", re.DOTALL), refused.value
    assert refused.value.exit_code == 2
    assert refused.value.safety == "Nothing was touched."


@pytest.mark.parametrize(
    "case",
    [pytest.param(name, marks=[pytest.mark.every_version] if name in ON_EVERY_VERSION else []) for name in ACCEPTED],
)
def test_accepted_changes_reach_the_target_and_go_back(
    server: AnyServer, people: Target, tmp_path: Path, case: str
) -> None:
    """On real rows: every phase, and on a copy everything but contract and all of it undone."""
    change, mapping, groups = ACCEPTED[case]
    with _new_database(server, people.name) as there, _new_database(server, people.name) as back:
        plan = oracle.plan(spec_of(tmp_path, change, mapping), there)
        assert len(plan.groups) == groups
        carry_out(there, plan, PHASES)
        assert hash_of(there, plan) == plan.schema_target
        carry_out(back, plan, PHASES[:4])
        undo(back, plan, PHASES[:4])
        assert hash_of(back, plan) == plan.schema_before


def test_the_reverse_spec_leads_back(server: AnyServer, people: Target, tmp_path: Path) -> None:
    change, mapping, _ = ACCEPTED["split"]
    with _new_database(server, people.name) as target:
        plan = oracle.plan(spec_of(tmp_path, change, mapping), target)
        carry_out(target, plan, PHASES)
        path = tmp_path / "reverse.yaml"
        path.write_text(plan.reverse)
        reverse = oracle.plan(load(path), target)
        carry_out(target, reverse, PHASES)
        assert hash_of(target, plan) == plan.schema_before
        with psycopg.connect(target.conninfo) as connection:
            names = connection.execute("SELECT name FROM person ORDER BY id").fetchall()
        assert names == [(f"First Last{n}",) for n in range(1, 10)]


def test_the_plan_says_whether_the_sync_was_tried(people: Target, tmp_path: Path) -> None:
    tried = oracle.plan(spec_of(tmp_path, "ALTER TABLE tag RENAME name TO title", ""), people).notes
    assert [note.severity for note in tried if "made-up rows went through the sync" in note.text] == ["INFO"]
    unfit = oracle.plan(spec_of(tmp_path, "ALTER TABLE formed RENAME plate TO sign", ""), people).notes
    assert [note.severity for note in unfit if "was not tried" in note.text] == ["WARNING"]


def test_the_same_spec_gives_the_same_plan(people: Target, tmp_path: Path) -> None:
    change, mapping, _ = ACCEPTED["rename with unique, check, index, foreign key"]
    spec = spec_of(tmp_path, change, mapping)
    assert oracle.plan(spec, people).model_dump_json() == oracle.plan(spec, people).model_dump_json()


def test_indexes_are_built_and_dropped_concurrently(people: Target, tmp_path: Path) -> None:
    change, mapping, _ = ACCEPTED["indexes"]
    plan = oracle.plan(spec_of(tmp_path, change, mapping), people)
    actions = [step.action for phase in plan.phases for step in phase.steps]
    built = [action for action in actions if isinstance(action, BuildIndex)]
    assert [action.index for action in built] == ["i1", "i2"]
    assert all("CONCURRENTLY" in action.statement for action in built)
    assert [action.index for action in actions if isinstance(action, DropIndex)] == ["person_tag"]


def test_another_table_can_be_planned_while_a_migration_is_under_way(
    server: AnyServer, people: Target, tmp_path: Path
) -> None:
    """The clone has the first one's columns, and not its sync trigger, whose function is Lockstep's own."""
    with _new_database(server, people.name) as target:
        first = oracle.plan(written(tmp_path, "first", "ALTER TABLE tag RENAME name TO title;"), target)
        carry_out(target, first, PHASES[:3])
        second = oracle.plan(written(tmp_path, "second", "ALTER TABLE person ADD x int;"), target)
        carry_out(target, second, PHASES)
        assert hash_of(target, second) == second.schema_target
        carry_out(target, first, PHASES[3:])
        assert hash_of(target, first) == first.schema_target


def hash_of(target: Target, plan: Plan) -> str:
    with connect(target, role="test") as connection:
        return schema_hash(snapshot(connection), plan.scope)
