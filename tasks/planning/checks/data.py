"""Whether a data change is through: no row is left that it still has to change."""

from __future__ import annotations

from collections.abc import Collection

from tasks.planning.catalog import Table
from tasks.planning.checks.rows import Heading, check_id, is_personal, key_columns, row_check, source
from tasks.planning.names import verbatim
from tasks.planning.plan import Check


def due(table: Table, statement: str, alias: str, condition: str, *, personal: Collection[str] = ()) -> Check:
    """Return the check that no row is due any more: ``condition`` is the step's own, over ``alias``."""
    key = key_columns(table)
    heading = Heading(
        id=check_id("due", table.name, statement),
        kind="due",
        title=f"{table.name}: {statement} has changed every row that it concerns",
        severity="CRITICAL",
        table=table.name,
    )
    rows = source(table, {}, alias=alias)
    hashed = is_personal(table.name, key, personal)
    return row_check(heading, rows, verbatim(condition), key, qualifier=alias, hashed=hashed)
