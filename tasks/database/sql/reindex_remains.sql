-- What a REINDEX CONCURRENTLY that did not end left on a table: invalid twins called …_ccnew or …_ccold.
SELECT c.relname::text
  FROM pg_catalog.pg_index AS i
  JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
  JOIN pg_catalog.pg_class AS t ON t.oid = i.indrelid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = t.relnamespace
 WHERE n.nspname = %(schema)s AND t.relname = %(table)s AND NOT i.indisvalid
 ORDER BY c.relname
