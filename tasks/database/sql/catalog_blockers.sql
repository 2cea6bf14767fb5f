-- Sessions that hold ACCESS EXCLUSIVE on a relation of this database, in words; no query text (it may hold values).
SELECT DISTINCT format(
    'pid %s (%s), in a transaction for %s s, holds ACCESS EXCLUSIVE on %s',
    l.pid, coalesce(nullif(a.application_name, ''), a.usename, 'unknown'),
    extract(epoch FROM clock_timestamp() - a.xact_start)::int, l.relation::regclass
)
FROM pg_locks AS l
JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.granted AND l.mode = 'AccessExclusiveLock' AND l.locktype = 'relation' AND l.pid <> pg_backend_pid()
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
