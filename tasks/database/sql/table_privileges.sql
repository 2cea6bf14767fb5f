-- What the present role lacks on a table; no row when the table does not exist.
SELECT current_user::text                                 AS role,
       owner.rolname::text                                AS owner,
       owner.rolsuper                                     AS owner_is_superuser,
       pg_has_role(current_user, owner.oid, 'USAGE')      AS owns,
       has_schema_privilege(schema.oid, 'CREATE')         AS may_create,
       row_security_active(relation.oid)                  AS hides_rows
  FROM pg_class AS relation
  JOIN pg_namespace AS schema ON schema.oid = relation.relnamespace
  JOIN pg_roles AS owner ON owner.oid = relation.relowner
 WHERE schema.nspname = %(schema)s AND relation.relname = %(name)s
