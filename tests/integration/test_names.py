"""Names that need quotes, that are as long as names can be, that mean something in SQL, PL/pgSQL or to Lockstep."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tasks.database.connection import Target
from tasks.planning.errors import UsageError
from tests.integration.journey import columns, only, prepared, rows

LONG = "ä" * 31 + "x"
"""63 bytes, and the cut of a name derived from it would fall into the middle of a letter."""
RENAMED = "ö" * 31 + "y"
ODD = sql.Identifier('50 %s of {0} "it\'s" $1 :b \\ ; --').as_string()
TABLE = '"Mixed.Case %s, x"."select"'

SCHEMA = f"""
CREATE SCHEMA "Mixed.Case %s, x";
CREATE TABLE {TABLE} (
    "Key" int PRIMARY KEY,
    "new" text NOT NULL CHECK ("new" <> '%s'),
    "old" int NOT NULL DEFAULT 3,
    "found" text NOT NULL,
    {ODD} text,
    "{LONG}" text,
    "lockstep_mask" int,
    "lockstep_row" int
);
CREATE INDEX "{LONG[:-2]}i" ON {TABLE} ("{LONG}", "new");
INSERT INTO {TABLE} SELECT n, 'new ' || n, n, n::text, 'odd ' || n, 'long ' || n, n, n FROM generate_series(1, 200) n;
CREATE TABLE item (id int PRIMARY KEY, a text);
CREATE TABLE "Item" (id int PRIMARY KEY, a text);
CREATE SCHEMA "Public";
CREATE TABLE "Public".item (id int PRIMARY KEY, a text);
INSERT INTO item VALUES (1, 'lower');
INSERT INTO "Item" VALUES (1, 'upper');
INSERT INTO "Public".item VALUES (1, 'elsewhere');
"""
CHANGE = f"""
ALTER TABLE {TABLE} ALTER COLUMN "found" TYPE int USING "found"::int;
ALTER TABLE {TABLE} RENAME COLUMN "found" TO "tg_op";
ALTER TABLE {TABLE} RENAME COLUMN "new" TO "NEW";
ALTER TABLE {TABLE} RENAME COLUMN {ODD} TO "User %s";
ALTER TABLE {TABLE} RENAME COLUMN "{LONG}" TO "{RENAMED}";
ALTER TABLE {TABLE} RENAME COLUMN "lockstep_mask" TO "lockstep_up_0_0";
ALTER TABLE {TABLE} RENAME COLUMN "lockstep_row" TO "lockstep_failed";
ALTER TABLE item RENAME a TO b;
ALTER TABLE "Item" RENAME a TO c;
"""
MAPPING = json.dumps({f'{TABLE}."tg_op"': {"down": '"tg_op"::text'}}, ensure_ascii=False)


@pytest.mark.every_version
def test_names_that_need_quotes_or_mean_something_elsewhere(database: Target, tmp_path: Path) -> None:
    journey = prepared(database, tmp_path, SCHEMA, CHANGE, MAPPING)
    expected = [list(row) for row in rows(database, f'SELECT * FROM {TABLE} ORDER BY "Key"')]
    journey.go("expand")
    with psycopg.connect(database.conninfo, autocommit=True) as application:
        application.execute(f"""UPDATE {TABLE} SET "found" = 'x%s' WHERE "Key" = 7""".encode())
        application.execute(f"""UPDATE {TABLE} SET "NEW" = 'n', "User %s" = '%s' WHERE "Key" = 8""".encode())
        assert rows(database, "SELECT table_name, key FROM lockstep.sync_failure") == [
            (TABLE.replace('"select"', "select"), "[7]")
        ]
        application.execute(f"""UPDATE {TABLE} SET "found" = '7' WHERE "Key" = 7""".encode())
    journey.go("backfill", "constrain", "switch", "contract")
    expected[7][1], expected[7][4] = "n", "%s"
    names = f'"Key", "NEW", "old", "tg_op"::text, "User %s", "{RENAMED}", "lockstep_up_0_0", "lockstep_failed"'
    assert rows(database, f'SELECT {names} FROM {TABLE} ORDER BY "Key"') == [tuple(row) for row in expected]
    assert len(columns(database, TABLE)) == len(expected[0])
    told_apart = rows(database, 'SELECT i.b, j.c, k.a FROM item AS i, "Item" AS j, "Public".item AS k')
    assert told_apart == [("lower", "upper", "elsewhere")]


def test_a_column_with_the_marker_s_name_is_refused(database: Target, tmp_path: Path) -> None:
    schema = "CREATE TABLE item (id int PRIMARY KEY, name text, lockstep_pending int)"
    with pytest.raises(UsageError, match="has a column lockstep_pending already"):
        prepared(database, tmp_path, schema, "ALTER TABLE item RENAME name TO label")
    assert only(database, "SELECT to_regnamespace('lockstep')::text") is None
