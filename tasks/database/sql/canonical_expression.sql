-- What the server made of an expression that stands in a CHECK constraint: its text with everything qualified (the
-- caller has emptied search_path), the columns it reads, and every function that it calls, by operator or by name.
SELECT
    pg_get_expr(con.conbin, con.conrelid) AS text,
    con.conbin::text AS tree,
    ARRAY(
        SELECT attribute.attname::text
          FROM unnest(con.conkey) AS key (attnum)
          JOIN pg_attribute AS attribute ON attribute.attrelid = con.conrelid AND attribute.attnum = key.attnum
         WHERE key.attnum > 0
         ORDER BY key.attnum
    ) AS columns,
    COALESCE((SELECT bool_or(key.attnum <= 0) FROM unnest(con.conkey) AS key (attnum)), false) AS beyond_columns,
    ARRAY(
        SELECT jsonb_build_object(
                   'oid', function.oid::bigint,
                   'name', function.oid::regprocedure::text,
                   'volatility', function.provolatile)
          FROM pg_proc AS function
         WHERE function.oid IN (
             SELECT match[1]::oid
               FROM regexp_matches(con.conbin::text, ':(?:funcid|opfuncid) (\d+)', 'g') AS match
             UNION
             SELECT operator.oprcode
               FROM regexp_matches(con.conbin::text, ':(?:opno|opnos \(o) ([\d ]+)', 'g') AS match
              CROSS JOIN regexp_split_to_table(btrim(match[1]), ' ') AS number
               JOIN pg_operator AS operator ON operator.oid = number::oid)
         ORDER BY function.oid
    ) AS functions
  FROM pg_constraint AS con
 WHERE con.conrelid = %s::regclass AND con.conname = %s
