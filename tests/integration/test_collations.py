"""Keys under collations that take different texts for equal; only where the server was built with ICU."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tasks.database.connection import Target
from tasks.planning.errors import UsageError
from tests.integration.staging import PHASES, carry_out, planned, row, written

SCHEMA = """
CREATE COLLATION without_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE account (id int PRIMARY KEY, email text UNIQUE, alias text COLLATE without_case UNIQUE, name text);
INSERT INTO account VALUES (1, 'Ann', 'Ann', 'Ann'), (2, 'ann', 'Bob', 'ann');
"""
REFUSED = {
    "the new column ignores case": (
        "ALTER TABLE account RENAME email TO mail; ALTER TABLE account ALTER mail TYPE text COLLATE without_case",
        "",
        'under the collation public.without_case.*two values could become one',
    ),
    "the old column ignores case": (
        "ALTER TABLE account RENAME alias TO nick; ALTER TABLE account ALTER nick TYPE text COLLATE \"C\"",
        "",
        'under the collation public.without_case.*two values could become one',
    ),
    "the same name, and it ignores case from then on": (
        "ALTER TABLE account ALTER email TYPE text COLLATE without_case",
        "mapping: {account.email: {old_version_reads: true}}",
        "under the collation public.without_case.*two values could become one",
    ),
    "the same name, and it ignored case before": (
        'ALTER TABLE account ALTER alias TYPE text COLLATE "C"',
        "mapping: {account.alias: {old_version_reads: true}}",
        "two values could become one under its type and collation",
    ),
}  # fmt: skip


def require_icu(database: Target) -> None:
    with psycopg.connect(database.conninfo) as connection:
        if row(connection, "SELECT count(*) FROM pg_collation WHERE collname = 'de-x-icu'") == (0,):
            pytest.skip("this server was built without ICU")


@pytest.mark.every_version
@pytest.mark.parametrize("case", REFUSED)
def test_a_key_that_could_merge_texts_is_refused(database: Target, tmp_path: Path, case: str) -> None:
    require_icu(database)
    change, rest, reason = REFUSED[case]
    with pytest.raises(UsageError, match=f"(?s){reason}") as refused:
        planned(database, SCHEMA, written(tmp_path, "refused", f"{change};", rest))
    assert refused.value.safety == "Nothing was touched."


@pytest.mark.every_version
def test_without_a_key_or_with_the_same_collation_it_is_planned(database: Target, tmp_path: Path) -> None:
    require_icu(database)
    change = (
        "ALTER TABLE account RENAME name TO called; ALTER TABLE account ALTER called TYPE text COLLATE without_case;"
        "ALTER TABLE account RENAME alias TO nick;"
    )
    plan = planned(database, SCHEMA, written(tmp_path, "planned", change))
    stage = carry_out(database, plan, PHASES)
    with stage.session() as session:
        assert session.execute("SELECT called, nick FROM account ORDER BY id").fetchall() == [
            ("Ann", "Ann"), ("ann", "Bob"),
        ]  # fmt: skip
        assert row(session, "SELECT count(*) FROM account WHERE called = 'ANN'") == (2,)
