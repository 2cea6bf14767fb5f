"""Every folder in cases/ rehearsed: made-up rows fit its tables, and the plan goes there, back and to the end."""

from __future__ import annotations

import pytest

from tasks.database import oracle
from tasks.database.connection import Target, connect
from tasks.database.live import look
from tasks.database.rehearsal import rehearse
from tasks.planning.names import TableName
from tasks.planning.spec import load
from tests.acceptance.harness import Case, cases, execute, query


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_every_case_can_be_rehearsed(case: Case, database: Target) -> None:
    execute(database, *case.setup, b"ANALYZE")
    with connect(database, role="test") as live:
        facts = look(live, sample_seconds=0)
    there = {str(TableName(*name)) for name in query(database, "SELECT schemaname, tablename FROM pg_tables")}
    plan = oracle.plan(load(case.spec), database)

    found = rehearse(plan, database, facts, rows=1_500)

    assert found.failure == ""
    assert found.rolled_back
    assert {str(table.table): table.rows for table in found.tables if table.rows < 20} == {}
    assert {str(table.table) for table in found.tables} >= set(map(str, plan.tables)) & there
    assert [phase.phase for phase in found.phases] == [phase.name for phase in plan.phases]
    assert query(database, "SELECT to_regnamespace('lockstep') IS NULL") == [(True,)]
