"""Whether the shapes are kept in step: unfilled rows, recorded failures and conflicts, writers of the old shape."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from psycopg import sql

from tasks.planning.catalog import Table
from tasks.planning.checks.rows import SAMPLE_SIZE, Heading, check_id, is_personal, key_columns, row_check, source
from tasks.planning.names import PENDING_COLUMN, TableName
from tasks.planning.plan import Check, Severity

QUIET_SECONDS = 600
"""A session of the old version that has not written for so long is taken to have stopped."""

RECONNECT_SECONDS = 5
"""A session that wrote and then ended may have been one of many short ones: so long it counts as still writing."""


UP_BITS = 0x15555555
"""The marker's bits that say that a group's new columns are unfilled, or that `up` failed."""
DOWN_BITS = 0x2AAAAAAA
"""The marker's bits that say that `down` failed: the new columns hold what the old ones could not take."""


def unheld(table: Table, *, personal: Collection[str] = ()) -> Check:
    """Return the check that the old shape could take every value; where not, going back loses that value."""
    key = key_columns(table)
    heading = Heading(
        id=check_id("unheld", table.name),
        kind="unheld",
        title=f"{table.name}: the old shape holds every value of the new one",
        severity="WARNING",
        table=table.name,
    )
    bad = sql.SQL("({} & {}) <> 0").format(sql.Identifier(PENDING_COLUMN), sql.Literal(DOWN_BITS))
    return row_check(heading, source(table, {}), bad, key, hashed=is_personal(table.name, key, personal))


def unfilled(table: Table, *, personal: Collection[str] = (), bits: int = UP_BITS | DOWN_BITS) -> Check:
    """Return the check that no row has one of the marker's ``bits``: each has both shapes."""
    key = key_columns(table)
    heading = Heading(
        id=check_id("unfilled", table.name),
        kind="unfilled",
        title=f"{table.name}: both shapes are filled in every row",
        severity="CRITICAL",
        table=table.name,
    )
    bad = sql.SQL("({} & {}) <> 0").format(sql.Identifier(PENDING_COLUMN), sql.Literal(bits))
    return row_check(heading, source(table, {}), bad, key, hashed=is_personal(table.name, key, personal))


def sync_failures(migration: str, table: TableName, directions: Sequence[str] = ("up", "down")) -> Check:
    """Return the check that no open failure of the sync is recorded; ``observed`` counts them by SQLSTATE."""
    return _recorded(
        Heading(
            id=check_id("sync_failures", table),
            kind="sync_failures",
            title=f"{table}: no write failed to reach the other shape",
            severity="CRITICAL",
            table=table,
            corruption=True,
        ),
        migration,
        "failure",
        directions,
    )


def sync_conflicts(migration: str, table: TableName, severity: Severity = "WARNING") -> Check:
    """Return the check that no statement set both shapes to different values (the new one was kept)."""
    return _recorded(
        Heading(
            id=check_id("sync_conflicts", table),
            kind="sync_conflicts",
            title=f"{table}: no write set both shapes to different values",
            severity=severity,
            table=table,
        ),
        migration,
        "conflict",
        ("up", "down"),
    )


def _recorded(heading: Heading, migration: str, kind: str, directions: Sequence[str]) -> Check:
    return heading.check(
        sql.SQL(
            "WITH entries AS (SELECT f.id, f.key, f.sqlstate, f.resolved_at IS NULL AS open"
            " FROM lockstep.sync_failure AS f"
            " WHERE f.migration = {migration} AND f.table_name = {table} AND f.kind = {kind}"
            " AND f.direction = ANY ({directions}))"
            " SELECT (SELECT count(*) FROM entries AS e WHERE e.open) AS failing,"
            " (SELECT count(*) FROM entries) AS evaluated,"
            " coalesce((SELECT jsonb_agg(k.key) FROM (SELECT e.key FROM entries AS e"
            " WHERE e.open AND e.key IS NOT NULL GROUP BY e.key ORDER BY min(e.id) LIMIT {limit}) AS k),"
            " '[]'::jsonb) AS sample,"
            " coalesce((SELECT jsonb_object_agg(s.state, s.times) FROM (SELECT coalesce(e.sqlstate, '-') AS state,"
            " count(*)::text AS times FROM entries AS e WHERE e.open GROUP BY 1) AS s), '{{}}'::jsonb) AS observed"
        ).format(
            migration=sql.Literal(migration),
            table=sql.Literal(str(heading.table)),
            kind=sql.Literal(kind),
            directions=sql.Literal(list(directions)),
            limit=sql.Literal(SAMPLE_SIZE),
        )
    )


def old_writers(
    migration: str, table: TableName, quiet_seconds: int = QUIET_SECONDS, reconnect_seconds: int = RECONNECT_SECONDS
) -> Check:
    """Return the check that no session writes the old shape any more.

    A session still writes when it wrote within ``quiet_seconds`` and is connected, or wrote within
    ``reconnect_seconds``, connected or not. The sample names it: ``application_name (role)``.
    """
    heading = Heading(
        id=check_id("old_writers", table),
        kind="old_writers",
        title=f"{table}: no session writes the old shape",
        severity="CRITICAL",
        table=table,
    )
    return heading.check(
        sql.SQL(
            "WITH writers AS (SELECT concat(coalesce(nullif(w.application_name, ''), 'no application_name'),"
            " ' (', w.role_name, ')') AS name, w.last_at,"
            " w.last_at > clock_timestamp() - make_interval(secs => {reconnect})"
            " OR (w.last_at > clock_timestamp() - make_interval(secs => {quiet}) AND EXISTS ("
            # One that started after the write has only inherited the pid. A role without pg_read_all_stats sees
            # other roles' sessions without their start: those count.
            "SELECT FROM pg_catalog.pg_stat_activity AS a WHERE a.pid = w.pid"
            " AND (a.backend_start <= w.last_at OR a.backend_start IS NULL))) AS active"
            " FROM lockstep.old_write AS w WHERE w.migration = {migration} AND w.table_name = {table})"
            " SELECT (SELECT count(*) FROM writers AS w WHERE w.active) AS failing,"
            " (SELECT count(*) FROM writers) AS evaluated,"
            " coalesce((SELECT jsonb_agg(n.name) FROM (SELECT w.name FROM writers AS w WHERE w.active"
            " GROUP BY w.name ORDER BY max(w.last_at) DESC LIMIT {limit}) AS n), '[]'::jsonb) AS sample,"
            " coalesce((SELECT jsonb_build_object('last write',"
            " to_char(max(w.last_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC')"
            " FROM writers AS w HAVING count(*) > 0), '{{}}'::jsonb) AS observed"
        ).format(
            reconnect=sql.Literal(reconnect_seconds),
            quiet=sql.Literal(quiet_seconds),
            migration=sql.Literal(migration),
            table=sql.Literal(str(table)),
            limit=sql.Literal(SAMPLE_SIZE),
        )
    )
