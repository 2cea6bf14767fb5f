"""Row security: a migrator that would see only some rows is refused, and roles under policies are kept in step."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tasks.database.connection import Target, connect
from tasks.planning.errors import MissingPrivilege, SchemaChanged
from tests.integration.journey import execute, only, rows, started
from tests.integration.test_deadlocks import migrator

SCHEMA = """
CREATE TABLE account (id int PRIMARY KEY, tenant text NOT NULL, amount text);
INSERT INTO account SELECT n, 'tenant ' || n % 2, n::text FROM generate_series(1, 200) AS n;
ALTER TABLE account ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON account USING (tenant = current_setting('app.tenant', true));
"""
CHANGE = "ALTER TABLE account ADD COLUMN cents bigint, DROP COLUMN amount"
MAPPING = "{account.cents: {up: 'amount::bigint * 100', down: {amount: '(cents / 100)::text'}}}"


@pytest.fixture
def owner(database: Target) -> Iterator[Target]:
    with migrator(database) as target:
        execute(target, SCHEMA)
        yield target


def test_an_owner_that_its_own_policies_bind_is_refused_with_the_grant(
    database: Target, owner: Target, tmp_path: Path
) -> None:
    execute(owner, "ALTER TABLE account FORCE ROW LEVEL SECURITY")
    with pytest.raises(MissingPrivilege, match=r"row security hides rows of public[.]account") as refused:
        started(owner, tmp_path, CHANGE, MAPPING)
    assert refused.value.grant.startswith("ALTER ROLE")
    assert refused.value.grant.endswith("BYPASSRLS;")
    execute(database, refused.value.grant)
    started(owner, tmp_path, CHANGE, MAPPING).go()
    assert only(database, "SELECT count(*) FROM account WHERE cents = id * 100") == 200


def test_policies_that_are_forced_in_mid_migration_stop_it(database: Target, owner: Target, tmp_path: Path) -> None:
    """An error, and never half of the rows: the sessions have row_security off."""
    journey = started(owner, tmp_path, CHANGE, MAPPING)
    journey.run("expand")
    execute(owner, "ALTER TABLE account FORCE ROW LEVEL SECURITY")
    with pytest.raises(SchemaChanged, match="force_row_security"):
        journey.run("backfill")
    with connect(owner, role="test") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT count(*) FROM account")
    execute(owner, "ALTER TABLE account NO FORCE ROW LEVEL SECURITY")
    journey.go("backfill", "constrain", "switch", "contract")
    assert only(database, "SELECT count(*) FROM account WHERE cents = id * 100") == 200


def test_applications_under_policies_write_both_shapes(database: Target, owner: Target, tmp_path: Path) -> None:
    role = f"tenant_{secrets.token_hex(4)}"
    name = sql.Identifier(role)
    journey = started(owner, tmp_path, CHANGE, MAPPING)
    with psycopg.connect(database.conninfo, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x'").format(name))
        admin.execute(sql.SQL("GRANT SELECT, INSERT, UPDATE ON account TO {}").format(name))
        try:
            journey.go("expand")
            own = make_conninfo(database.conninfo, user=role, password="x", options="-c app.tenant=tenant\\ 1")
            with psycopg.connect(own, autocommit=True) as tenant:
                tenant.execute("UPDATE account SET amount = '7'")
                tenant.execute("INSERT INTO account (id, tenant, amount) VALUES (1001, 'tenant 1', '8')")
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    tenant.execute("INSERT INTO account (id, tenant, amount) VALUES (1003, 'tenant 0', '8')")
                journey.go("backfill", "constrain", "switch")
                tenant.execute("UPDATE account SET cents = 900 WHERE id = 1")
                tenant.execute("INSERT INTO account (id, tenant, cents) VALUES (1005, 'tenant 1', 1000)")
                assert tenant.execute("SELECT count(*), count(cents) FROM account").fetchone() == (102, 102)
            assert rows(
                database, "SELECT id, amount, cents FROM account WHERE id IN (1, 3, 1001, 1005) ORDER BY 1"
            ) == [
                (1, "9", 900),
                (3, "7", 700),
                (1001, "8", 800),
                (1005, "10", 1000),
            ]
            assert only(database, "SELECT count(*) FROM account WHERE tenant = 'tenant 0' AND cents = id * 100") == 100
            journey.go("contract")
        finally:
            admin.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(name, name))
