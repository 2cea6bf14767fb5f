-- The scratch databases whose owner is gone: nobody holds the advisory lock whose second key is in their names. The owner
-- has it from before a database is there until after it is dropped, so one that this snapshot shows had an owner before.
SELECT d.datname
FROM pg_catalog.pg_database AS d
WHERE d.datname ~ ('^' || %(prefix)s || '[0-9a-f]{8}_[0-9]+$')
    AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_locks AS l
        WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.classid::bigint = %(lock)s
            AND l.objid::bigint = ('x' || substr(d.datname, length(%(prefix)s) + 1, 8))::bit(32)::bigint
    )
