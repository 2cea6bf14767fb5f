"""What is told without a server, against what was measured: nothing is measured here, and the misses have names."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tasks.planning.facts import StatementFacts
from tasks.planning.findings.judging import judge
from tasks.planning.guessed import guess
from tasks.planning.names import TableName
from tasks.planning.statements import read_statements
from tasks.planning.transactions import SourceFile
from tests.integration.test_danger import is_dangerous
from tests.integration.test_truth_table import MEASURED, expected, written

T, U = TableName("public", "t"), TableName("public", "u")
COUNTED = [item for item in MEASURED if "error" not in item]

MISSED = {
    "ALTER TABLE t ADD COLUMN z dpos": "whether the domain has a CHECK",
    "CREATE TABLE zz PARTITION OF p FOR VALUES FROM (100) TO (110)": "whether there is a default partition",
    "ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'": "whether a table uses the type",
    "ALTER DOMAIN dused SET NOT NULL": "which tables use the domain",
}
"""What the text cannot know, by statement."""
FALSE_ALARMS = 13
"""Changes of type that need no rewrite, and NOT NULL that a CHECK proves, for the most part."""


def facts(*texts: str) -> Sequence[StatementFacts]:
    files = [SourceFile(f"{number}.sql", text, read_statements(text, source="x")) for number, text in enumerate(texts)]
    return guess(files)


def told(item: dict[str, object]) -> bool:
    return judge(facts(written(item)))[-1].dangerous


def test_what_is_missed_is_what_only_the_schema_knows() -> None:
    assert {item["sql"] for item in COUNTED if is_dangerous(item) and not told(item)} == set(MISSED)


def test_false_alarms_do_not_become_more() -> None:
    assert sum(told(item) and not is_dangerous(item) for item in COUNTED) == FALSE_ALARMS


def test_locks_are_those_that_were_measured_for_most_statements() -> None:
    """Of the tables that a statement names; what hangs on them is not seen."""
    wrong = []
    for item in COUNTED:
        measured = expected(item, apart=False)["locks"]
        seen = {table.name: mode.title().replace(" ", "") for table, mode in facts(written(item))[-1].own.items()}
        if any(measured.get(name) != mode for name, mode in seen.items()) or (not seen and measured):
            wrong.append(item["sql"])
    assert len(wrong) <= 12, wrong


def test_what_the_files_make_themselves_holds_nothing() -> None:
    first, second = facts("CREATE TABLE t (a int)", "ALTER TABLE t ALTER a TYPE bigint")
    assert not first.own
    assert second.rewrites == (T,), "the next file finds it, and rows that came meanwhile"
    (_, made) = facts("CREATE TABLE t (a int); CREATE INDEX ON t (a)")
    assert (made.own, made.index_builds) == ({}, ())


def test_a_transaction_holds_what_its_statements_took() -> None:
    verdicts = judge(facts("ALTER TABLE t ADD a int; CREATE INDEX ON u (b)"))
    assert verdicts[1].facts.held == {T: "ACCESS EXCLUSIVE", U: "SHARE"}
    apart = judge(facts("CREATE INDEX CONCURRENTLY ON u (b)"))
    assert not apart[0].dangerous
    assert not apart[0].facts.in_transaction


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("ALTER TABLE t RENAME a TO b", "column-renamed"),
        ("ALTER TABLE t DROP COLUMN a", "column-dropped"),
        ("ALTER TABLE t RENAME TO v", "table-renamed"),
        ("ALTER TABLE t SET SCHEMA s", "table-renamed"),
        ("DROP TABLE t", "table-dropped"),
        ("ALTER TABLE t ALTER a DROP DEFAULT", "default-dropped"),
        ("ALTER TABLE t ADD a int DEFAULT random()", "column-added-with-rewrite"),
        ("ALTER TABLE t ADD a serial", "column-added-with-rewrite"),
        ("CREATE INDEX i ON t (a)", "index-build-blocks-writes"),
        ("ALTER TABLE t ADD CHECK (a > 0)", "scan-blocks-writes"),
        ("UPDATE t SET a = 1", "data-change-unbatched"),
        ("VACUUM FULL t", "table-repacked"),
    ],
)
def test_rules_find_what_the_text_shows(text: str, rule: str) -> None:
    assert rule in {finding.rule.id for finding in judge(facts(text))[-1].findings}


@pytest.mark.parametrize(
    "text",
    [
        "ALTER TABLE t ADD a timestamptz DEFAULT now()",
        "ALTER TABLE t ADD CHECK (a > 0) NOT VALID",
        "ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES u NOT VALID",
        "ALTER TABLE t VALIDATE CONSTRAINT c",
        "ALTER TABLE t ADD UNIQUE USING INDEX i",
        "DO $$ BEGIN END $$",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ],
)
def test_what_is_short_is_not_dangerous(text: str) -> None:
    assert not judge(facts(text))[-1].dangerous
