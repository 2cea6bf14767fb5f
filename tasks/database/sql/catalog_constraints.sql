-- Constraints of the user's tables. PostgreSQL 18 keeps NOT NULL here as well: left out where it says no more than
-- the column's own flag, so that a NOT NULL reads the same on every version and by whatever way it came.
SELECT
    k.conrelid::bigint AS table_oid,
    k.conname AS name,
    k.oid::bigint AS oid,
    CASE k.contype
        WHEN 'c' THEN 'check' WHEN 'f' THEN 'foreign_key' WHEN 'p' THEN 'primary_key' WHEN 'u' THEN 'unique'
        WHEN 'x' THEN 'exclusion' WHEN 'n' THEN 'not_null' WHEN 't' THEN 'trigger'
    END AS kind,
    pg_get_constraintdef(k.oid) AS definition,
    array(
        SELECT a.attname::text
        FROM unnest(k.conkey) WITH ORDINALITY AS key (attnum, position)
        JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = key.attnum
        ORDER BY key.position
    ) AS columns,
    k.convalidated AS validated,
    k.condeferrable AS deferrable,
    k.coninhcount > 0 OR k.conparentid <> 0 AS inherited,
    CASE WHEN k.contype = 'f' THEN ARRAY[rn.nspname::text, rc.relname::text] END AS "references",
    array(
        SELECT a.attname::text
        FROM unnest(k.confkey) WITH ORDINALITY AS key (attnum, position)
        JOIN pg_attribute AS a ON a.attrelid = k.confrelid AND a.attnum = key.attnum
        ORDER BY key.position
    ) AS referenced_columns,
    CASE WHEN k.contype IN ('p', 'u', 'x') THEN ic.relname END AS index,
    obj_description(k.oid, 'pg_constraint') AS comment
FROM pg_constraint AS k
JOIN pg_class AS c ON c.oid = k.conrelid AND c.relkind IN ('r', 'p', 'f')
JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_class AS rc ON rc.oid = k.confrelid
LEFT JOIN pg_namespace AS rn ON rn.oid = rc.relnamespace
LEFT JOIN pg_class AS ic ON ic.oid = k.conindid
LEFT JOIN pg_constraint AS parent ON parent.oid = k.conparentid
WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'lockstep')
    AND coalesce(c.oid = ANY ((SELECT nullif(current_setting('lockstep.only', true), ''))::oid[]), true)
    AND NOT (k.contype = 'n' AND k.convalidated AND NOT k.connoinherit)
    -- One row per partition of the referenced table: the server's own, behind the declared foreign key.
    AND NOT (k.contype = 'f' AND parent.conrelid IS NOT DISTINCT FROM k.conrelid)
ORDER BY k.conrelid, k.conname COLLATE "C"
