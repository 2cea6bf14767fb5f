-- name: table
-- The schema, whether the present role may read the table, and its columns. Where no schema is given it is the first of
-- the search_path that exists, as for Flyway.
SELECT namespace.nspname::text,
       has_schema_privilege(namespace.oid, 'USAGE') AND has_table_privilege(relation.oid, 'SELECT'),
       ARRAY(SELECT attname::text
               FROM pg_catalog.pg_attribute
              WHERE attrelid = relation.oid AND attnum > 0 AND NOT attisdropped)
  FROM pg_catalog.pg_class AS relation
  JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = relation.relnamespace
 WHERE namespace.nspname = coalesce(%(schema)s::text, current_schema()::text)
   AND relation.relname = %(table)s
   AND relation.relkind IN ('r', 'p', 'v')

-- name: elsewhere
-- Other schemas with a table of this name that could be a history.
SELECT namespace.nspname::text
  FROM pg_catalog.pg_class AS relation
  JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = relation.relnamespace
  JOIN pg_catalog.pg_attribute AS rank ON rank.attrelid = relation.oid AND rank.attname = 'installed_rank'
 WHERE relation.relname = %(table)s
   AND relation.relkind IN ('r', 'p', 'v')
 ORDER BY 1

-- name: writable
-- Whether the present role may write rows into the table and take them back, and whether it is in the schema in which
-- names without a schema are looked up first.
SELECT has_table_privilege(relation.oid, 'INSERT') AND has_table_privilege(relation.oid, 'DELETE'),
       relation.relkind = 'r',
       namespace.nspname = current_schema()
  FROM pg_catalog.pg_class AS relation
  JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = relation.relnamespace
 WHERE namespace.nspname = %(schema)s
   AND relation.relname = %(table)s
