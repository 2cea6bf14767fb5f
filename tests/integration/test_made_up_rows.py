"""Rows are made up for tables with odd demands, too, and none of them makes a rehearsal fail."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg import sql

from tasks.database.connection import Target, connect
from tasks.planning.made_up import ColumnType, Shape, variants
from tests.integration.staging import planned, written
from tests.integration.test_rehearsal import rehearsed, tables

ODD = """
CREATE SEQUENCE for_text; CREATE SEQUENCE for_uuid;
CREATE TABLE code (id int PRIMARY KEY, code text NOT NULL DEFAULT 'A' || nextval('for_text'), n int);
ALTER SEQUENCE for_text OWNED BY code.code;
CREATE TABLE tree (id uuid PRIMARY KEY, up uuid NOT NULL REFERENCES tree, n int);
ALTER SEQUENCE for_uuid OWNED BY tree.id;
CREATE TABLE short (id int GENERATED ALWAYS AS IDENTITY (MAXVALUE 100) PRIMARY KEY, n int);
CREATE DOMAIN required AS int NOT NULL; CREATE DOMAIN below AS required CHECK (VALUE > 0);
CREATE TABLE strict (id int PRIMARY KEY, x required, y below, n int);
CREATE TABLE apart (id int PRIMARY KEY, small smallint NOT NULL, code int REFERENCES code DEFERRABLE, n int,
    EXCLUDE USING btree (small WITH =));
CREATE FUNCTION loud() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''not by hand''; END';
CREATE TABLE guarded (id int PRIMARY KEY, n int);
CREATE TRIGGER loud BEFORE INSERT ON guarded FOR EACH ROW EXECUTE FUNCTION loud();
ALTER TABLE guarded ENABLE ALWAYS TRIGGER loud;
"""
NAMES = ("code", "tree", "short", "strict", "apart", "guarded")


def test_odd_sequences_keys_domains_and_triggers_are_no_hindrance(database: Target, tmp_path: Path) -> None:
    change = "".join(f"ALTER TABLE {name} ADD COLUMN z int;\n" for name in NAMES)
    found = rehearsed(database, planned(database, ODD, written(tmp_path, "odd", change)))
    assert found.failure == ""
    assert found.rolled_back
    made = tables(found)
    assert {name: made[name] for name in NAMES if name != "apart"} == {
        name: (1_000, "") for name in NAMES if name != "apart"
    }
    # Values that were made up twice are left out, as nothing else is deferred.
    assert made["apart"][0] > 900


UNIQUE = """
CREATE TABLE odd (id int PRIMARY KEY, x text NOT NULL CHECK (length(x) = 3 AND x ~ '[äöü]'), y int NOT NULL);
CREATE TABLE even (id int PRIMARY KEY, y int NOT NULL);
CREATE TABLE owned (id int PRIMARY KEY, owner int NOT NULL, gone timestamptz, first boolean NOT NULL);
"""
MORE_UNIQUE = """
ALTER TABLE odd ADD UNIQUE (y);
ALTER TABLE even ADD UNIQUE (y);
CREATE UNIQUE INDEX CONCURRENTLY one_each ON owned (owner) WHERE gone IS NULL;
CREATE UNIQUE INDEX CONCURRENTLY one_first ON owned (first) WHERE first;
"""


def test_rows_are_unique_as_the_change_demands_and_nothing_of_that_stays(database: Target, tmp_path: Path) -> None:
    found = rehearsed(database, planned(database, UNIQUE, written(tmp_path, "unique", MORE_UNIQUE)))
    assert found.failure == ""
    assert tables(found) == {
        "odd": (0, "no made-up row satisfies the constraints on x"),
        "even": (1_000, ""),
        "owned": (1_000, ""),
    }


TENANTS = """
CREATE TABLE tenant (id int PRIMARY KEY);
CREATE TABLE booking (tenant int REFERENCES tenant, id int, PRIMARY KEY (tenant, id));
CREATE TABLE item (id int PRIMARY KEY, up int NOT NULL REFERENCES item, tenant int NOT NULL REFERENCES tenant,
    booking int NOT NULL, earlier int NOT NULL,
    FOREIGN KEY (tenant, booking) REFERENCES booking, FOREIGN KEY (tenant, earlier) REFERENCES booking);
CREATE TABLE egg (id int PRIMARY KEY, hen int NOT NULL);
CREATE TABLE hen (id int PRIMARY KEY, egg int NOT NULL REFERENCES egg);
ALTER TABLE egg ADD FOREIGN KEY (hen) REFERENCES hen DEFERRABLE INITIALLY DEFERRED;
"""
WIDER = "".join(
    f"ALTER TABLE {table} ALTER COLUMN {column} TYPE bigint;\n"
    for table, column in (("booking", "id"), ("item", "up"), ("item", "booking"), ("item", "earlier"), ("egg", "hen"))
)


def test_made_up_rows_reference_rows_that_are_there(database: Target, tmp_path: Path) -> None:
    """Their new columns get foreign keys of their own, which are validated: itself, shared columns, a circle."""
    found = rehearsed(database, planned(database, TENANTS, written(tmp_path, "wider", WIDER)))
    assert found.failure == ""
    assert found.rolled_back
    assert tables(found) == {
        "tenant": (1_000, ""),
        "booking": (1_000, ""),
        "item": (1_000, ""),
        "egg": (0, "hen must reference a row of public.hen, which has none here"),
        "hen": (0, "egg must reference a row of public.egg, which has none here"),
    }
    assert [phase.gates_factor for phase in found.phases] == [None] * len(found.phases)


@pytest.mark.parametrize("type_", ["text", "bytea", "jsonb"])
@pytest.mark.parametrize("width", [40, 1_500])
def test_values_are_as_wide_as_the_statistics_say(database: Target, type_: str, width: int) -> None:
    value, *_ = variants(
        "c", ColumnType(type_, type_), Shape(width, 0.0), rows=1_000, unique=True, nullable=False, named=()
    )
    # As in a page: compression begins with rows of two thousand bytes.
    measured = sql.SQL("SELECT avg(pg_column_size({}))::int, count(DISTINCT ({})::text) FROM {} AS made (i)").format(
        value, value, sql.SQL("generate_series(1, 1000)")
    )
    with connect(database, role="test") as connection:
        ((size, different),) = connection.execute(measured).fetchall()
    assert width * 0.8 < size < width * 1.5
    assert different == 1_000


RARE = ("macaddr", "macaddr8", "bit(20)", "oid", "name", "int4range", "int8range", "numrange", "daterange", "tsrange",
        "tstzrange")  # fmt: skip


def test_rarer_types_have_values_too_and_ranges_do_not_overlap(database: Target, tmp_path: Path) -> None:
    columns = ", ".join(f"c{number} {type_} NOT NULL UNIQUE" for number, type_ in enumerate(RARE))
    apart = ", ".join(f"EXCLUDE USING gist (c{n} WITH &&)" for n, type_ in enumerate(RARE) if "range" in type_)
    schema = f"CREATE TABLE t (id int PRIMARY KEY, {columns}, {apart})"
    found = rehearsed(database, planned(database, schema, written(tmp_path, "more", "ALTER TABLE t ADD COLUMN z int")))
    assert found.failure == ""
    assert tables(found) == {"t": (1_000, "")}
