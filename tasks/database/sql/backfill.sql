-- name: begin_batch
-- A batch and its cursor commit together, so a commit that a server crash loses is only done again.
-- The key's index is the way to a page, whatever the statistics say, and whether there are any.
SELECT set_config('lockstep.direction', 'none', true), set_config('synchronous_commit', 'off', true),
       set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('jit', 'off', true)

-- name: now
SELECT extract(epoch FROM clock_timestamp())

-- name: begin_fill
-- The same where the sync trigger is called, because a trigger of the user's may change the row before it.
SELECT set_config('lockstep.direction', 'fill', true), set_config('synchronous_commit', 'off', true),
       set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('jit', 'off', true)

-- name: table_facts
-- Without statistics the rows are taken to lie in key order, as they do in most tables.
SELECT c.relkind = 'r' AND NOT c.relhassubclass AS plain, greatest(c.reltuples, 0)::bigint AS rows,
       coalesce((SELECT s.correlation FROM pg_catalog.pg_stats AS s
                  WHERE s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = %(column)s
                  ORDER BY s.inherited DESC LIMIT 1), 1) AS correlation
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relname = %(table)s

-- name: start
INSERT INTO lockstep.progress (migration, step, rows_total) VALUES (%(migration)s, %(step)s, %(total)s)
    ON CONFLICT (migration, step) DO UPDATE SET updated_at = clock_timestamp()
RETURNING cursor, rows_done, coalesce(rows_total, 0)

-- name: advance
UPDATE lockstep.progress
   SET cursor = coalesce(%(cursor)s, cursor), rows_done = rows_done + %(rows)s, updated_at = clock_timestamp()
 WHERE migration = %(migration)s AND step = %(step)s

-- name: open_failures
SELECT key FROM lockstep.sync_failure
 WHERE migration = %(migration)s AND table_name = %(table)s AND kind = 'failure' AND direction = 'up'
   AND resolved_at IS NULL AND key IS NOT NULL

-- name: record_failure
INSERT INTO lockstep.sync_failure (migration, table_name, key, sqlstate, direction, kind)
SELECT %(migration)s, %(table)s, %(key)s, %(sqlstate)s, 'up', 'failure'
 WHERE NOT EXISTS (SELECT FROM lockstep.sync_failure AS f
                    WHERE f.migration = %(migration)s AND f.table_name = %(table)s AND f.kind = 'failure'
                      AND f.resolved_at IS NULL AND md5(f.key) = md5(%(key)s) AND f.key = %(key)s)
