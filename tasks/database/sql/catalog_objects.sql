-- Everything else of the user's: one row per object, with a definition that is a statement where PostgreSQL gives one.
WITH own AS (
    SELECT oid, nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'lockstep')
),
members AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e')
SELECT
    'schema' AS kind, quote_ident(nspname) AS name, oid::bigint AS oid, 'CREATE SCHEMA ' || quote_ident(nspname) AS definition,
    '{}'::text[] AS columns
FROM own AS o
WHERE ('pg_namespace'::regclass::oid, o.oid) NOT IN (SELECT classid, objid FROM members)
UNION ALL
SELECT
    'extension', quote_ident(e.extname), e.oid::bigint,
    format('CREATE EXTENSION %I WITH SCHEMA %I VERSION %L', e.extname, n.nspname, e.extversion), '{}'
FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
WHERE e.extname <> 'plpgsql'
UNION ALL
SELECT
    CASE c.relkind WHEN 'v' THEN 'view' ELSE 'materialized view' END, format('%I.%I', o.nspname, c.relname), c.oid::bigint,
    CASE c.relkind WHEN 'v' THEN 'CREATE VIEW ' ELSE 'CREATE MATERIALIZED VIEW ' END
    || format('%I.%I', o.nspname, c.relname)
    || coalesce(' WITH (' || nullif(array_to_string(array(SELECT unnest(c.reloptions) ORDER BY 1), ', '), '') || ')', '')
    || ' AS' || E'\n' || rtrim(pg_get_viewdef(c.oid), ';')
    || coalesce((
        SELECT string_agg(E';\n' || statement, '' ORDER BY statement COLLATE "C")
        FROM (
            SELECT format('ALTER VIEW %I.%I ALTER COLUMN %I SET DEFAULT %s', o.nspname, c.relname, a.attname, pg_get_expr(d.adbin, d.adrelid))
            FROM pg_attrdef AS d JOIN pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
            WHERE d.adrelid = c.oid
            UNION ALL
            SELECT pg_get_indexdef(i.indexrelid) FROM pg_index AS i WHERE i.indrelid = c.oid
            UNION ALL
            SELECT pg_get_triggerdef(g.oid) FROM pg_trigger AS g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal
            UNION ALL
            SELECT rtrim(pg_get_ruledef(r.oid), ';') FROM pg_rewrite AS r WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN'
        ) AS more (statement)
    ), ''),
    array(
        SELECT a.attname || E'\t' || format_type(a.atttypid, a.atttypmod)
        FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
    )
FROM pg_class AS c JOIN own AS o ON o.oid = c.relnamespace
WHERE c.relkind IN ('v', 'm') AND ('pg_class'::regclass::oid, c.oid) NOT IN (SELECT classid, objid FROM members)
UNION ALL
SELECT
    'sequence', format('%I.%I', o.nspname, c.relname), c.oid::bigint,
    format(
        'CREATE %sSEQUENCE %I.%I AS %s INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s CACHE %s %sCYCLE',
        CASE c.relpersistence WHEN 'u' THEN 'UNLOGGED ' ELSE '' END,
        o.nspname, c.relname, format_type(s.seqtypid, NULL), s.seqincrement, s.seqmin, s.seqmax, s.seqstart, s.seqcache,
        CASE WHEN s.seqcycle THEN '' ELSE 'NO ' END
    ) || coalesce((
        SELECT format(' OWNED BY %I.%I.%I', tn.nspname, tc.relname, a.attname)
        FROM pg_depend AS d
        JOIN pg_class AS tc ON tc.oid = d.refobjid
        JOIN pg_namespace AS tn ON tn.oid = tc.relnamespace
        JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass
            AND d.deptype IN ('a', 'i')
    ), ''), '{}'
