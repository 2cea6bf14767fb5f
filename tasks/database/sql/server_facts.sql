-- What a server and this session on it are.
SELECT current_setting('server_version_num')::int                    AS version,
       current_setting('server_version')                             AS version_text,
       current_database()::text                                      AS database,
       current_user::text                                            AS role,
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)  AS superuser,
       pg_is_in_recovery()                                           AS in_recovery,
       current_setting('default_transaction_read_only')::bool        AS read_only,
       current_setting('wal_level')                                  AS wal_level,
       current_setting('max_connections')::int                       AS max_connections,
       current_setting('max_prepared_transactions')::int             AS max_prepared_transactions,
       current_setting('max_replication_slots')::int                 AS max_replication_slots,
       pg_backend_pid()                                              AS backend_pid
