-- name: exists
-- Asked of pg_class, because to_regclass fails for a role without USAGE on the schema.
SELECT EXISTS (SELECT FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                WHERE n.nspname = 'lockstep' AND c.relname = 'migration')

-- name: version
SELECT max(version) FROM lockstep.version

-- name: lock_ledger
-- One register or install at a time in this database; the number is "lockstep" as ASCII.
SELECT pg_catalog.pg_advisory_xact_lock(7813876170298582384)

-- name: now
SELECT clock_timestamp()

-- name: migration
SELECT name, state, plan, spec, change_hash, token, switched_at, created_at, updated_at, error
  FROM lockstep.migration WHERE name = %(name)s

-- name: migrations
SELECT name, state, plan, spec, change_hash, token, switched_at, created_at, updated_at, error
  FROM lockstep.migration ORDER BY created_at, name

-- name: latest_migrations
SELECT name, state, plan, spec, change_hash, token, switched_at, created_at, updated_at, error
  FROM lockstep.migration ORDER BY created_at DESC, name LIMIT %(most)s

-- name: migration_for_update
SELECT name, state, plan, spec, change_hash, token, switched_at, created_at, updated_at, error
  FROM lockstep.migration WHERE name = %(name)s FOR UPDATE

-- name: conflicting
SELECT name, state, tables FROM lockstep.migration
 WHERE name <> %(name)s AND state = ANY (%(unfinished)s) AND tables && %(tables)s::text[]
 ORDER BY name LIMIT 1

-- name: conflicting_with_own_tables
SELECT other.name, other.state, other.tables
  FROM lockstep.migration AS own JOIN lockstep.migration AS other ON other.name <> own.name AND other.tables && own.tables
 WHERE own.name = %(name)s AND other.state = ANY (%(unfinished)s)
 ORDER BY other.name LIMIT 1

-- name: insert_migration
INSERT INTO lockstep.migration (name, state, plan, spec, change_hash, tables)
VALUES (%(name)s, 'planned', %(plan)s, %(spec)s, %(change_hash)s, %(tables)s)

-- name: replace_migration
-- The token is raised, so that a runner of the former plan cannot act any more.
UPDATE lockstep.migration
   SET state = 'planned', plan = %(plan)s, spec = %(spec)s, change_hash = %(change_hash)s, tables = %(tables)s,
       token = token + 1, switched_at = NULL, error = NULL, created_at = clock_timestamp(), updated_at = clock_timestamp()
 WHERE name = %(name)s

-- name: set_plan
UPDATE lockstep.migration SET plan = %(plan)s, spec = %(spec)s, updated_at = clock_timestamp() WHERE name = %(name)s

-- name: forget_run
WITH phases AS (DELETE FROM lockstep.phase WHERE migration = %(name)s),
     progress AS (DELETE FROM lockstep.progress WHERE migration = %(name)s),
     gates AS (DELETE FROM lockstep.gate_result WHERE migration = %(name)s),
     approvals AS (DELETE FROM lockstep.approval WHERE migration = %(name)s),
     failures AS (DELETE FROM lockstep.sync_failure WHERE migration = %(name)s),
     throttle AS (DELETE FROM lockstep.throttle WHERE migration = %(name)s)
DELETE FROM lockstep.old_write WHERE migration = %(name)s

-- name: insert_phase
INSERT INTO lockstep.phase (migration, phase, position) VALUES (%(name)s, %(phase)s, %(position)s)

-- name: insert_step
INSERT INTO lockstep.step (migration, phase, step, position) VALUES (%(name)s, %(phase)s, %(step)s, %(position)s)

-- name: set_state
UPDATE lockstep.migration SET state = %(state)s, error = %(error)s, updated_at = clock_timestamp() WHERE name = %(name)s

-- name: set_switched
UPDATE lockstep.migration SET switched_at = clock_timestamp(), updated_at = clock_timestamp()
 WHERE name = %(name)s AND switched_at IS NULL

-- name: clear_switched
UPDATE lockstep.migration SET switched_at = NULL, updated_at = clock_timestamp() WHERE name = %(name)s

-- name: phases
SELECT phase, position, state, attempts, started_at, finished_at, error
  FROM lockstep.phase WHERE migration = %(name)s ORDER BY position

-- name: phase_state
SELECT state FROM lockstep.phase WHERE migration = %(name)s AND phase = %(phase)s FOR UPDATE

-- name: phase_running
UPDATE lockstep.phase
   SET state = 'running', attempts = attempts + 1, started_at = clock_timestamp(), finished_at = NULL, error = NULL
 WHERE migration = %(name)s AND phase = %(phase)s

-- name: phase_ended
UPDATE lockstep.phase SET state = %(state)s, finished_at = clock_timestamp(), error = %(error)s
 WHERE migration = %(name)s AND phase = %(phase)s

