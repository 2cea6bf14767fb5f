-- Indexes of the user's tables, with every table column that they read.
SELECT
    i.indrelid::bigint AS table_oid,
    ic.relname AS name,
    ic.oid::bigint AS oid,
    pg_get_indexdef(ic.oid) AS definition,
    array(
        SELECT a.attname::text
        FROM (
            SELECT key.attnum, min(key.position) AS position
            FROM (
                SELECT attnum, position FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS listed (attnum, position)
                UNION ALL
                SELECT d.refobjsubid, 1000 + d.refobjsubid
                FROM pg_depend AS d
                WHERE d.classid = 'pg_class'::regclass AND d.objid = ic.oid
                    AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid > 0
            ) AS key
            WHERE key.attnum > 0
            GROUP BY key.attnum
        ) AS read
        JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = read.attnum
        ORDER BY read.position
    ) AS columns,
    i.indisunique AS "unique",
    i.indisvalid AND i.indisready AS valid,
    k.conname AS "constraint",
    ic.relpages::bigint * current_setting('block_size')::bigint AS bytes,
    obj_description(ic.oid, 'pg_class') AS comment
FROM pg_index AS i
JOIN pg_class AS ic ON ic.oid = i.indexrelid
JOIN pg_class AS c ON c.oid = i.indrelid AND c.relkind IN ('r', 'p', 'f')
JOIN pg_namespace AS n ON n.oid = c.relnamespace
-- pg_constraint has no index on conindid: joined as a whole, not looked up per index.
LEFT JOIN (
    SELECT conindid, min(conname::text) AS conname FROM pg_constraint WHERE contype IN ('p', 'u', 'x') GROUP BY conindid
) AS k ON k.conindid = ic.oid
WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'lockstep')
    AND coalesce(c.oid = ANY ((SELECT nullif(current_setting('lockstep.only', true), ''))::oid[]), true)
ORDER BY i.indrelid, ic.relname COLLATE "C"
