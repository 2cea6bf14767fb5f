"""docs/kinds.md names a case for every kind of change, and every case; a case has the SQL of the kinds that name it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.acceptance.harness import CASES_FOLDER, Case, cases

KINDS = (Path(__file__).parents[2] / "docs" / "kinds.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (?P<kind>[^|]+) \| `(?P<sql>[^`]+)` \|.* (?P<case>\w+) \|$", re.MULTILINE)
ROWS = [(found["kind"], found["sql"], found["case"]) for found in ROW.finditer(KINDS)]
DEMANDED = {
    "column": ("nullable", "constant default", "volatile default", "NOT NULL", "renamed", "dropped", "split"),
    "columns": ("merged",),
    "type": ("no rewrite needed", "with a new name", "under the same name"),
    "primary key to bigint": ("all that refers to it",),
    "": (
        "SET NOT NULL",
        "DROP NOT NULL",
        "default set",
        "default dropped",
        "enum value added",
        "comment",
        "privileges",
    ),
    "CHECK": ("added", "dropped", "renamed", "validated"),
    "FOREIGN KEY": ("added", "dropped", "renamed", "validated"),
    "UNIQUE": ("added", "dropped", "renamed"),
    "PRIMARY KEY": ("added", "dropped", "renamed"),
    "index": ("created", "dropped", "rebuilt", "INCLUDE"),
    "unique": ("created", "dropped"),
    "partial index": ("expression index",),
    "table": ("created", "dropped", "renamed"),
    "view": ("created", "dropped"),
    "function": ("created", "replaced", "dropped"),
    "trigger": ("created", "dropped"),
    "rows": ("changed", "deleted"),
}
"""Every kind that Lockstep promises: how its row begins, and what such a row names."""


def test_every_row_of_the_tables_is_read() -> None:
    lines = [line for line in KINDS.splitlines() if line.startswith("| ") and not re.match(r"\| (kind|what) \|", line)]
    assert len(ROWS) == len(lines)


def test_every_case_has_a_row_and_every_row_a_case() -> None:
    assert {case for _, _, case in ROWS} == {case.name for case in cases()}


@pytest.mark.parametrize(("kind", "sql", "name"), ROWS, ids=[kind for kind, _, _ in ROWS])
def test_the_case_of_a_kind_has_its_sql(kind: str, sql: str, name: str) -> None:
    change = Case(CASES_FOLDER / name).change
    pattern = ".*".join(re.escape(part.strip()) for part in sql.split("…"))
    assert re.search(pattern, change, re.DOTALL), f"{kind}: {name} has no {sql}"


@pytest.mark.parametrize(("head", "words"), DEMANDED.items())
def test_every_kind_that_is_promised_has_a_row(head: str, words: tuple[str, ...]) -> None:
    kinds = [kind for kind, _, _ in ROWS if kind.startswith(head)]
    for word in words:
        assert [kind for kind in kinds if word in kind], f"{head}: {word}"
