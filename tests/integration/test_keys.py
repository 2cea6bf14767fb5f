"""Primary keys of every kind: paging, halving and sweeping must find each row, and name the failing one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tasks.database.connection import Target
from tests.integration.journey import execute, only, rows, started

KEYS = {
    "negative": ("k bigint", "-9223372036854775809 + n"),
    "words": ("k text", "chr(32 + n % 90) || n"),
    "composed": (
        'a text COLLATE "C", b uuid, c date',
        "(ARRAY['ä', 'a', 'ß'])[1 + n % 3], md5(n::text)::uuid, 'epoch'",
    ),
    "numbers": (
        "a numeric, b double precision",
        "CASE n WHEN 5 THEN 'NaN' ELSE n / 7.0 END::numeric, CASE n WHEN 6 THEN 'infinity'::float8 ELSE n * 0.1 END",
    ),
    "moments": (
        "a timestamptz, b interval",
        "CASE n WHEN 5 THEN 'infinity' WHEN 6 THEN '-infinity' ELSE timestamptz '2024-10-27 00:30+00' "
        "+ n * interval '1 minute' END::timestamptz, n * interval '1 month'",
    ),
    "own_types": (
        "a stage, b code, c boolean, d char(8)",
        "(ARRAY['late', 'early', 'Mid %s'])[1 + n % 3]::stage, 'c''\"' || n, n % 2 = 0, n::text",
    ),
    "odd_types": (
        "a int[], b bytea, c inet, d int4range, e bit(12)",
        "ARRAY[n % 3, NULL, n], decode(md5(n::text), 'hex'), inet '10.0.0.0' + n, int4range(n, n + 5), n::bit(12)",
    ),
    "quoted": ('"Key ""%s"" {0}" text, "select" int', "'100%' || n, n"),
}
ICU_KEYS = {
    "german": (
        'a text COLLATE "de-x-icu", b text COLLATE without_case',
        "(ARRAY['ä', 'a', 'Ä', 'z', 'ß'])[1 + n % 5] || n, (ARRAY['ä', 'a', 'Ä', 'z', 'ß'])[1 + n % 5] || n",
    ),
}
"""Only where the server was built with ICU; the embedded one was not."""
WITHOUT_CASE = """
CREATE COLLATION without_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
"""
ROWS = 300
BAD = 77
"""The row whose value `up` refuses: every other row of its page is filled by keys, in halves."""

TYPES = """
CREATE TYPE stage AS ENUM ('late', 'early', 'Mid %s');
CREATE DOMAIN code AS text CHECK (value <> '');
"""


def names(declared: str) -> str:
    """Return the column names of a key's declaration."""
    parts = [part.strip() for part in declared.split(", ")]
    return ", ".join(part[: part.rindex('"') + 1] if part.startswith('"') else part.split()[0] for part in parts)


def tables(keys: Mapping[str, tuple[str, str]]) -> str:
    return "".join(
        f"CREATE TABLE {table} ({declared}, v text, number int, PRIMARY KEY ({names(declared)}));"
        f"INSERT INTO {table} SELECT {values}, CASE n WHEN {BAD} THEN 'bad' ELSE n::text END, n "
        f"FROM generate_series(1, {ROWS}) AS n;"
        for table, (declared, values) in keys.items()
    )


@pytest.mark.every_version
def test_every_row_is_found_by_its_key_and_the_failing_one_is_named(database: Target, tmp_path: Path) -> None:
    """One migration over all these tables: a page with a failing row is filled by keys, not by range."""
    execute(database, TYPES)
    keys = KEYS
    if only(database, "SELECT count(*) FROM pg_collation WHERE collname = 'de-x-icu'"):
        execute(database, WITHOUT_CASE)
        keys = KEYS | ICU_KEYS
    execute(database, tables(keys).replace("'bad'", "'0'"))
    change = "".join(f"ALTER TABLE {table} ADD COLUMN w int, DROP COLUMN v;" for table in keys)
    mapping = ", ".join(f"{table}.w: {{up: 'v::int', down: {{v: 'w::text'}}}}" for table in keys)
    journey = started(database, tmp_path, change, f"{{{mapping}}}")
    journey.run("expand")
    for table in keys:
        # Behind the trigger's back, as it was before the migration began.
        execute(database, f"SET lockstep.direction = 'none'; UPDATE {table} SET v = 'bad' WHERE number = {BAD}")
    journey.run("backfill")
    for table, (declared, _) in keys.items():
        unfilled = rows(database, f"SELECT number FROM {table} WHERE w IS DISTINCT FROM number")
        assert unfilled == [(BAD,)], table
        key = only(database, f"SELECT jsonb_build_array({names(declared)})::text FROM {table} WHERE number = {BAD}")
        recorded = rows(database, f"SELECT key FROM lockstep.sync_failure WHERE table_name = 'public.{table}'")
        assert recorded == [(key,)], table
        execute(database, f"UPDATE {table} SET v = number WHERE number = {BAD}")
    journey.go("constrain", "switch", "contract")
    for table in keys:
        assert only(database, f"SELECT count(*) FROM {table} WHERE w = number") == ROWS, table
