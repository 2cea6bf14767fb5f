-- name: try_lock
SELECT pg_catalog.pg_try_advisory_lock(%(key)s)

-- name: unlock
SELECT pg_catalog.pg_advisory_unlock(%(key)s)

-- name: token
SELECT token FROM lockstep.migration WHERE name = %(name)s

-- name: fence
-- Held until the transaction ends: raising the token waits for it.
SELECT token FROM lockstep.migration WHERE name = %(name)s FOR SHARE

-- name: take
-- Waits for every transaction that holds the fence. Above every token of this runner, even one that a failover lost.
WITH raised AS (
    UPDATE lockstep.migration SET token = greatest(token, %(least)s) + 1 WHERE name = %(name)s RETURNING name, token
), former AS (
    DELETE FROM lockstep.session WHERE migration = %(name)s
)
INSERT INTO lockstep.lease (migration, token, host, pid, started_at, expires_at)
SELECT name, token, %(host)s, %(pid)s, to_timestamp(%(started)s), clock_timestamp() + make_interval(secs => %(seconds)s)
  FROM raised
    ON CONFLICT (migration) DO UPDATE
   SET token = excluded.token, host = excluded.host, pid = excluded.pid, started_at = excluded.started_at,
       since = clock_timestamp(), expires_at = excluded.expires_at
RETURNING token

-- name: heartbeat
UPDATE lockstep.lease SET expires_at = clock_timestamp() + make_interval(secs => %(seconds)s)
 WHERE migration = %(name)s AND token = %(token)s

-- name: release
WITH sessions AS (DELETE FROM lockstep.session WHERE migration = %(name)s AND token = %(token)s)
DELETE FROM lockstep.lease WHERE migration = %(name)s AND token = %(token)s

-- name: record
INSERT INTO lockstep.session (migration, token, pid, backend_start, role)
SELECT %(name)s, %(token)s, a.pid, a.backend_start, %(role)s
  FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) AS a
    ON CONFLICT DO NOTHING

-- name: terminate
-- Backends of the former holder that still exist, each told to end. A pid alone could be somebody else's by now.
SELECT a.pid, pg_catalog.pg_terminate_backend(a.pid)
  FROM lockstep.session AS s
  JOIN pg_catalog.pg_stat_activity AS a ON a.pid = s.pid AND a.backend_start = s.backend_start
 WHERE s.migration = %(name)s AND s.token = %(token)s AND a.pid <> pg_catalog.pg_backend_pid()
