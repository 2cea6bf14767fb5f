-- What tasks.database.made_up_rows asks: of the live database only statistics without a value, of the clone its types.

-- name: statistics
-- Width, share of NULLs and number of different values of each column, as far as the role may see them. No value.
SELECT s.schemaname::text AS schema, s.tablename::text AS table_name, s.attname::text AS column_name,
       s.avg_width::float8 AS width, s.null_frac::float8 AS nulls, s.n_distinct::float8 AS distinct_values
  FROM pg_catalog.pg_stats AS s
 WHERE NOT s.inherited
   AND (s.schemaname, s.tablename) IN (SELECT * FROM unnest(%(schemas)s::name[], %(tables)s::name[]))

-- name: type
SELECT pg_catalog.format_type(coalesce(d.base, t.oid), coalesce(d.modifier, -1)) AS base,
       ARRAY(SELECT e.enumlabel::text FROM pg_catalog.pg_enum AS e WHERE e.enumtypid = coalesce(d.base, t.oid)
              ORDER BY e.enumsortorder) AS labels,
       t.typtype = 'd' AS is_domain, t.typnotnull OR coalesce(d.not_null, false) AS not_null,
       ARRAY(SELECT pg_catalog.pg_get_constraintdef(c.oid) FROM pg_catalog.pg_constraint AS c WHERE c.contypid = t.oid)
           AS checks
  FROM pg_catalog.pg_type AS t
  LEFT JOIN LATERAL (
    WITH RECURSIVE down AS (
        SELECT t.typbasetype AS base, t.typtypmod AS modifier, t.typnotnull AS not_null, 1 AS depth WHERE t.typtype = 'd'
        UNION ALL
        SELECT n.typbasetype, n.typtypmod, down.not_null OR n.typnotnull, depth + 1
          FROM down JOIN pg_catalog.pg_type AS n ON n.oid = down.base WHERE n.typtype = 'd'
    ) SELECT base, modifier, not_null FROM down ORDER BY depth DESC LIMIT 1
  ) AS d ON true
 WHERE t.oid = pg_catalog.to_regtype(%(type)s)

-- name: sequences
-- The sequences of a table's columns, which go on behind the made-up numbers.
SELECT a.attname::text AS column_name, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(s.relname) AS sequence
  FROM pg_catalog.pg_depend AS d
  JOIN pg_catalog.pg_class AS s ON s.oid = d.objid AND s.relkind = 'S'
  JOIN pg_catalog.pg_namespace AS n ON n.oid = s.relnamespace
  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
 WHERE d.classid = 'pg_class'::regclass AND d.refobjid = %(table)s::regclass AND d.deptype IN ('a', 'i')
