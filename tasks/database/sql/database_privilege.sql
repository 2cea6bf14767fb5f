-- May the present role make the schema of the ledger, or, where it exists, objects in it?
SELECT current_database()::text AS database,
       current_user::text       AS role,
       to_regnamespace(%(schema)s) IS NOT NULL
           OR has_database_privilege(current_database(), 'CREATE')                                   AS may_create_schema,
       coalesce(has_schema_privilege(to_regnamespace(%(schema)s)::oid, 'CREATE')
                    AND has_schema_privilege(to_regnamespace(%(schema)s)::oid, 'USAGE'), true)       AS may_create_in_schema
