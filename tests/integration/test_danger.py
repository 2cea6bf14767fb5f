"""The truth table once more: what is dangerous, by the measurement, is what the findings say."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.database.statement_trace import trace_files
from tasks.planning.findings.judging import judge
from tests.integration.test_truth_table import MEASURED, SETTINGS, Copies, copies, expected, source, text_of

__all__ = ["copies"]

BREAKS = frozenset(
    {
        "ALTER TABLE t2 DROP COLUMN b",
        "ALTER TABLE t2 DROP COLUMN a, ADD COLUMN a2 int DEFAULT 3",
        "ALTER TABLE t ALTER COLUMN g DROP EXPRESSION",
        "ALTER TABLE t RENAME COLUMN b TO bb",
        "ALTER TABLE t RENAME TO t9",
        "ALTER TABLE t SET SCHEMA lab2",
        "DROP TABLE child",
        "ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'",
    }
)
"""What no lock shows: the running application's own statements fail, or write NULL where there was a value."""

BLOCKS_WRITES = frozenset({"Share", "ShareRowExclusive", "Exclusive", "AccessExclusive"})


def is_dangerous(measured: dict[str, Any]) -> bool:
    """Whether it works on every row while writes are blocked, by the measurement, or breaks the application."""
    truth = expected(measured, apart=False)
    if truth["error"] is not None:
        return False
    works = truth["rewrites"] or truth["builds"] or truth["scans"]
    return measured["sql"] in BREAKS or bool(works and BLOCKS_WRITES & set(truth["locks"].values()))


@pytest.mark.every_version
def test_a_statement_is_dangerous_where_the_measurement_says_so(copies: Copies) -> None:
    files = [
        source(f"{number}.sql", f"BEGIN; {text_of(item, copies)}; ROLLBACK") for number, item in enumerate(MEASURED)
    ]
    found = [item for item in trace_files(files, copies, SETTINGS).facts if item.statement.kind != "transaction"]
    # Each by itself: what is rolled back breaks nobody.
    verdicts = [judge((facts,))[0] for facts in found]
    told = {item["sql"]: verdict.dangerous for item, verdict in zip(MEASURED, verdicts, strict=True)}
    assert told == {item["sql"]: is_dangerous(item) for item in MEASURED}
    assert all(verdict.stops is verdict.dangerous for verdict in verdicts), "what is dangerous is also explained"
    assert {item["sql"] for item in MEASURED} >= BREAKS
    assert sum(told.values()) == 34
