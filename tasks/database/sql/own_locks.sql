-- Locks of this transaction on relations that were there before it, other than the system's.
SELECT n.nspname::text, c.relname::text, l.mode
FROM pg_locks AS l
JOIN pg_class AS c ON c.oid = l.relation AND c.relkind IN ('r', 'p', 'f', 'v', 'm')
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.granted
    AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'lockstep')
    AND c.oid::bigint <= %(last)s
