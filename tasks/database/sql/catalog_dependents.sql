-- What depends on a table's columns besides views, constraints and indexes.
WITH tables AS (
    SELECT c.oid, c.relname, n.nspname, c.reltype
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'f')
        AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'lockstep')
        AND coalesce(c.oid = ANY ((SELECT nullif(current_setting('lockstep.only', true), ''))::oid[]), true)
),
direct AS (
    SELECT d.classid, d.objid, d.objsubid, d.refobjid AS relation, d.refobjsubid AS attnum, d.deptype
    FROM pg_depend AS d JOIN tables AS t ON t.oid = d.refobjid
    WHERE d.refclassid = 'pg_class'::regclass
    UNION ALL
    -- A function that takes or returns a row of the table depends on the table's type.
    SELECT d.classid, d.objid, d.objsubid, t.oid, 0, d.deptype
    FROM pg_depend AS d
    JOIN pg_type AS ty ON ty.oid = d.refobjid
    JOIN tables AS t ON t.reltype IN (ty.oid, ty.typelem)
    WHERE d.refclassid = 'pg_type'::regclass AND d.classid = 'pg_proc'::regclass
),
grouped AS (
    SELECT
        d.classid, d.objid, d.relation,
        coalesce(
            array_agg(DISTINCT ARRAY[lpad(a.attnum::text, 5, '0'), a.attname::text])
                FILTER (WHERE a.attnum IS NOT NULL),
            '{}'
        ) AS columns
    FROM direct AS d
    LEFT JOIN pg_attribute AS a ON a.attrelid = d.relation AND a.attnum = d.attnum AND a.attnum > 0
    GROUP BY d.classid, d.objid, d.relation
)
SELECT
    g.relation::bigint AS table_oid, 'rule' AS kind,
    format('%I ON %I.%I', r.rulename, rn.nspname, rc.relname) AS name, g.columns, pg_get_ruledef(r.oid) AS definition
FROM grouped AS g
JOIN pg_rewrite AS r ON r.oid = g.objid
JOIN pg_class AS rc ON rc.oid = r.ev_class AND rc.relkind NOT IN ('v', 'm')
JOIN pg_namespace AS rn ON rn.oid = rc.relnamespace
WHERE g.classid = 'pg_rewrite'::regclass
UNION ALL
SELECT
    g.relation, 'policy', format('%I ON %I.%I', p.polname, rn.nspname, rc.relname), g.columns,
    format('CREATE POLICY %I ON %I.%I', p.polname, rn.nspname, rc.relname)
    || CASE WHEN p.polpermissive THEN '' ELSE ' AS RESTRICTIVE' END
    || CASE p.polcmd
        WHEN 'r' THEN ' FOR SELECT' WHEN 'a' THEN ' FOR INSERT' WHEN 'w' THEN ' FOR UPDATE' WHEN 'd' THEN ' FOR DELETE'
        ELSE ''
    END
    || CASE WHEN p.polroles = '{0}' THEN '' ELSE ' TO ' || (
        SELECT string_agg(CASE role WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(role)) END, ', ' ORDER BY 1)
        FROM unnest(p.polroles) AS role
    ) END
    || coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
    || coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', '')
FROM grouped AS g
JOIN pg_policy AS p ON p.oid = g.objid
JOIN pg_class AS rc ON rc.oid = p.polrelid
JOIN pg_namespace AS rn ON rn.oid = rc.relnamespace
WHERE g.classid = 'pg_policy'::regclass
UNION ALL
SELECT
    g.relation, 'function', format('%I.%I(%s)', n.nspname, f.proname, pg_get_function_identity_arguments(f.oid)),
    g.columns, CASE WHEN f.prokind = 'a' THEN '' ELSE pg_get_functiondef(f.oid) END
FROM grouped AS g
JOIN pg_proc AS f ON f.oid = g.objid
JOIN pg_namespace AS n ON n.oid = f.pronamespace AND n.nspname <> 'lockstep'
WHERE g.classid = 'pg_proc'::regclass
UNION ALL
SELECT g.relation, 'statistics', format('%I.%I', n.nspname, s.stxname), g.columns, pg_get_statisticsobjdef(s.oid)
FROM grouped AS g
JOIN pg_statistic_ext AS s ON s.oid = g.objid
JOIN pg_namespace AS n ON n.oid = s.stxnamespace
WHERE g.classid = 'pg_statistic_ext'::regclass
UNION ALL
SELECT
    d.relation, 'sequence', format('%I.%I', n.nspname, c.relname), ARRAY[ARRAY['', a.attname::text]],
    CASE d.deptype WHEN 'i' THEN 'identity' ELSE 'owned' END
FROM direct AS d
JOIN pg_class AS c ON c.oid = d.objid AND c.relkind = 'S'
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a ON a.attrelid = d.relation AND a.attnum = d.attnum
WHERE d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND d.attnum > 0
UNION ALL
-- Up to PostgreSQL 14 the dependency hangs on the generated column, later on its expression.
SELECT
    t.oid, 'generated column', format('%I.%I.%I', t.nspname, t.relname, generated.attname),
    array_agg(DISTINCT ARRAY[lpad(read.attnum::text, 5, '0'), read.attname::text]),
    pg_get_expr(e.adbin, e.adrelid)
FROM tables AS t
JOIN pg_attribute AS generated
    ON generated.attrelid = t.oid AND generated.attgenerated <> '' AND NOT generated.attisdropped
JOIN pg_attrdef AS e ON e.adrelid = t.oid AND e.adnum = generated.attnum
JOIN pg_depend AS d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid AND d.refobjsubid > 0
    AND d.refobjsubid <> generated.attnum
    AND (
        (d.classid = 'pg_attrdef'::regclass AND d.objid = e.oid)
        OR (d.classid = 'pg_class'::regclass AND d.objid = t.oid AND d.objsubid = generated.attnum)
    )
JOIN pg_attribute AS read ON read.attrelid = t.oid AND read.attnum = d.refobjsubid
GROUP BY t.oid, t.nspname, t.relname, generated.attname, e.adbin, e.adrelid
UNION ALL
SELECT
    t.oid, 'publication', quote_ident(p.pubname),
    coalesce((
        SELECT g.columns
        FROM pg_publication_rel AS pr JOIN pg_publication AS pub ON pub.oid = pr.prpubid
        JOIN grouped AS g ON g.classid = 'pg_publication_rel'::regclass AND g.objid = pr.oid AND g.relation = t.oid
        WHERE pub.pubname = p.pubname AND pr.prrelid = t.oid
    ), '{}'),
    coalesce('WHERE ' || (to_jsonb(p) ->> 'rowfilter'), '')
FROM pg_publication_tables AS p
JOIN tables AS t ON t.nspname = p.schemaname AND t.relname = p.tablename
