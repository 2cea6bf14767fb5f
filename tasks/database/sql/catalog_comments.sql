-- Comments on what the other queries do not carry them for.
SELECT 'comment' AS kind, i.type || ' ' || i.identity AS name, d.objoid::bigint AS oid, d.description AS definition
FROM pg_description AS d
CROSS JOIN LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) AS i
LEFT JOIN pg_class AS c ON d.classoid = 'pg_class'::regclass AND c.oid = d.objoid
LEFT JOIN pg_class AS ic_table
    ON ic_table.oid = (SELECT ix.indrelid FROM pg_index AS ix WHERE ix.indexrelid = c.oid)
LEFT JOIN pg_constraint AS k ON d.classoid = 'pg_constraint'::regclass AND k.oid = d.objoid
WHERE d.objoid >= 16384
    AND coalesce(c.relkind NOT IN ('r', 'p', 'f'), true)
    AND coalesce(ic_table.relkind NOT IN ('r', 'p', 'f'), true)
    AND coalesce(k.conrelid, 0) = 0
    AND i.schema IS DISTINCT FROM 'lockstep' AND i.identity NOT LIKE '%lockstep.%'
    AND i.identity <> 'lockstep'
    AND NOT EXISTS (SELECT FROM pg_depend AS e WHERE e.classid = d.classoid AND e.objid = d.objoid AND e.deptype = 'e')
