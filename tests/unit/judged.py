"""Facts of statements made by hand, as if a server had been asked, and what the rules say of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.planning.catalog import Catalog, Column, SchemaObject, Table
from tasks.planning.facts import StatementFacts
from tasks.planning.findings.judging import Verdict
from tasks.planning.meaning import changes
from tasks.planning.names import TableName
from tasks.planning.plan import LockMode
from tasks.planning.script import script

T, U = TableName("public", "t"), TableName("public", "u")


def column(name: str, number: int, **more: Any) -> Column:
    return Column(name=name, attnum=number, **{"type": "integer", "not_null": False, **more})


def table(name: TableName = T, oid: int = 1, **more: Any) -> Table:
    base: dict[str, Any] = {
        "name": name, "oid": oid, "kind": "r", "persistence": "p", "owner": "app",
        "columns": (column("a", 1), column("b", 2)),
    }  # fmt: skip
    return Table(**{**base, **more})


def catalog(*tables: Table, objects: tuple[SchemaObject, ...] = ()) -> Catalog:
    return Catalog(server_version=160004, database="d", tables=tables, objects=objects)


Step = tuple[str, Catalog, dict[str, Any]]


def step(sql: str, after: Catalog | None = None, **seen: Any) -> Step:
    """A statement, what the catalog is after it (else as before), and what was seen."""
    return sql, after if after is not None else catalog(), seen


def file(before: Catalog, *steps: Step, name: str = "v1.sql") -> tuple[StatementFacts, ...]:
    """The facts of a file in one transaction: locks are held to its end."""
    found: list[StatementFacts] = []
    held: dict[TableName, LockMode] = {}
    for number, (sql, after, seen) in enumerate(steps, start=1):
        now = after if after.tables else before
        own: Mapping[TableName, LockMode] = seen.get("own", {})
        held |= own
        (statement,) = script(sql, name).file.statements
        found.append(
            StatementFacts(
                index=number, file=name, statement=statement.model_copy(update={"line": number}),
                in_transaction=not statement.concurrent, own=own, held=dict(held),
                rewrites=seen.get("rewrites", ()), index_builds=seen.get("index_builds", ()),
                scans=seen.get("scans", ()), validations=(), changes=changes(before, now),
                before=before, after=now, refused=seen.get("refused"), server_major=16,
            )
        )  # fmt: skip
        before = now
    return tuple(found)


def ids(verdict: Verdict) -> set[str]:
    """The findings, without those that only concern timeouts and statistics."""
    return {item.rule.id for item in verdict.findings} - {
        "lock-timeout-missing", "statement-timeout-missing", "analyze-missing",
    }  # fmt: skip
