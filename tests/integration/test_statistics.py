"""The backfill's speed does not depend on a past ANALYZE: its batches find their rows by the key's index, always."""

from __future__ import annotations

import time

import pytest

from tasks.database.connection import Target
from tests.integration.filling import WRONG, expanded, fill
from tests.integration.synthetic import ask, backfill

ROWS = 30_000
TABLE = """
CREATE TABLE readings (tenant int, id bigint, litres integer NOT NULL, PRIMARY KEY (tenant, id))
WITH (autovacuum_enabled = off)
"""
MISLED = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET random_page_cost = 1000000', current_database()); END $$"
BEFORE = {
    "never analysed": "SELECT 1",
    "analysed when empty": "ANALYZE readings",
    "an index looks like the wrong way": MISLED,
}
READ = "SELECT seq_tup_read, idx_scan FROM pg_stat_user_tables WHERE relname = 'readings'"


@pytest.mark.every_version
@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
def test_batches_read_no_more_than_their_rows(database: Target, before: str) -> None:
    # The first column says nothing about where a row is: what a planner without statistics would misjudge.
    ask(database, TABLE)
    ask(database, before)
    ask(database, f"INSERT INTO readings SELECT n % 2, n, n % 90 FROM generate_series(1, {ROWS}) AS n")
    expanded(database, backfill(key=("tenant", "id"), types=("integer", "bigint")))
    (before_read, before_found), *_ = ask(database, READ)
    fill(database)
    assert ask(database, WRONG) == [(0,)]
    read, found = settled(database)
    # By sequence only the sweeps read, and the count above; a batch by sequence would read all of the table each.
    assert read - int(str(before_read)) <= 6 * ROWS
    assert found - int(str(before_found)) >= 10


def settled(target: Target) -> tuple[int, int]:
    """Return the counters once they have stopped moving: ended sessions report with a delay."""
    seen, deadline = (-1, -1), time.monotonic() + 10
    while time.monotonic() < deadline:
        ((read, found),) = ask(target, READ)
        now = (int(str(read)), int(str(found)))
        if now == seen:
            return now
        seen = now
        time.sleep(0.6)
    raise AssertionError(seen)
