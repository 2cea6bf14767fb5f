"""search_path of any shape: of the migrating role, of the database, of the application's sessions."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tasks.database.connection import Target
from tests.integration.journey import execute, only, prepared, rows, started

SCHEMA = """
CREATE SCHEMA shadow;
CREATE SCHEMA "Odd, name";
CREATE TABLE public.item (id int PRIMARY KEY, amount numeric NOT NULL);
CREATE TABLE shadow.item (id int PRIMARY KEY, amount numeric NOT NULL);
INSERT INTO public.item SELECT n, n + 0.4 FROM generate_series(1, 300) AS n;
INSERT INTO shadow.item SELECT n, n FROM generate_series(1, 7) AS n;
CREATE FUNCTION shadow.round(numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT 42.0';
CREATE FUNCTION public.round(numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT 43.0';
CREATE FUNCTION shadow.no_bits(integer, integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 0';
CREATE OPERATOR shadow.& (LEFTARG = integer, RIGHTARG = integer, FUNCTION = shadow.no_bits);
CREATE FUNCTION shadow.never(integer, integer) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false';
CREATE OPERATOR shadow.<> (LEFTARG = integer, RIGHTARG = integer, FUNCTION = shadow.never);
CREATE OPERATOR shadow.<= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = shadow.never);
"""
CHANGE = "ALTER TABLE {item} ADD COLUMN whole bigint NOT NULL, DROP COLUMN amount"
MAPPING = "{{{item}.whole: {{up: 'round(amount)::bigint', down: {{amount: 'whole::numeric'}}}}}}"


@pytest.mark.parametrize(
    ("path", "item"),
    [
        ("''", "public.item"),
        ('"$user", public', "item"),
        ("nowhere, public", "item"),
        ('"Odd, name", public', "item"),
        ("shadow, public, pg_catalog", "public.item"),
    ],
)
def test_a_search_path_of_the_database_decides_names_and_nothing_else(
    database: Target, tmp_path: Path, path: str, item: str
) -> None:
    """With pg_catalog named last, the operators that Lockstep's own statements are made of are somebody else's."""
    execute(database, SCHEMA)
    name = only(database, "SELECT quote_ident(current_database())")
    execute(database, f"ALTER DATABASE {name} SET search_path = {path}")
    journey = started(database, tmp_path, CHANGE.format(item=item), MAPPING.format(item=item))
    journey.go()
    assert rows(database, "SELECT count(*), sum(whole - id) FROM public.item") == [(300, 0)]
    assert rows(database, "SELECT count(*), sum(amount - id) FROM shadow.item") == [(7, 0)]


def test_applications_with_any_search_path_are_kept_in_step(database: Target, tmp_path: Path) -> None:
    journey = prepared(database, tmp_path, SCHEMA, CHANGE.format(item="item"), MAPPING.format(item="item"))
    journey.go("expand", "backfill")
    for number, path in enumerate(("", "shadow", "shadow, public, pg_catalog", "pg_temp, shadow", "lockstep"), start=1):
        with psycopg.connect(database.conninfo, autocommit=True) as application:
            application.execute("CREATE TEMP TABLE item (LIKE public.item)")
            application.execute("CREATE TEMP TABLE sync_failure (migration text)")
            application.execute("SELECT set_config('search_path', %s, false)", (path,))
            application.execute("UPDATE public.item SET amount = 1000.6 WHERE id OPERATOR(pg_catalog.=) %s", (number,))
            application.execute("UPDATE public.item SET whole = 77 WHERE id OPERATOR(pg_catalog.=) %s", (number + 100,))
        found = "SELECT whole, amount::int FROM public.item WHERE id IN ({}, {}) ORDER BY id"
        assert rows(database, found.format(number, number + 100)) == [(1001, 1001), (77, 77)], path
    assert only(database, "SELECT count(*) FROM lockstep.sync_failure") == 0
    journey.go("constrain", "switch", "contract")
