"""Baseline latencies, on a server that has pg_stat_statements: the embedded ones carry no extension."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tasks.database import live
from tasks.database.connection import Target, connect
from tasks.planning.live import LiveFacts
from tasks.planning.names import TableName
from tests.conftest import missing
from tests.versions import started

LIBRARIES = "lib/pg_stat_statements.so"


def installed() -> Path:
    """Return the folder of a PostgreSQL of this machine that has the extension."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/{LIBRARIES}"))
    return found[-1].parents[1] if found else missing("no PostgreSQL with pg_stat_statements is installed")


@pytest.fixture(scope="module")
def counting() -> Iterator[Target]:
    with started(installed() / "bin", {"shared_preload_libraries": "pg_stat_statements"}) as url:
        yield Target("counting", url)


@pytest.fixture
def silent() -> Iterator[Target]:
    """A server with the extension's files only."""
    with started(installed() / "bin") as url:
        yield Target("silent", url)


def looked(target: Target) -> LiveFacts:
    with connect(target, role="plan") as connection:
        return live.look(connection, sample_seconds=0.0)


def run(target: Target, *statements: str) -> None:
    with psycopg.connect(target.conninfo, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def test_latencies_by_shape_without_values(counting: Target) -> None:
    run(
        counting,
        'CREATE SCHEMA "Meters"',
        'CREATE EXTENSION pg_stat_statements SCHEMA "Meters"',
        "CREATE TABLE person (id int PRIMARY KEY, email text)",
        "CREATE ROLE ada PASSWORD 'canary-secret'",
        *(f"SELECT email FROM person WHERE id = {n} AND email <> 'canary-{n}'" for n in range(7)),
    )
    facts = looked(counting)
    (found,) = [item for item in facts.latencies if item.shape.startswith("SELECT email")]
    assert found.shape == "SELECT email FROM person WHERE id = $1 AND email <> $2"
    assert found.calls == 7
    assert found in facts.latencies_of(TableName("public", "person"))
    assert facts.latencies_of(TableName("public", "Person")) == ()
    assert 0 < found.mean_ms <= found.worst_ms
    assert found.total_ms == pytest.approx(7 * found.mean_ms)
    assert found.queryid.lstrip("-").isdigit()
    assert "CREATE ROLE ada PASSWORD …" in [item.shape for item in facts.latencies]
    assert "canary" not in facts.model_dump_json()
    assert not [item for item in facts.unseen if "latencies" in item.what]

    run(counting, "CREATE ROLE humble LOGIN PASSWORD 'humble'")
    poor = Target("counting", make_conninfo(counting.conninfo, user="humble", password="humble"))
    said = [str(item) for item in looked(poor).unseen if "latencies" in item.what]
    assert said == ['baseline latencies: the role may not see them (GRANT USAGE ON SCHEMA "Meters" TO "humble")']
    run(counting, 'GRANT USAGE ON SCHEMA "Meters" TO humble')
    facts = looked(poor)
    assert not [item for item in facts.latencies if "email" in item.shape]
    said = [str(item) for item in facts.unseen if "latencies" in item.what]
    assert said == [
        'baseline latencies of other roles\' queries: the role may not see them (GRANT pg_monitor TO "humble")'
    ]


def test_an_extension_that_is_not_loaded(silent: Target) -> None:
    run(silent, "CREATE EXTENSION pg_stat_statements")
    (said,) = [str(item) for item in looked(silent).unseen if "latencies" in item.what]
    assert said == (
        "baseline latencies: pg_stat_statements is not loaded (shared_preload_libraries = 'pg_stat_statements')"
    )
    # A server that was upgraded keeps the extension's old columns until somebody updates it.
    run(silent, "DROP EXTENSION pg_stat_statements", "CREATE EXTENSION pg_stat_statements VERSION '1.7'")
    (said,) = [str(item) for item in looked(silent).unseen if "latencies" in item.what]
    assert said == (
        "baseline latencies: pg_stat_statements is of version 1.7 (ALTER EXTENSION pg_stat_statements UPDATE)"
    )
