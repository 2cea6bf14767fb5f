-- Which view reads which relation directly, and which of its columns.
SELECT
    d.refobjid::bigint AS relation,
    r.ev_class::bigint AS view,
    coalesce(
        array_agg(DISTINCT ARRAY[lpad(a.attnum::text, 5, '0'), a.attname::text]) FILTER (WHERE a.attnum IS NOT NULL),
        '{}'
    ) AS columns
FROM pg_depend AS d
JOIN pg_rewrite AS r ON r.oid = d.objid AND r.ev_class <> d.refobjid
JOIN pg_class AS v ON v.oid = r.ev_class AND v.relkind IN ('v', 'm')
JOIN pg_class AS c ON c.oid = d.refobjid AND c.relkind IN ('r', 'p', 'f', 'v', 'm')
JOIN pg_namespace AS n ON n.oid = v.relnamespace
LEFT JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid AND a.attnum > 0
WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
    AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'lockstep')
GROUP BY d.refobjid, r.ev_class
ORDER BY d.refobjid, r.ev_class
