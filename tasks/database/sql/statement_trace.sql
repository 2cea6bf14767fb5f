-- name: relations
SELECT
    c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text, c.relfilenode::bigint,
    coalesce(i.indrelid, 0)::bigint
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_index AS i ON i.indexrelid = c.oid
WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'lockstep')

-- name: touched
-- What transactions from this one on have written of pg_class.
SELECT
    c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text, c.relfilenode::bigint,
    coalesce(i.indrelid, 0)::bigint
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_index AS i ON i.indexrelid = c.oid
WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'lockstep')
    AND age(c.xmin) <= age(%(since)s::text::xid)

-- name: now
SELECT mod(txid_current(), 4294967296)::bigint

-- name: namespaces
SELECT oid::bigint, nspname::text FROM pg_namespace
WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'lockstep')

-- name: locks
SELECT l.relation::bigint, l.mode FROM pg_locks AS l
WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.granted

-- name: requests
-- What a session has, and waits for, seen from another one.
SELECT l.relation::bigint, l.mode FROM pg_locks AS l WHERE l.pid = %(pid)s AND l.locktype = 'relation'

-- name: waits_for
SELECT %(blockers)s::int[] && pg_blocking_pids(%(pid)s)

-- name: scans
-- How often this transaction began to read a table as a whole. Counted from the session's last report on: what counts
-- is the difference of two looks in one transaction.
SELECT c.oid::bigint, pg_stat_get_xact_numscans(c.oid)::bigint
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'lockstep')
    AND pg_stat_get_xact_numscans(c.oid) > 0

-- name: written
-- Which of the system's catalogs this transaction wrote: rows inserted, updated and deleted, counted as `scans` are.
SELECT
    c.relname::text, pg_stat_get_xact_tuples_inserted(c.oid)::bigint,
    pg_stat_get_xact_tuples_updated(c.oid)::bigint, pg_stat_get_xact_tuples_deleted(c.oid)::bigint
FROM pg_class AS c
WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind = 'r'

-- name: columns_touched
SELECT DISTINCT attrelid::bigint FROM pg_attribute WHERE age(xmin) <= age(%(since)s::text::xid)

-- name: dependencies_touched
SELECT DISTINCT refobjid::bigint FROM pg_depend
WHERE refclassid = 'pg_class'::regclass AND age(xmin) <= age(%(since)s::text::xid)

-- name: constraints_touched
SELECT
    k.oid::bigint, k.conname::text, k.contype::text, k.convalidated, k.conrelid::bigint, k.confrelid::bigint,
    k.contypid::bigint, k.conindid::bigint
FROM pg_constraint AS k
WHERE age(k.xmin) <= age(%(since)s::text::xid)

-- name: has_rows
SELECT EXISTS (
    SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'lockstep')
        AND pg_relation_size(c.oid) > 0
)

-- name: relation_of
-- The table that a written name means: of an index, the table that it is on.
SELECT coalesce(i.indrelid, c.oid)::bigint, c.relkind::text
FROM pg_class AS c LEFT JOIN pg_index AS i ON i.indexrelid = c.oid
WHERE c.oid = to_regclass(%(name)s)

-- name: name_of
-- Of a relation that LOCK TABLE takes.
SELECT n.nspname::text, c.relname::text
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = %(oid)s AND c.relkind IN ('r', 'p')
