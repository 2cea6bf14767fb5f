-- The session's search_path as its schemas, without pg_catalog (which is first where it is not named) and pg_temp.
SELECT coalesce(string_agg(pg_catalog.quote_ident(s.name), ', ' ORDER BY s.position), '')
  FROM unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY AS s (name, position)
 WHERE s.name <> 'pg_catalog' AND s.name !~ '^pg_temp'
