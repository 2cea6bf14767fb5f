-- The rest of the system catalogs, so that no change escapes: kind and name as PostgreSQL identifies the object, and
-- the catalog row itself as its definition (of use within one database only: it carries OIDs).
WITH rest (class, oid, content) AS (
    SELECT 'pg_operator'::regclass, o.oid, to_jsonb(o) FROM pg_operator AS o
    UNION ALL SELECT 'pg_opclass'::regclass, o.oid, to_jsonb(o) FROM pg_opclass AS o
    UNION ALL SELECT 'pg_opfamily'::regclass, o.oid, to_jsonb(o) FROM pg_opfamily AS o
    UNION ALL SELECT 'pg_amop'::regclass, o.oid, to_jsonb(o) FROM pg_amop AS o
    UNION ALL SELECT 'pg_amproc'::regclass, o.oid, to_jsonb(o) FROM pg_amproc AS o
    UNION ALL SELECT 'pg_am'::regclass, o.oid, to_jsonb(o) FROM pg_am AS o
    UNION ALL SELECT 'pg_cast'::regclass, o.oid, to_jsonb(o) FROM pg_cast AS o
    UNION ALL SELECT 'pg_transform'::regclass, o.oid, to_jsonb(o) FROM pg_transform AS o
    UNION ALL SELECT 'pg_collation'::regclass, o.oid, to_jsonb(o) FROM pg_collation AS o
    UNION ALL SELECT 'pg_conversion'::regclass, o.oid, to_jsonb(o) FROM pg_conversion AS o
    UNION ALL SELECT 'pg_language'::regclass, o.oid, to_jsonb(o) FROM pg_language AS o
    UNION ALL SELECT 'pg_ts_config'::regclass, o.oid, to_jsonb(o) || jsonb_build_object('map', (
        SELECT jsonb_agg(to_jsonb(m) ORDER BY m.maptokentype, m.mapseqno) FROM pg_ts_config_map AS m WHERE m.mapcfg = o.oid
    )) FROM pg_ts_config AS o
    UNION ALL SELECT 'pg_ts_dict'::regclass, o.oid, to_jsonb(o) FROM pg_ts_dict AS o
    UNION ALL SELECT 'pg_ts_parser'::regclass, o.oid, to_jsonb(o) FROM pg_ts_parser AS o
    UNION ALL SELECT 'pg_ts_template'::regclass, o.oid, to_jsonb(o) FROM pg_ts_template AS o
    UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, o.oid, to_jsonb(o) - 'fdwoptions' FROM pg_foreign_data_wrapper AS o
    UNION ALL SELECT 'pg_foreign_server'::regclass, o.oid, to_jsonb(o) - 'srvoptions' FROM pg_foreign_server AS o
    UNION ALL SELECT 'pg_event_trigger'::regclass, o.oid, to_jsonb(o) FROM pg_event_trigger AS o
    UNION ALL SELECT 'pg_default_acl'::regclass, o.oid, to_jsonb(o) FROM pg_default_acl AS o
    UNION ALL SELECT 'pg_publication'::regclass, o.oid, to_jsonb(o) FROM pg_publication AS o
)
SELECT i.type AS kind, i.identity AS name, r.oid::bigint AS oid, r.content::text AS definition
FROM rest AS r
CROSS JOIN LATERAL pg_identify_object(r.class, r.oid, 0) AS i
WHERE r.oid >= 16384
    AND i.schema IS DISTINCT FROM 'lockstep'
    AND NOT EXISTS (SELECT FROM pg_depend AS e WHERE e.classid = r.class AND e.objid = r.oid AND e.deptype IN ('e', 'i'))
