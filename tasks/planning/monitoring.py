"""What to look at while a migration runs: questions for psql or a dashboard, as data; a test asks each of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """``sql`` returns rows only where there is something to see; ``alarm`` says from when on somebody should act."""

    about: str
    sql: str
    alarm: str


LIMITS = "SET statement_timeout = '5s'; SET lock_timeout = '1s'"
"""Before them in the same session: who looks at a busy server must not add to what it has to do."""

QUESTIONS: tuple[Question, ...] = (
    Question(
        "whether this role sees what is asked for below: of other roles' sessions and of replicas it may see nothing",
        "SELECT current_user AS role WHERE NOT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')",
        "any: no row below means nothing then; GRANT pg_monitor to the role",
    ),
    Question(
        "sessions of the application that wait for one of Lockstep's",
        "SELECT a.pid, a.application_name, now() - a.query_start AS since FROM pg_stat_activity AS a"
        " WHERE EXISTS (SELECT FROM unnest(pg_blocking_pids(a.pid)) AS b (pid) JOIN pg_stat_activity AS l USING (pid)"
        " WHERE l.application_name LIKE 'lockstep:%')",
        "any for more than a second: lockstep pause",
    ),
    Question(
        "the oldest transaction, which VACUUM and index builds wait for",
        "SELECT pid, application_name, state, now() - xact_start AS age FROM pg_stat_activity"
        " WHERE xact_start < now() - interval '5 minutes' AND backend_type = 'client backend' ORDER BY xact_start",
        "older than five minutes: end it, or wait with the next phase",
    ),
    Question(
        "replicas that are behind",
        "SELECT application_name, replay_lag FROM pg_stat_replication WHERE replay_lag > interval '10 seconds'",
        "as the throttle's replication_lag; by itself the work waits then",
    ),
    Question(
        "WAL that a slot keeps back",
        "SELECT slot_name, pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)) AS kept"
        " FROM pg_replication_slots WHERE pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) > 1024 * 1024 * 1024",
        "more than the disk can spare",
    ),
    Question(
        "rows that cannot be brought into the other shape",
        "SELECT migration, table_name, direction, sqlstate, count(*) FROM lockstep.sync_failure"
        " WHERE resolved_at IS NULL AND kind = 'failure' GROUP BY 1, 2, 3, 4",
        "any: they stop the next gate; repair the rows",
    ),
    Question(
        "sessions that still write the old shape",
        "SELECT migration, table_name, application_name, max(last_at) AS last FROM lockstep.old_write GROUP BY 1, 2, 3",
        "any in the last minutes before contract",
    ),
    Question(
        "how far the batches are",
        "SELECT migration, step, rows_done, rows_total, updated_at FROM lockstep.progress"
        " WHERE updated_at > now() - interval '1 day'",
        "no step forward for minutes while the phase runs: lockstep status",
    ),
    Question(
        "dead rows that VACUUM has not taken yet",
        "SELECT relid::regclass AS table, n_dead_tup, n_live_tup FROM pg_stat_user_tables"
        " WHERE n_dead_tup > 10000 AND n_dead_tup > n_live_tup / 5",
        "more than the throttle's dead_rows; by itself the work waits then",
    ),
)
