-- name: blockers
-- Who the session waits for, and on what. Other roles' queries show only to members of pg_read_all_stats.
SELECT b.pid, coalesce(a.application_name, '') AS application, coalesce(a.usename::text, '') AS role,
       coalesce(a.state, '') AS state,
       extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, a.state_change, a.backend_start))::float8 AS seconds,
       coalesce(a.query, '') AS query,
       (SELECT min(w.relation::regclass::text) FROM pg_catalog.pg_locks AS w
         WHERE w.pid = %(pid)s AND NOT w.granted AND w.relation IS NOT NULL) AS waiting_for
  FROM unnest(pg_catalog.pg_blocking_pids(%(pid)s)) AS b (pid)
  LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = b.pid
 ORDER BY 5 DESC NULLS LAST

-- name: give_way
-- Whether the session waits for a lock; it is cancelled if one of those that it waits for, at any distance, waits for it.
WITH RECURSIVE ahead (pid) AS (
    SELECT unnest(pg_catalog.pg_blocking_pids(a.pid)) FROM pg_catalog.pg_stat_activity AS a
     WHERE a.pid = %(pid)s AND a.wait_event_type = 'Lock'
    UNION
    SELECT unnest(pg_catalog.pg_blocking_pids(ahead.pid)) FROM ahead
)
SELECT EXISTS (SELECT FROM ahead),
       (SELECT pg_catalog.pg_cancel_backend(ahead.pid) FROM ahead WHERE ahead.pid = %(pid)s)

-- name: table_holders
-- Other sessions that may hold rows of the table: those with a lock on it that writes or row locks take.
SELECT DISTINCT b.pid, coalesce(a.application_name, '') AS application, coalesce(a.usename::text, '') AS role,
       coalesce(a.state, '') AS state,
       extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, a.state_change, a.backend_start))::float8 AS seconds,
       coalesce(a.query, '') AS query, b.relation::regclass::text AS waiting_for
  FROM (SELECT coalesce(l.pid, 0) AS pid, l.relation FROM pg_catalog.pg_locks AS l
         WHERE l.locktype = 'relation' AND l.granted AND l.relation = %(table)s::regclass
           AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = current_database())
           AND l.mode NOT IN ('AccessShareLock', 'ShareUpdateExclusiveLock')
           AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()) AS b
  LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = b.pid
 ORDER BY 5 DESC NULLS LAST

-- name: advisory_holders
-- Sessions that hold an advisory lock that is one number.
SELECT l.pid, coalesce(a.application_name, '') AS application, coalesce(a.usename::text, '') AS role,
       coalesce(a.state, '') AS state,
       extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, a.state_change, a.backend_start))::float8 AS seconds,
       coalesce(a.query, '') AS query, NULL AS waiting_for
  FROM pg_catalog.pg_locks AS l
  LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
 WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = current_database())
   AND (l.classid::bigint << 32 | l.objid::bigint) = %(key)s
 ORDER BY 5 DESC NULLS LAST
