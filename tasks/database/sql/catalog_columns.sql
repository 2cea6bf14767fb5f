-- Columns of the user's tables, in their order. Whether a type has equality is decided on its leaves: the base type of
-- a domain, the element of an array, the attributes of a composite type. The `=` of the type itself must be in pg_catalog
-- too: IS DISTINCT FROM finds it by search_path (that of an array's elements or a composite's attributes by its class).
WITH RECURSIVE used AS (
    SELECT a.*, c.relkind
    FROM pg_attribute AS a
    JOIN pg_class AS c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'f')
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE a.attnum > 0 AND NOT a.attisdropped
        AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'lockstep')
        AND coalesce(c.oid = ANY ((SELECT nullif(current_setting('lockstep.only', true), ''))::oid[]), true)
),
reached (root, type, itself) AS (
    SELECT DISTINCT atttypid, atttypid, true FROM used
    UNION
    SELECT r.root, inner_type.oid, r.itself AND t.typtype = 'd'
    FROM reached AS r
    JOIN pg_type AS t ON t.oid = r.type
    CROSS JOIN LATERAL (
        SELECT t.typbasetype AS oid WHERE t.typtype = 'd'
        UNION ALL
        SELECT t.typelem WHERE t.typelem <> 0 AND t.typlen = -1
        UNION ALL
        SELECT ca.atttypid FROM pg_attribute AS ca
        WHERE t.typtype = 'c' AND ca.attrelid = t.typrelid AND ca.attnum > 0 AND NOT ca.attisdropped
    ) AS inner_type
),
equality AS (
    SELECT r.root, bool_and(
        t.typtype IN ('c', 'd', 'e', 'm', 'r')
        OR (t.typelem <> 0 AND t.typlen = -1)
        OR EXISTS (
            SELECT FROM pg_opclass AS o
            JOIN pg_am AS am ON am.oid = o.opcmethod AND am.amname IN ('btree', 'hash')
            WHERE o.opcdefault AND (
                o.opcintype = t.oid
                OR EXISTS (
                    SELECT FROM pg_cast AS ct
                    WHERE ct.castsource = t.oid AND ct.casttarget = o.opcintype
                        AND ct.castmethod = 'b' AND ct.castcontext = 'i'
                )
            )
        ) AND NOT (
            r.itself AND EXISTS (
                SELECT FROM pg_opclass AS o
                JOIN pg_am AS am ON am.oid = o.opcmethod AND am.amname IN ('btree', 'hash')
                JOIN pg_amop AS ao ON ao.amopfamily = o.opcfamily
                    AND ao.amoplefttype = o.opcintype AND ao.amoprighttype = o.opcintype
                    AND ao.amopstrategy = CASE am.amname WHEN 'btree' THEN 3 ELSE 1 END
                JOIN pg_operator AS op ON op.oid = ao.amopopr
                WHERE o.opcdefault AND o.opcintype = t.oid
                    AND (op.oprname <> '=' OR op.oprnamespace <> 'pg_catalog'::regnamespace)
            )
        )
    ) AS has_equality
    FROM reached AS r JOIN pg_type AS t ON t.oid = r.type
    GROUP BY r.root
)
SELECT
    a.attrelid::bigint AS table_oid,
    a.attname AS name,
    a.attnum::int AS attnum,
    format_type(a.atttypid, a.atttypmod) AS type,
    -- PostgreSQL 18 sets attnotnull for a NOT NULL that is not yet validated.
    a.attnotnull AND NOT EXISTS (
        SELECT FROM pg_constraint AS k
        WHERE k.conrelid = a.attrelid AND k.contype = 'n' AND k.conkey[1] = a.attnum AND NOT k.convalidated
    ) AS not_null,
    pg_get_expr(d.adbin, d.adrelid) AS "default",
    a.attgenerated::text AS generated,
    a.attidentity::text AS identity,
    CASE WHEN a.attcollation <> t.typcollation THEN format('%I.%I', cn.nspname, co.collname) END AS collation,
    coalesce(co.collisdeterministic, true) AS deterministic,
    e.has_equality,
    CASE WHEN a.attstorage <> t.typstorage THEN a.attstorage::text ELSE '' END AS storage,
    nullif(a.attstattarget, -1)::int AS statistics_target,
    array(
        SELECT option FROM (
            SELECT unnest(a.attoptions)
            UNION ALL
            SELECT 'foreign.' || unnest(a.attfdwoptions)
            UNION ALL
            -- The column exists from PostgreSQL 14 on.
            SELECT 'compression=' || (to_jsonb(a) ->> 'attcompression') WHERE to_jsonb(a) ->> 'attcompression' <> ''
        ) AS all_options (option)
        ORDER BY option COLLATE "C"
    ) AS options,
    col_description(a.attrelid, a.attnum) AS comment
FROM used AS a
JOIN pg_type AS t ON t.oid = a.atttypid
JOIN equality AS e ON e.root = a.atttypid
LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
LEFT JOIN pg_collation AS co ON co.oid = a.attcollation
LEFT JOIN pg_namespace AS cn ON cn.oid = co.collnamespace
ORDER BY a.attrelid, a.attnum
