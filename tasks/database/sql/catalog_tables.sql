-- Tables of the user: one row each. Sizes are the planner's estimates in pg_class: reading them takes no lock.
SELECT
    c.oid::bigint AS oid,
    n.nspname AS schema,
    c.relname AS name,
    c.relkind::text AS kind,
    c.relpersistence::text AS persistence,
    pg_get_userbyid(c.relowner)::text AS owner,
    c.relrowsecurity AS row_security,
    CASE c.relreplident
        WHEN 'i' THEN 'i ' || coalesce((
            SELECT quote_ident(ic.relname)
            FROM pg_index AS i JOIN pg_class AS ic ON ic.oid = i.indexrelid
            WHERE i.indrelid = c.oid AND i.indisreplident
        ), '?')
        ELSE c.relreplident::text
    END AS replica_identity,
    array(
        SELECT option FROM (
            SELECT unnest(c.reloptions)
            UNION ALL
            SELECT 'toast.' || unnest(t.reloptions)
            UNION ALL
            SELECT 'access_method=' || am.amname FROM pg_am AS am WHERE am.oid = c.relam AND am.amname <> 'heap'
            UNION ALL
            SELECT 'tablespace=' || ts.spcname FROM pg_tablespace AS ts WHERE ts.oid = c.reltablespace
            UNION ALL
            SELECT 'force_row_security=true' WHERE c.relforcerowsecurity
            UNION ALL
            SELECT 'of=' || format_type(c.reloftype, NULL) WHERE c.reloftype <> 0
            UNION ALL
            SELECT 'partition_key=' || pg_get_partkeydef(c.oid) WHERE c.relkind = 'p'
            UNION ALL
            SELECT 'partition_bound=' || pg_get_expr(c.relpartbound, c.oid) WHERE c.relispartition
            UNION ALL
            SELECT 'clustered_on=' || quote_ident(ic.relname)
            FROM pg_index AS i JOIN pg_class AS ic ON ic.oid = i.indexrelid
            WHERE i.indrelid = c.oid AND i.indisclustered
            UNION ALL
            SELECT 'server=' || quote_ident(s.srvname)
            FROM pg_foreign_table AS ft JOIN pg_foreign_server AS s ON s.oid = ft.ftserver
            WHERE ft.ftrelid = c.oid
            UNION ALL
            SELECT 'foreign.' || unnest(ft.ftoptions) FROM pg_foreign_table AS ft WHERE ft.ftrelid = c.oid
        ) AS all_options (option)
        ORDER BY option COLLATE "C"
    ) AS options,
    array(
        SELECT statement FROM (
            SELECT
                acl.grantee,
                format(
                    'GRANT %s ON TABLE %I.%I TO %s%s',
                    acl.privilege_type, n.nspname, c.relname,
                    CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(acl.grantee)) END,
                    CASE WHEN acl.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
                )
            FROM aclexplode(c.relacl) AS acl
            UNION ALL
            SELECT
                acl.grantee,
                format(
                    'GRANT %s (%I) ON TABLE %I.%I TO %s%s',
                    acl.privilege_type, a.attname, n.nspname, c.relname,
                    CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(acl.grantee)) END,
                    CASE WHEN acl.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
                )
            FROM pg_attribute AS a, aclexplode(a.attacl) AS acl
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        ) AS granted (grantee, statement)
        WHERE granted.grantee <> c.relowner
        ORDER BY statement COLLATE "C"
    ) AS grants,
    c.relispartition AS is_partition,
    array(
        SELECT ARRAY[pn.nspname::text, pc.relname::text]
        FROM pg_inherits AS i
        JOIN pg_class AS pc ON pc.oid = i.inhparent
        JOIN pg_namespace AS pn ON pn.oid = pc.relnamespace
        WHERE i.inhrelid = c.oid
        ORDER BY i.inhseqno
    ) AS parents,
    obj_description(c.oid, 'pg_class') AS comment,
    greatest(c.reltuples, 0)::bigint AS rows,
    c.relnatts::int AS attributes,
    (c.relpages::bigint + coalesce(t.relpages, 0)) * current_setting('block_size')::bigint AS bytes,
    coalesce(t.relpages, 0) * current_setting('block_size')::bigint AS toast_bytes
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_class AS t ON t.oid = c.reltoastrelid
WHERE c.relkind IN ('r', 'p', 'f')
    AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'lockstep')
    AND coalesce(c.oid = ANY ((SELECT nullif(current_setting('lockstep.only', true), ''))::oid[]), true)
    AND NOT EXISTS (
        SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
    )
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"
