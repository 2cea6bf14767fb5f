-- name: look
-- One row: what the throttle watches. Functions instead of the views over them where those join more than is asked.
-- Without pg_read_all_stats other roles' rows of pg_stat_activity and pg_stat_replication are empty: `sees_all` says so.
-- Lockstep's own sessions do not count.
WITH session AS MATERIALIZED (
    SELECT a.pid, a.datid, a.usesysid, a.application_name, a.state, a.wait_event_type, a.xact_start, a.backend_type,
           greatest(age(a.backend_xmin), age(a.backend_xid)) AS age,
           a.datid = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = current_database()) AS is_here
      FROM pg_catalog.pg_stat_get_activity(NULL) AS a
     WHERE a.pid <> pg_catalog.pg_backend_pid()
), sight AS (
    SELECT pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_all
), slot AS MATERIALIZED (
    SELECT s.slot_name, s.slot_type, s.active, s.active_pid, s.xmin, s.restart_lsn
      FROM pg_catalog.pg_replication_slots AS s WHERE s.wal_status IS DISTINCT FROM 'lost'
), holder AS (
    -- A snapshot of another database holds nothing back here; that of a standby (hot_standby_feedback, datid 0) does.
    -- Of the sessions that VACUUM itself passes over, only those that are told apart cheaply are left out.
    SELECT s.age, s.xact_start AS since,
           CASE WHEN s.backend_type = 'walsender' THEN format('the standby %s (hot_standby_feedback)', s.application_name)
                ELSE format('pid %s (application %s, role %s, %s)', s.pid, coalesce(nullif(s.application_name, ''), '-'),
                            coalesce(pg_catalog.pg_get_userbyid(s.usesysid), '-'), coalesce(s.state, s.backend_type)) END AS who
      FROM session AS s
     WHERE s.age IS NOT NULL AND (s.is_here OR coalesce(s.datid, 0) = 0)
       AND s.backend_type <> 'autovacuum worker'
       AND s.pid NOT IN (SELECT v.pid FROM pg_catalog.pg_stat_get_progress_info('VACUUM') AS v)
    UNION ALL
    SELECT age(s.xmin), NULL, format('the %sreplication slot %s', CASE WHEN NOT s.active THEN 'inactive ' END, s.slot_name)
      FROM slot AS s WHERE s.xmin IS NOT NULL
    UNION ALL
    SELECT age(x.transaction), x.prepared, format('the prepared transaction %s', x.gid)
      FROM pg_catalog.pg_prepared_xacts AS x WHERE x.database = current_database()
)
SELECT sight.sees_all,
       pg_catalog.pg_wal_lsn_diff(here.lsn, '0/0')::bigint AS wal,
       pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint AS xid,
       (SELECT coalesce(json_agg(json_build_object(
                   'name', coalesce(nullif(r.application_name, ''), r.client_addr::text, r.pid::text),
                   'wal', pg_catalog.pg_wal_lsn_diff(r.replay_lsn, '0/0')::bigint,
                   'seconds', extract(epoch FROM r.replay_lag)::float8)), '[]')
          FROM pg_catalog.pg_stat_replication AS r
         WHERE r.replay_lsn IS NOT NULL
           AND r.pid NOT IN (SELECT s.active_pid FROM slot AS s WHERE s.slot_type = 'logical' AND s.active_pid IS NOT NULL)
       ) AS replicas,
       (SELECT coalesce(json_agg(json_build_object(
                   'name', s.slot_name, 'active', s.active,
                   'bytes', greatest(pg_catalog.pg_wal_lsn_diff(here.lsn, s.restart_lsn), 0)::bigint)), '[]')
          FROM slot AS s WHERE s.restart_lsn IS NOT NULL) AS slots,
       CASE WHEN sight.sees_all
            THEN (SELECT count(*) FROM session AS s
                   WHERE s.wait_event_type = 'Lock' AND s.is_here AND NOT starts_with(s.application_name, 'lockstep:'))
            ELSE (SELECT count(DISTINCT l.pid) FROM pg_catalog.pg_locks AS l WHERE NOT l.granted) END AS lock_waiters,
       CASE WHEN sight.sees_all
            THEN (SELECT count(*) FROM session AS s
                   WHERE s.state = 'active' AND s.backend_type = 'client backend'
                     AND NOT starts_with(s.application_name, 'lockstep:')) END AS active_sessions,
       (SELECT json_build_object('who', h.who, 'age', h.age,
                   'seconds', extract(epoch FROM clock_timestamp() - h.since)::float8)
          FROM holder AS h ORDER BY h.age DESC LIMIT 1) AS oldest
  FROM sight, (SELECT pg_catalog.pg_current_wal_insert_lsn() AS lsn) AS here