FROM pg_class AS c
JOIN pg_sequence AS s ON s.seqrelid = c.oid
JOIN own AS o ON o.oid = c.relnamespace
WHERE ('pg_class'::regclass::oid, c.oid) NOT IN (SELECT classid, objid FROM members)
UNION ALL
SELECT
    CASE f.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END,
    format('%I.%I(%s)', o.nspname, f.proname, pg_get_function_identity_arguments(f.oid)), f.oid::bigint,
    CASE f.prokind
        WHEN 'a' THEN (
            SELECT format(
                'CREATE AGGREGATE %I.%I(%s) (SFUNC = %s, STYPE = %s, FINALFUNC = %s, COMBINEFUNC = %s, INITCOND = %L, KIND = %s)',
                o.nspname, f.proname, pg_get_function_arguments(f.oid), g.aggtransfn::regproc,
                format_type(g.aggtranstype, NULL), g.aggfinalfn::regproc, g.aggcombinefn::regproc, g.agginitval, g.aggkind
            ) FROM pg_aggregate AS g WHERE g.aggfnoid = f.oid
        )
        ELSE pg_get_functiondef(f.oid)
    END, '{}'
FROM pg_proc AS f JOIN own AS o ON o.oid = f.pronamespace
-- 'i': the constructors of a range type come and go with it.
WHERE NOT EXISTS (
    SELECT FROM pg_depend AS d WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.deptype IN ('e', 'i')
)
UNION ALL
SELECT
    CASE t.typtype WHEN 'd' THEN 'domain' WHEN 'e' THEN 'enum' WHEN 'c' THEN 'composite type' WHEN 'r' THEN 'range' ELSE 'base type' END,
    format('%I.%I', o.nspname, t.typname), t.oid::bigint,
    CASE t.typtype
        WHEN 'd' THEN
            format('CREATE DOMAIN %I.%I AS %s', o.nspname, t.typname, format_type(t.typbasetype, t.typtypmod))
            || CASE WHEN t.typcollation <> base.typcollation THEN (
                SELECT format(' COLLATE %I.%I', cn.nspname, co.collname)
                FROM pg_collation AS co JOIN pg_namespace AS cn ON cn.oid = co.collnamespace WHERE co.oid = t.typcollation
            ) ELSE '' END
            || coalesce(' DEFAULT ' || pg_get_expr(t.typdefaultbin, 0), '')
            || CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END
            || coalesce((
                SELECT string_agg(format(' CONSTRAINT %I %s', k.conname, pg_get_constraintdef(k.oid)), '' ORDER BY k.conname COLLATE "C")
                FROM pg_constraint AS k WHERE k.contypid = t.oid AND k.contype = 'c'
            ), '')
        WHEN 'e' THEN format('CREATE TYPE %I.%I AS ENUM (', o.nspname, t.typname) || coalesce((
            SELECT string_agg(quote_literal(l.enumlabel), ', ' ORDER BY l.enumsortorder) FROM pg_enum AS l WHERE l.enumtypid = t.oid
        ), '') || ')'
        WHEN 'c' THEN format('CREATE TYPE %I.%I AS (', o.nspname, t.typname) || coalesce((
            SELECT string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum)
            FROM pg_attribute AS a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
        ), '') || ')'
        WHEN 'r' THEN (
            SELECT format('CREATE TYPE %I.%I AS RANGE (SUBTYPE = %s, CANONICAL = %s, SUBTYPE_DIFF = %s)', o.nspname, t.typname,
                format_type(r.rngsubtype, NULL), r.rngcanonical::regproc, r.rngsubdiff::regproc)
            FROM pg_range AS r WHERE r.rngtypid = t.oid
        )
        ELSE format('CREATE TYPE %I.%I (INPUT = %s, OUTPUT = %s)', o.nspname, t.typname, t.typinput, t.typoutput)
    END, '{}'
FROM pg_type AS t
JOIN own AS o ON o.oid = t.typnamespace
LEFT JOIN pg_type AS base ON base.oid = t.typbasetype
LEFT JOIN pg_class AS c ON c.oid = t.typrelid
WHERE (t.typtype IN ('d', 'e', 'r') OR (t.typtype = 'c' AND c.relkind = 'c') OR (t.typtype = 'b' AND t.typelem = 0))
    AND ('pg_type'::regclass::oid, t.oid) NOT IN (SELECT classid, objid FROM members)
