-- A type, and what it is at the bottom when it is a domain: both as format_type prints them.
WITH RECURSIVE chain AS (
    SELECT type.oid, type.typtype, type.typbasetype, type.typtypmod, %s::text AS text, 0 AS depth
      FROM pg_type AS type
     WHERE type.oid = to_regtype(%s)
    UNION ALL
    SELECT type.oid, type.typtype, type.typbasetype, type.typtypmod,
           format_type(chain.typbasetype, chain.typtypmod), chain.depth + 1
      FROM chain
      JOIN pg_type AS type ON chain.typtype = 'd' AND type.oid = chain.typbasetype
)
SELECT text FROM chain ORDER BY depth DESC LIMIT 1
