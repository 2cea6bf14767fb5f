"""Whether rows satisfy the condition of a data change that is through: then they came to do so since."""

from __future__ import annotations

from collections.abc import Collection

from tasks.planning.catalog import Table
from tasks.planning.checks.rows import Heading, check_id, is_personal, key_columns, row_check, source
from tasks.planning.names import verbatim
from tasks.planning.plan import Check


def due(table: Table, statement: str, alias: str, condition: str, *, personal: Collection[str] = ()) -> Check:
    """Return the check that no row is like those that were changed: ``condition`` is the step's own, over ``alias``.

    The step ended when it found none; a later statement of the change, or the application, may have made one since. It
    is not changed, as the statement itself would not have changed it.
    """
    key = key_columns(table)
    heading = Heading(
        id=check_id("due", table.name, statement),
        kind="due",
        title=f"{table.name}: no row satisfies the condition of {statement} only since",
        severity="INFO",
        table=table.name,
    )
    rows = source(table, {}, alias=alias)
    hashed = is_personal(table.name, key, personal)
    return row_check(heading, rows, verbatim(condition), key, qualifier=alias, hashed=hashed)
