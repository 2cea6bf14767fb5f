-- What tasks.database.rehearsal asks of the clone.

-- name: held
-- The locks on tables that keep writes waiting, held now by others than this session.
SELECT clock_timestamp() AS at, l.pid, n.nspname::text AS schema, c.relname::text AS name, l.mode
  FROM pg_catalog.pg_locks AS l
  JOIN pg_catalog.pg_class AS c ON c.oid = l.relation AND c.relkind IN ('r', 'p')
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname !~ '^(pg_|lockstep$)'
 WHERE l.granted AND l.locktype = 'relation' AND l.pid <> pg_catalog.pg_backend_pid()
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = current_database())
   AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')

-- name: now
SELECT clock_timestamp()
