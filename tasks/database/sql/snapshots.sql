-- name: sight
SELECT pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')

-- name: mark
-- The transaction that ended the migration's last finished phase: it wrote that phase's row.
SELECT p.xmin::text AS mark FROM lockstep.phase AS p WHERE p.migration = %(name)s AND p.state = 'done'
 ORDER BY age(p.xmin) LIMIT 1

-- name: now
-- Asked for when the mark has ended. No snapshot taken later calls an older transaction running than this one.
SELECT clock_timestamp() AS since, pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::xid::text AS running

-- name: older
-- Who looks at the database as it was before that transaction ended: a snapshot does not see what it calls running or
-- yet to come. While a transaction runs that is older than the mark, in whichever database, every new snapshot looks as
-- old: those of transactions begun since are let be, unless they call still older ones running (an imported snapshot).
-- A standby's queries show by hot_standby_feedback (datid 0; of one with a slot, see older_slots). Of Lockstep's own sessions none keeps a snapshot.
SELECT a.pid, coalesce(a.application_name, '') AS application,
       coalesce(pg_catalog.pg_get_userbyid(a.usesysid)::text, '') AS role, coalesce(a.state, a.backend_type, '') AS state,
       extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, a.state_change, a.backend_start))::float8 AS seconds,
       coalesce(a.query, '') AS query, NULL::text AS waiting_for
  FROM pg_catalog.pg_stat_get_activity(NULL) AS a
 WHERE a.pid <> pg_catalog.pg_backend_pid() AND age(a.backend_xmin) >= age(%(mark)s::xid)
   AND (coalesce(a.xact_start, '-infinity') <= %(since)s OR age(a.backend_xmin) > age(%(running)s::xid))
   AND (coalesce(a.datid, 0) = 0
        OR a.datid = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = current_database()))
   AND a.backend_type <> 'autovacuum worker'
   AND a.pid NOT IN (SELECT v.pid FROM pg_catalog.pg_stat_get_progress_info('VACUUM') AS v)
 ORDER BY 5 DESC NULLS LAST

-- name: older_slots
-- A standby that uses a slot reports its queries' oldest snapshot there.
SELECT concat('the standby of the ', CASE WHEN NOT s.active THEN 'inactive ' END, 'replication slot ', s.slot_name,
              ' (hot_standby_feedback)')
  FROM pg_catalog.pg_replication_slots AS s
 WHERE s.slot_type = 'physical' AND age(s.xmin) >= age(%(mark)s::xid)
 ORDER BY age(s.xmin) DESC
