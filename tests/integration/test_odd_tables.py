"""Tables out of the ordinary: empty, of one row, never analysed, worn out, wide, and kinds that are refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest

from tasks.database.connection import Target
from tasks.planning.errors import UsageError
from tests.integration.journey import columns, execute, only, prepared, rows

RENAME = "ALTER TABLE item RENAME COLUMN a TO b;"
DERIVE = "ALTER TABLE item ADD COLUMN b int;"
MAPPING = "{item.b: {up: 'a::int'}}"


CHANGE = "".join(
    f"ALTER TABLE {table} ADD COLUMN b int, DROP COLUMN a;" for table in ("none", "one", "next", "worn", "wide")
)
CHANGE_MAPPING = ", ".join(
    f"{table}.b: {{up: 'a::int', down: {{a: 'b::text'}}}}" for table in ("none", "one", "next", "worn", "wide")
)
SCHEMA = f"""
CREATE TABLE none (id int PRIMARY KEY, a text) WITH (autovacuum_enabled = false);
CREATE TABLE one (id int PRIMARY KEY, a text) WITH (autovacuum_enabled = false);
CREATE TABLE next (id int PRIMARY KEY, a text) WITH (autovacuum_enabled = false);
INSERT INTO one VALUES (1, '1');
-- A first page of 500, and a row behind it.
INSERT INTO next SELECT n, n::text FROM generate_series(1, 501) AS n;

CREATE TABLE worn (gone text, id int PRIMARY KEY, other text);
ALTER TABLE worn {", ".join(f"ADD COLUMN x{n} int DEFAULT {n}" for n in range(300))};
INSERT INTO worn (id, gone) SELECT n, 'x' FROM generate_series(1, 100) AS n;
ALTER TABLE worn DROP COLUMN gone, {", ".join(f"DROP COLUMN x{n}" for n in range(300))}, ADD COLUMN a text;
UPDATE worn SET a = id::text;

CREATE UNLOGGED TABLE wide (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a text, payload text,
    twice int GENERATED ALWAYS AS (length(payload) * 2) STORED
) WITH (fillfactor = 100);
ALTER TABLE wide ALTER payload SET STORAGE EXTERNAL;
INSERT INTO wide (a, payload) SELECT n::text, repeat('x', 3000 + n) FROM generate_series(1, 300) AS n;
"""


def test_tables_empty_tiny_worn_out_wide_and_never_analysed(database: Target, tmp_path: Path) -> None:
    journey = prepared(database, tmp_path, SCHEMA, CHANGE, f"{{{CHANGE_MAPPING}}}")
    assert only(database, "SELECT max(reltuples) FROM pg_class WHERE relname IN ('none', 'one', 'next')") <= 0
    journey.go()
    for table, count in {"none": 0, "one": 1, "next": 501, "worn": 100, "wide": 300}.items():
        assert only(database, f"SELECT count(*) FROM {table}") == count, table
        assert only(database, f"SELECT count(*) FROM {table} WHERE b = id") == count, table
    assert columns(database, "worn") == ["id", "other", "b"]
    assert only(database, "SELECT count(*) FROM wide WHERE twice = 2 * (3000 + id)") == 300


def test_a_table_that_can_take_no_more_columns_is_refused_before_anything(database: Target, tmp_path: Path) -> None:
    """Dropped columns count against the 1,600; a clone of the schema does not have them."""
    execute(database, "CREATE TABLE item (id int PRIMARY KEY, a text)")
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        for batch in range(4):
            names = [f"x{n}" for n in range(batch * 399, batch * 399 + 399)]
            added = ", ".join(f"ADD COLUMN {name} int" for name in names)
            dropped = ", ".join(f"DROP COLUMN {name}" for name in names)
            connection.execute(f"ALTER TABLE item {added}".encode())
            connection.execute(f"ALTER TABLE item {dropped}".encode())
    change = "ALTER TABLE item ADD COLUMN c int, ADD COLUMN d int"
    with pytest.raises(UsageError, match=r"adding 3 columns to public.item, which has had 1,598 of the 1,600"):
        prepared(database, tmp_path, "", change, "{item.c: {up: id}, item.d: {up: id}}")
    assert only(database, "SELECT to_regnamespace('lockstep')::text") is None


REFUSED = {
    "a partitioned table": (
        "CREATE TABLE item (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);"
        "CREATE TABLE item_1 PARTITION OF item FOR VALUES FROM (0) TO (100)",
        RENAME,
        "public.item, which is partitioned",
    ),
    "a partition": (
        "CREATE TABLE whole (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);"
        "CREATE TABLE item PARTITION OF whole FOR VALUES FROM (0) TO (100)",
        "CREATE INDEX item_a ON item (a);",
        "is a partition",
    ),
    "a child by inheritance": (
        "CREATE TABLE whole (id int, a text); CREATE TABLE item (PRIMARY KEY (id)) INHERITS (whole)",
        DERIVE,
        "inherits from public.whole",
    ),
    "a parent of other tables": (
        "CREATE TABLE item (id int PRIMARY KEY, a text); CREATE TABLE child (PRIMARY KEY (id)) INHERITS (item);"
        "INSERT INTO child VALUES (1, '1')",
        DERIVE,
        "inherits from public.item",
    ),
    "a foreign table": (
        "CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;"
        "CREATE FOREIGN TABLE item (id int, a text) SERVER nowhere",
        RENAME,
        "foreign|primary key",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_the_sync_cannot_serve_is_refused_by_name(database: Target, tmp_path: Path, kind: str) -> None:
    schema, change, reason = REFUSED[kind]
    mapping = MAPPING if change == DERIVE else ""
    with pytest.raises(UsageError) as refused:
        prepared(database, tmp_path, schema, change, mapping)
    text = str(refused.value)
    assert re.search(reason, text), text
    assert "item" in text
    assert refused.value.remedy
    assert rows(database, "SELECT to_regnamespace('lockstep')::text") == [(None,)]
