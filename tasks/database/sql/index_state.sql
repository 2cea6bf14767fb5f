SELECT i.indisvalid AND i.indisready AS valid, i.indrelid = t.oid AS same_table, pg_catalog.pg_get_indexdef(i.indexrelid) AS definition
  FROM pg_catalog.pg_index AS i
  JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_class AS t ON t.relname = %(table)s AND t.relnamespace = n.oid
 WHERE n.nspname = %(schema)s AND c.relname = %(index)s
