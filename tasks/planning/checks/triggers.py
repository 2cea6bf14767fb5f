"""Whether the sync trigger is in force."""

from __future__ import annotations

from psycopg import sql

from tasks.planning.checks.rows import Heading, check_id
from tasks.planning.names import TableName
from tasks.planning.plan import Check


def sync_trigger(table: TableName, trigger: str) -> Check:
    """Return the check that the sync trigger is there and fires, also for the writes of a replica role."""
    heading = Heading(
        id=check_id("sync_trigger", table),
        kind="sync_trigger",
        title=f"{table}: the trigger {trigger}, which keeps both shapes in step, is there and enabled ALWAYS",
        severity="CRITICAL",
        table=table,
    )
    return heading.check(
        sql.SQL(
            "SELECT 1 - count(*) AS failing, 1::bigint AS evaluated, '[]'::jsonb AS sample, '{{}}'::jsonb AS observed"
            " FROM pg_catalog.pg_trigger AS g WHERE {condition}"
        ).format(condition=in_force(table, trigger))
    )


def in_force(table: TableName, trigger: str) -> sql.Composed:
    """Return the condition on a row ``g`` of pg_trigger that it is the sync trigger, enabled ALWAYS."""
    return sql.SQL("g.tgrelid = pg_catalog.to_regclass({table}) AND g.tgname = {name} AND g.tgenabled = 'A'").format(
        table=sql.Literal(table.identifier.as_string()), name=sql.Literal(trigger)
    )
