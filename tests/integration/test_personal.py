"""Every copy of personal data that a migration keeps is named, and an erasure as the plan tells it reaches all."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tasks.database.connection import Target
from tasks.planning.personal import copies
from tasks.planning.report import render
from tests.integration.journey import Journey, prepared

CANARY = "canary7f3a"
SCHEMA = f"""
CREATE TABLE users (id int PRIMARY KEY, email text, name varchar(80), phone text, note text);
INSERT INTO users SELECT n, n || '@x.org', 'user ' || n, n::text, 'n' FROM generate_series(1, 50) AS n;
UPDATE users SET email = '{CANARY}@x.org', name = '{CANARY}', phone = '{CANARY}' WHERE id = 7;
"""
CHANGE = """
ALTER TABLE users RENAME COLUMN email TO mail;
ALTER TABLE users DROP COLUMN phone;
UPDATE users SET name = upper(name) WHERE id < 10;
"""
PERSONAL = "{}\npersonal: [users.email, users.name, users.phone]"


@pytest.fixture
def journey(database: Target, tmp_path: Path) -> Journey:
    return prepared(database, tmp_path, SCHEMA, CHANGE, PERSONAL)


def places(target: Target) -> set[str]:
    """Return the tables in which the canary stands, Lockstep's own among them."""
    with psycopg.connect(target.conninfo) as connection:
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        return {
            f"{schema}.{table}"
            for schema, table in tables
            if connection.execute(
                sql.SQL("SELECT 1 FROM {} AS t WHERE t::text ILIKE {} LIMIT 1").format(
                    sql.Identifier(schema, table), f"%{CANARY}%"
                )
            ).fetchone()
        }


def test_an_erasure_by_the_plan_leaves_nothing_behind(journey: Journey) -> None:
    told = copies(journey.plan)
    journey.go("expand", "backfill", "constrain", "switch")
    by_hand = [found[1] for one in told if (found := re.search(r"(DELETE FROM .*);", one.erasure))]
    (statement,) = by_hand
    kept = statement.split()[2]
    assert places(journey.target) == {"public.users", kept}, "what is told is what there is"
    with psycopg.connect(journey.target.conninfo, autocommit=True) as connection:
        connection.execute("DELETE FROM users WHERE id = 7")
        assert places(journey.target) == {kept}
        connection.execute(statement.replace("<id>", "7").encode())
    assert places(journey.target) == set()


def test_each_copy_has_its_end(journey: Journey) -> None:
    told = {one.what: one for one in copies(journey.plan)}
    both = told["public.users.mail beside email: both shapes of the same rows"]
    assert both.until == "contract; a rollback drops it too"
    assert "public.users.phone, which the change drops" in told
    assert any("in the table's files though no query sees it" in what for what in told)
    assert "### Personal data: every copy" in render(journey.plan)
    journey.go("expand", "backfill", "constrain", "switch", "contract")
    assert places(journey.target) == {"public.users"}


def test_without_personal_columns_there_is_nothing_to_tell(database: Target, tmp_path: Path) -> None:
    journey = prepared(database, tmp_path, SCHEMA, CHANGE)
    assert copies(journey.plan) == ()
    assert "### Personal data" not in render(journey.plan)