-- name: steps
SELECT phase, step, position, state, undone, started_at, finished_at
  FROM lockstep.step WHERE migration = %(name)s ORDER BY position

-- name: step
SELECT phase, step, position, state, undone, started_at, finished_at
  FROM lockstep.step WHERE migration = %(name)s AND step = %(step)s

-- name: step_state
SELECT state FROM lockstep.step WHERE migration = %(name)s AND step = %(step)s FOR UPDATE

-- name: step_running
UPDATE lockstep.step
   SET state = 'running', undone = 0, finished_at = NULL,
       started_at = CASE WHEN state = 'running' THEN started_at ELSE clock_timestamp() END
 WHERE migration = %(name)s AND step = %(step)s

-- name: step_ended
UPDATE lockstep.step SET state = %(state)s, finished_at = clock_timestamp()
 WHERE migration = %(name)s AND step = %(step)s

-- name: step_undone_actions
UPDATE lockstep.step SET undone = %(undone)s WHERE migration = %(name)s AND step = %(step)s

-- name: forget_progress
DELETE FROM lockstep.progress WHERE migration = %(name)s AND step = %(step)s

-- name: progress
SELECT step, cursor, rows_done, rows_total, updated_at
  FROM lockstep.progress WHERE migration = %(name)s ORDER BY step

-- name: gates
SELECT phase, gate, success, result, at FROM lockstep.gate_result WHERE migration = %(name)s ORDER BY id

-- name: record_gate
INSERT INTO lockstep.gate_result (migration, phase, gate, success, result)
VALUES (%(name)s, %(phase)s, %(gate)s, %(success)s, %(result)s)

-- name: approvals
SELECT phase, decision, who, why, waive_soak, at FROM lockstep.approval WHERE migration = %(name)s ORDER BY id

-- name: approve
INSERT INTO lockstep.approval (migration, phase, decision, who, why, waive_soak)
VALUES (%(name)s, %(phase)s, %(decision)s, %(who)s, %(why)s, %(waive_soak)s)

-- name: events
SELECT id, at, kind, detail FROM lockstep.event WHERE migration = %(name)s ORDER BY id

-- name: event
INSERT INTO lockstep.event (migration, kind, detail) VALUES (%(name)s, %(kind)s, %(detail)s)

-- name: failures
SELECT table_name AS "table", direction, kind, count(*) AS "count",
       coalesce((array_agg(DISTINCT key) FILTER (WHERE key IS NOT NULL))[1:10], '{}') AS sample
  FROM lockstep.sync_failure
 WHERE migration = %(name)s AND resolved_at IS NULL
 GROUP BY table_name, direction, kind ORDER BY 1, 2, 3

-- name: holder
SELECT token, host, pid, started_at, since, expires_at, expires_at <= clock_timestamp() AS expired,
       greatest(extract(epoch FROM expires_at - clock_timestamp()), 0)::float8 AS remaining
  FROM lockstep.lease WHERE migration = %(name)s

-- name: by_hand
SELECT count(*) AS steps FROM lockstep.runbook WHERE migration = %(name)s

-- name: has_table
-- A ledger of version 1 has no throttle, and none before version 3 a runbook.
SELECT EXISTS (SELECT FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                WHERE n.nspname = 'lockstep' AND c.relname = %(table)s)

-- name: throttle
SELECT limits, paused_at, paused_by, paused_why, reasons, since, load, looked_at
  FROM lockstep.throttle WHERE migration = %(name)s

-- name: pause
INSERT INTO lockstep.throttle AS t (migration, paused_at, paused_by, paused_why)
VALUES (%(name)s, clock_timestamp(), %(who)s, %(why)s)
    ON CONFLICT (migration) DO UPDATE
   SET paused_at = coalesce(t.paused_at, excluded.paused_at), paused_by = excluded.paused_by,
       paused_why = excluded.paused_why

-- name: resume
UPDATE lockstep.throttle SET paused_at = NULL, paused_by = NULL, paused_why = NULL
 WHERE migration = %(name)s AND paused_at IS NOT NULL

-- name: set_limits
INSERT INTO lockstep.throttle (migration, limits) VALUES (%(name)s, %(limits)s)
    ON CONFLICT (migration) DO UPDATE SET limits = excluded.limits

-- name: record_look
INSERT INTO lockstep.throttle AS t (migration, reasons, since, load, looked_at)
VALUES (%(name)s, %(reasons)s, CASE WHEN %(waits)s THEN clock_timestamp() END, %(load)s, clock_timestamp())
    ON CONFLICT (migration) DO UPDATE
   SET reasons = excluded.reasons, load = excluded.load, looked_at = excluded.looked_at,
       since = CASE WHEN %(waits)s THEN coalesce(t.since, excluded.since) END
