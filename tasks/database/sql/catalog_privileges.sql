-- Owners and privileges of everything but tables, apart from the definitions: a schema-only clone has neither.
WITH own AS (
    SELECT oid, nspname, nspowner, nspacl FROM pg_namespace
    WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'lockstep')
),
held (class, oid, name, owner, acl) AS (
    SELECT 'pg_namespace'::regclass, o.oid, 'schema ' || quote_ident(o.nspname), o.nspowner, o.nspacl FROM own AS o
    UNION ALL
    SELECT
        'pg_class'::regclass, c.oid,
        CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' ELSE 'sequence' END || format(' %I.%I', o.nspname, c.relname),
        c.relowner, c.relacl
    FROM pg_class AS c JOIN own AS o ON o.oid = c.relnamespace WHERE c.relkind IN ('v', 'm', 'S')
    UNION ALL
    SELECT
        'pg_proc'::regclass, f.oid, format('function %I.%I(%s)', o.nspname, f.proname, pg_get_function_identity_arguments(f.oid)),
        f.proowner, f.proacl
    FROM pg_proc AS f JOIN own AS o ON o.oid = f.pronamespace
    UNION ALL
    SELECT 'pg_type'::regclass, t.oid, format('type %I.%I', o.nspname, t.typname), t.typowner, t.typacl
    FROM pg_type AS t
    JOIN own AS o ON o.oid = t.typnamespace
    LEFT JOIN pg_class AS c ON c.oid = t.typrelid
    WHERE t.typtype IN ('d', 'e', 'r') OR (t.typtype = 'c' AND c.relkind = 'c')
)
SELECT
    'privileges' AS kind, h.name, h.oid::bigint AS oid,
    'owner ' || pg_get_userbyid(h.owner)
    || coalesce('; ' || nullif(array_to_string(array(SELECT unnest(h.acl)::text ORDER BY 1), ', '), ''), '') AS definition
FROM held AS h
WHERE NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = h.class AND d.objid = h.oid AND d.deptype IN ('e', 'i'))
