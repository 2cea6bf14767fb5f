-- User triggers of tables; the copies that the server makes on partitions are left out.
SELECT
    g.tgrelid::bigint AS table_oid,
    g.tgname AS name,
    pg_get_triggerdef(g.oid) AS definition,
    g.tgenabled::text AS enabled,
    g.tgtype::int & 3 = 3 AS before_row,
    g.tgtype::int & 16 = 16 AS on_update
FROM pg_trigger AS g
JOIN pg_class AS c ON c.oid = g.tgrelid AND c.relkind IN ('r', 'p', 'f')
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE NOT g.tgisinternal AND g.tgparentid = 0
    AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'lockstep')
    AND coalesce(c.oid = ANY ((SELECT nullif(current_setting('lockstep.only', true), ''))::oid[]), true)
ORDER BY g.tgrelid, g.tgname COLLATE "C"
